"""The Model Garden's runner of an experiment, where every worker resumes, and only sound weights are saved."""

from __future__ import annotations

import tempfile
from typing import Any

import tensorflow as tf
import tf_keras
from official.core import train_lib

from asvit_tf.modeling import checkpoints


class SoundCheckpoints(tf.train.CheckpointManager):
    """A checkpoint manager that saves nothing while `sound` is false, so that the newest checkpoint always is."""

    sound = True

    def save(self, *args: Any, **kwargs: Any) -> str | None:
        before = list(self.checkpoints)
        saved = super().save(*args, **kwargs) if self.sound else None
        # TensorFlow removes what it does not keep by a pattern, which finds nothing in a directory named like one.
        for path in set(before) - set(self.checkpoints):
            for file in checkpoints.files_of(path):
                tf.io.gfile.remove(file)
        return saved


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
                self.controller.train_and_evaluate(
                    trainer.train_steps, trainer.validation_steps, trainer.validation_interval
                )
            if mode in ("eval", "train_and_post_eval"):
                self.controller.evaluate(trainer.validation_steps)
            if mode == "continuous_eval":
                self._evaluate_continuously()
        return self.trainer.model, {}

    def _evaluate_continuously(self) -> None:
        """Evaluates every checkpoint that appears, up to that of the last step."""
        trainer = self.params.trainer

        def trained() -> bool:
            return int(self.trainer.global_step.numpy()) >= trainer.train_steps

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
        if self.strategy.extended.should_checkpoint:
            return SoundCheckpoints(
                self.trainer.checkpoint,
                directory=self.model_dir,
                max_to_keep=trainer.max_to_keep,
                step_counter=self.trainer.global_step,
                checkpoint_interval=trainer.checkpoint_interval,
                init_fn=self.trainer.initialize,
            )
        self._own_checkpoints = tempfile.TemporaryDirectory()  # All must take part in saving; removed at the end.

        def resume():
            newest = checkpoints.newest(self.model_dir)
            if newest is None:
                self.trainer.initialize()
            else:
                self.trainer.checkpoint.restore(newest).assert_existing_objects_matched()

        return SoundCheckpoints(
            self.trainer.checkpoint,
            directory=self._own_checkpoints.name,
            max_to_keep=1,
            step_counter=self.trainer.global_step,
            checkpoint_interval=trainer.checkpoint_interval,
            init_fn=resume,
        )
