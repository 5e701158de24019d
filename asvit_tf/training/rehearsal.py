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

_STEPS, _BLOCKS = 6, 3  # At each tokenization: the first block traces, in the second images are still being read ahead.
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
    spans = [{"stride": stride, "until_step": _BLOCKS * _STEPS * (i + 1)} for i, stride in enumerate(strides)]
    del spans[-1]["until_step"]
    params.override(
        {
            "task": {"init_checkpoint": None, "retokenization": {"phases": spans, "transition": 0.0}},
            "trainer": {"train_steps": _BLOCKS * _STEPS * len(phases), "steps_per_loop": _STEPS},
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
    batch_size = params.task.validation_data.global_batch_size
    few, many = (min(number, ceil_div(validation_examples, batch_size)) for number in (_BATCHES, _MORE_BATCHES))
    with connected(params, scratch, "train_and_eval") as session, session.strategy.scope():
        trainer = session.trainer
        for _ in range(params.trainer.train_steps // _STEPS):
            trainer.train(tf.constant(_STEPS, tf.int32))
        evaluations = []
        for batches in (few, few, many):
            start = time.perf_counter()
            trainer.evaluate(tf.constant(batches, tf.int32))
            evaluations.append(time.perf_counter() - start)
    warm = {block.stride: block.seconds / block.steps for block in trainer.blocks if not block.traced}
    tracing = sum(block.seconds - _STEPS * warm[block.stride] for block in trainer.blocks if block.traced)
    first, short, long = evaluations
    images = min(many * batch_size, validation_examples) - (few * batch_size if many > few else 0)
    return Speed(warm, max(0.0, tracing + first - short), max(0.0, long - (short if many > few else 0.0)) / images)
