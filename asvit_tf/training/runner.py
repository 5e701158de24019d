"""The Model Garden's runner of an experiment, where every worker resumes."""

from __future__ import annotations

import tempfile
from typing import Any

import tensorflow as tf
import tf_keras
from official.core import train_lib

from asvit_tf.errors import PausedError
from asvit_tf.modeling import checkpoints
from asvit_tf.training.saving.sound import SoundCheckpoints


class ExperimentRunner(train_lib.OrbitExperimentRunner):
    """The Model Garden's, but every worker resumes, and operations are not counted at the end.

    With several workers only the first writes checkpoints that are kept. The Model Garden has each of the others look
    for one in an empty directory of its own: after a restart they would begin at step 0, beside a first that does not.
    Its count traces the model once more, all weights as constants, for a log line that is not shown.
    """

    def run(self) -> tuple[tf_keras.Model, dict[str, Any]]:
        """Trains and evaluates as the mode says; the metrics go to `eval_actions`."""
        mode, trainer = self._mode, self.params.trainer
        with self.strategy.scope():
            if mode in ("train", "train_and_post_eval"):
                self.controller.train(trainer.train_steps)
            if mode == "train_and_eval":
                try:
                    self._train_and_evaluate()
                except PausedError:
                    self.controller.save_checkpoint()
                    raise
            if mode in ("eval", "train_and_post_eval"):
                self.controller.evaluate(trainer.validation_steps)
            if mode == "continuous_eval":
                self._evaluate_continuously()
        return self.trainer.model, {}

    def _train_and_evaluate(self) -> None:
        """Trains, and evaluates at each multiple of the interval and at the end.

        The Model Garden counts the interval from the step at which a training is started again. At the end it evaluates
        before it saves, and a kill then costs the steps since the last checkpoint.
        """
        trainer = self.params.trainer
        interval = trainer.validation_interval or trainer.train_steps
        step = self._step()
        if 0 < step < trainer.train_steps and step % interval == 0:
            # A kill may have come before it. Not only its numbers would be missing: where the average of the weights
            # is evaluated, the Model Garden swaps both by sums and differences, which round the weights.
            self.controller.evaluate(trainer.validation_steps)
        while step < trainer.train_steps:
            until = min((step // interval + 1) * interval, trainer.train_steps)
            self.controller.train(until, checkpoint_at_completion=until == trainer.train_steps)
            self.controller.evaluate(trainer.validation_steps)
            step = self._step()

    def _step(self) -> int:
        return int(self.trainer.global_step.numpy())

    def _evaluate_continuously(self) -> None:
        """Evaluates every checkpoint that appears, up to that of the last step."""
        trainer = self.params.trainer

        def trained() -> bool:
            return self._step() >= trainer.train_steps

        # By itself the iterator would wait for one more checkpoint behind the last, an hour as a rule.
        for path in tf.train.checkpoints_iterator(
            self.model_dir, timeout=trainer.continuous_eval_timeout, timeout_fn=trained
        ):
            self.controller.restore_checkpoint(path)
            self.controller.evaluate(trainer.validation_steps)
            if trained():
                break

    def _maybe_build_checkpoint_manager(self):
        trainer = self.params.trainer
        on_save = self.trainer.checkpoint_saved
        if self.strategy.extended.should_checkpoint:
            return SoundCheckpoints(
                self.trainer.checkpoint,
                directory=self.model_dir,
                max_to_keep=trainer.max_to_keep,
                step_counter=self.trainer.global_step,
                checkpoint_interval=trainer.checkpoint_interval,
                init_fn=self.trainer.initialize,
                on_save=on_save,
            )
        self._own_checkpoints = tempfile.TemporaryDirectory()  # All must take part in saving; removed at the end.

        newest = checkpoints.newest(self.model_dir)

        def resume():
            if newest is None:
                self.trainer.initialize()
            else:
                checkpoints.check_resumable(self.trainer.model, self.trainer.optimizer, newest)
                self.trainer.checkpoint.restore(checkpoints.readable(newest))

        return SoundCheckpoints(
            self.trainer.checkpoint,
            directory=self._own_checkpoints.name,
            max_to_keep=1,
            step_counter=self.trainer.global_step,
            checkpoint_interval=trainer.checkpoint_interval,
            # All save at the same steps, because saving needs all of them.
            last_checkpoint_step=None if newest is None else checkpoints.step_of(newest),
            init_fn=resume,
            on_save=on_save,
        )
