"""Checkpoints of a training: of sound weights only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from asvit_tf.modeling import checkpoints


class SoundCheckpoints(tf.train.CheckpointManager):
    """A checkpoint manager that saves nothing while `sound` is false, so that the newest checkpoint always is.

    Args: as `CheckpointManager`; `on_save` is called after each checkpoint. A `last_checkpoint_step` of 0 is one.
    """

    def __init__(self, *args: Any, on_save: Callable[[], None], last_checkpoint_step: int | None = None, **kwargs: Any):
        super().__init__(*args, last_checkpoint_step=last_checkpoint_step, **kwargs)
        # TensorFlow takes 0 for none: workers set back to the start and killed would then save at different steps.
        self._last_checkpoint_step = last_checkpoint_step
        self._on_save = on_save
        self.sound = True

    def restore_or_initialize(self) -> str | None:
        newest = self.latest_checkpoint
        if newest is None or checkpoints.readable(newest) == newest:
            return super().restore_or_initialize()
        self.checkpoint.restore(checkpoints.readable(newest))
        self._last_checkpoint_step = checkpoints.step_of(newest)
        return newest

    def save(self, *args: Any, **kwargs: Any) -> str | None:
        before = list(self.checkpoints)
        path = super().save(*args, **kwargs) if self.sound else None
        # TensorFlow removes what it does not keep by a pattern, which finds nothing in a directory named like one.
        for left in set(before) - set(self.checkpoints):
            for file in checkpoints.files_of(left):
                tf.io.gfile.remove(file)
        if path is not None:
            self._on_save()
        return path
