"""Which member of a family is trained, and for how long: decided by the speed of its training, which is measured."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from official.core import config_definitions as cfg

from asvit_tf.design.topology import STRIDE, Topology
from asvit_tf.tasks import plans, schedules
from asvit_tf.training import rehearsal
from search.runs import timetable

_ENOUGH_EPOCHS = 60  # Of a small network; with fewer, half the tokens a side brought more in the same time.
# Of the member that is trained: the held-out accuracy of a larger one, with 28, stood still from the 20th on.
_MEMBER_EPOCHS = 40
_LEAST_TOKENS = 8  # A side, at the finest tokenization.


def base_stride(
    fitting: int,
    image_size: tuple[int, int],
    experiment: Callable[[int], cfg.ExperimentConfig],
    validation_examples: int,
    available_seconds: float,
    *,
    enough_epochs: int | None,
    say: Callable[[str], None],
) -> int:
    """The least base stride, from the fitting one, at which a small network is trained for enough epochs.

    On CIFAR-10 in 0.2 hours of two cores, three epochs at 16 x 16 tokens ended at 50.8 %, six at 8 x 8 at 57.1 %
    (docs/benchmarks.md, "Photographs").

    Args:
      fitting: Base stride by the image size.
      image_size: Rows and columns, in pixels.
      experiment: What trains a small network at a base stride.
      validation_examples: Images of an evaluation.
      available_seconds: For training and evaluating.
      enough_epochs: Epochs that were asked for; None for as many as photographs need.
      say: Receives a line before each measurement.
    """
    epochs = enough_epochs or _ENOUGH_EPOCHS
    stride = fitting
    while stride < STRIDE and min(image_size) // (2 * stride) >= _LEAST_TOKENS:
        params = experiment(stride)
        say(f"measuring the speed of a small network at a base stride of {stride}")
        speed = rehearsal.rehearse(params, validation_examples)
        evaluation = speed.evaluation_seconds * validation_examples
        if _training_seconds(params, speed, evaluation, epochs) <= available_seconds:
            break
        stride *= 2
    return stride


def choose(
    family: Sequence[dict[str, Any]],
    experiment: Callable[[Topology, int | None], cfg.ExperimentConfig],
    validation_examples: int,
    available_seconds: float,
    *,
    enough_epochs: int | None,
    say: Callable[[str], None],
) -> timetable.Choice:
    """The member to train, and its epochs: the largest is tried out, then whichever is chosen, until that was.

    Args:
      family: Members with `topology` and `macs`, from the smallest to the largest.
      experiment: What trains a topology for so many epochs; None for as many as the recipe says.
      validation_examples: Images of an evaluation.
      available_seconds: For measuring, training and evaluating.
      enough_epochs: Epochs that were asked for, which it then has; None for as many as photographs need, or more.
      say: Receives a line before each measurement.
    """
    started, member = time.monotonic(), len(family) - 1
    recipe = experiment(Topology.parse(family[member]["topology"]), enough_epochs)
    enough = epochs = enough_epochs or max(_MEMBER_EPOCHS, plans.epochs_of(recipe))
    tried: list[tuple[int, Any]] = []
    measured: dict[int, Callable[[int], float]] = {}
    choice: timetable.Choice | None = None
    while True:
        params = experiment(Topology.parse(family[member]["topology"]), epochs)
        # Long trainings augment more, and begin with few tokens. Two of one member are enough: it may be at the border.
        reading = [params.task.train_data.as_dict(), params.task.retokenization.as_dict()]
        known = (member, reading) in tried or sum(member == before for before, _ in tried) == 2
        if choice is not None and known:
            return choice
        tried.append((member, reading))
        say(f"measuring the speed of {family[member]['topology']}")
        speed = rehearsal.rehearse(params, validation_examples)
        evaluation = speed.evaluation_seconds * validation_examples
        measured[member] = functools.partial(_training_seconds, params, speed, evaluation)
        choice = timetable.choose(
            macs=[each["macs"] for each in family],
            training_seconds=measured,
            available_seconds=available_seconds - (time.monotonic() - started) - evaluation,  # The report asks again.
            enough_epochs=enough,
            least_epochs=len(schedules.schedule_of(params).phases),
            is_asked=enough_epochs is not None,
        )
        member, epochs = choice.member, choice.epochs


def _training_seconds(
    params: cfg.ExperimentConfig, speed: rehearsal.Speed, evaluation_seconds: float, epochs: int
) -> float:
    """Of so many epochs of an experiment, at the speed that was measured."""
    schedule, steps = schedules.schedule_of(params), params.trainer.train_steps
    step_seconds = speed.training_seconds(schedule, steps) / steps
    trained = step_seconds * epochs * params.trainer.steps_per_loop
    return speed.tracing_seconds + trained + plans.evaluations(epochs) * evaluation_seconds
