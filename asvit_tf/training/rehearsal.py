"""How fast a training will be: a few of its steps at every tokenization, run beforehand and thrown away."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import time

import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg

from asvit_tf import traces
from asvit_tf.design.grids import ceil_div
from asvit_tf.design.retokenization import Schedule
from asvit_tf.precision import mixed_precision
from asvit_tf.tasks import schedules
from asvit_tf.training.display.log_file import captured
from asvit_tf.training.session import connected

# Steps of the blocks at each tokenization. The first traces, in the second images are still being read ahead; the last
# two tell what a step takes from what every block does.
_BLOCKS = (6, 6, 6, 18)
_BATCHES, _MORE_BATCHES = 1, 6  # Of an evaluation: its beginning takes a second or two, which is not every batch's.


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds of a training, as a rehearsal had them.

    Attributes:
      step_seconds: Of a training step, by stride.
      tracing_seconds: Once for each tokenization, all together, and once for the evaluation.
      evaluation_seconds: Of an image, at the final tokenization.
    """

    step_seconds: dict[int, float]
    tracing_seconds: float
    evaluation_seconds: float

    def training_seconds(self, schedule: Schedule, total_steps: int) -> float:
        """Of all steps of a training with this schedule, without evaluations and tracing.

        Raises:
          KeyError: The rehearsal has had another schedule's strides.
        """
        steps = schedule.steps_per_phase(total_steps)
        return sum(self.step_seconds[phase.tokenization.stride] * n for phase, n in zip(schedule.phases, steps))


def rehearse(params: cfg.ExperimentConfig, validation_examples: int) -> Speed:
    """Trains a few steps at every tokenization of an experiment's schedule, and evaluates a few batches.

    Args:
      params: The experiment; it is not changed, and nothing of the rehearsal is kept.
      validation_examples: Images that it evaluates on, >= 1.
    """
    phases = schedules.schedule_of(params).phases
    params = copy.deepcopy(params)
    strides = [phase.tokenization.stride for phase in phases]
    spans = [{"stride": stride, "until_step": sum(_BLOCKS) * (i + 1)} for i, stride in enumerate(strides)]
    del spans[-1]["until_step"]
    params.override(
        {
            "task": {"init_checkpoint": None, "retokenization": {"phases": spans, "transition": 0.0}},
            "trainer": {"train_steps": sum(_BLOCKS) * len(phases), "steps_per_loop": _BLOCKS[0]},
        }
    )
    runtime = params.runtime
    try:
        with (
            traces.forgotten(),
            tempfile.TemporaryDirectory() as scratch,
            mixed_precision(runtime.mixed_precision_dtype),
            captured(),
        ):
            return _speed(params, scratch, validation_examples)
    finally:
        tf_keras.backend.clear_session()


def _speed(params: cfg.ExperimentConfig, scratch: str, validation_examples: int) -> Speed:
    data = params.task.validation_data
    batch_size = data.global_batch_size
    evaluated_images = validation_examples // batch_size * batch_size if data.drop_remainder else validation_examples
    few, many = (min(number, ceil_div(evaluated_images, batch_size)) for number in (_BATCHES, _MORE_BATCHES))
    with connected(params, scratch, "train_and_eval") as session, session.strategy.scope():
        trainer = session.trainer
        for steps in _BLOCKS * (params.trainer.train_steps // sum(_BLOCKS)):
            trainer.train(tf.constant(steps, tf.int32))
        evaluations = []
        for batches in (few, few, many):
            start = time.perf_counter()
            trainer.evaluate(tf.constant(batches, tf.int32))
            evaluations.append(time.perf_counter() - start)
    warm, tracing = {}, 0.0
    for at in range(0, len(trainer.blocks), len(_BLOCKS)):
        first, _, short, long = trainer.blocks[at : at + len(_BLOCKS)]
        # Where the difference is noise, the long block alone bounds it.
        of_both = (long.seconds - short.seconds) / (long.steps - short.steps)
        warm[long.stride] = min(max(of_both, 0.5 * long.seconds / long.steps), long.seconds / long.steps)
        tracing += first.seconds - first.steps * warm[long.stride]
    beginning, few_seconds, many_seconds = evaluations
    images = min(many * batch_size, evaluated_images) - (few * batch_size if many > few else 0)
    evaluated = max(0.0, many_seconds - (few_seconds if many > few else 0.0)) / images
    return Speed(warm, max(0.0, tracing + beginning - few_seconds), evaluated)
