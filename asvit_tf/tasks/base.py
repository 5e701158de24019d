"""What every task of this package does with a checkpoint to start from, and with its input pipeline."""

from __future__ import annotations

import sys

import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg

from asvit_tf.dataloaders import inputs
from asvit_tf.modeling import checkpoints


class AsViTTask:
    """Part of a task, before the Model Garden's."""

    def initialize(self, model: tf_keras.Model) -> None:
        """Loads `init_checkpoint` if there is one (see `checkpoints.initialize`), and says what was loaded."""
        config = self.task_config  # type: ignore[attr-defined]
        if config.init_checkpoint:
            report = checkpoints.initialize(model, config.init_checkpoint, config.init_checkpoint_modules)
            print(f"{config.init_checkpoint}: {report}", file=sys.stderr)

    def build_inputs(
        self, params: cfg.DataConfig, input_context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        """The Model Garden's input pipeline, tuned only where that helps (see `inputs.tuned_where_it_helps`)."""
        return inputs.tuned_where_it_helps(super().build_inputs(params, input_context))  # type: ignore[misc]
