"""What every task of this package does with a checkpoint to start from."""

from __future__ import annotations

import sys

import tf_keras

from asvit_tf.modeling import checkpoints


class AccountedStart:
    """Part of a task: the checkpoint to start from is accounted for, variable by variable."""

    def initialize(self, model: tf_keras.Model) -> None:
        """Loads `init_checkpoint` if there is one (see `checkpoints.initialize`), and says what was loaded."""
        config = self.task_config  # type: ignore[attr-defined]
        if config.init_checkpoint:
            report = checkpoints.initialize(model, config.init_checkpoint, config.init_checkpoint_modules)
            print(f"{config.init_checkpoint}: {report}", file=sys.stderr)
