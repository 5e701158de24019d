"""A learning rate that can be eased while a training runs: lowered, with a new warm-up, without a new trace."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras


class EasedLearningRate(tf_keras.optimizers.schedules.LearningRateSchedule):
    """`factor * min(1, (step - since + 1) / warmup_steps) * schedule(step)` from step `since` on; before it, 0.

    Without `ease` it is `schedule(step)`. The two numbers are variables, so programs that were traced before
    follow; they belong to no checkpoint. Make it inside the strategy's scope, before anything is traced.

    Args:
      schedule: A schedule of the step, or a constant.
      warmup_steps: Steps of the new warm-up, >= 1.
    """

    def __init__(self, schedule: Any, warmup_steps: int):
        super().__init__()
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self._factor = tf.Variable(1.0, trainable=False, name="learning_rate_factor")
        # So early that its warm-up is over at step 0.
        self._since = tf.Variable(-float(warmup_steps), trainable=False, name="learning_rate_eased_since")

    def __call__(self, step):
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        risen = (tf.cast(step, tf.float32) - self._since + 1) / self.warmup_steps
        return rate * self._factor * tf.clip_by_value(risen, 0.0, 1.0)

    def ease(self, factor: float, since: int) -> None:
        """From step `since` on, rates are `factor` times the schedule's, behind a new warm-up."""
        self._factor.assign(factor)
        self._since.assign(float(since))

    def get_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "warmup_steps": self.warmup_steps}


def eased(optimizer: Any, warmup_steps: int) -> EasedLearningRate | None:
    """Gives an optimizer a learning rate that can be eased.

    Args:
      optimizer: The Model Garden's, with or without averaged weights; it was not used yet.
      warmup_steps: Steps of a new warm-up.

    Returns:
      The learning rate; None for an optimizer that does not take another one once it is made.
    """
    rate = EasedLearningRate(optimizer.learning_rate, warmup_steps)
    try:
        optimizer.learning_rate = rate
    except (TypeError, ValueError):
        return None
    return rate
