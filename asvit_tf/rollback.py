"""A training that lost what it learned is set back to its last sound checkpoint and goes on more gently."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import tempfile
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg

from asvit_tf import block_log, filesystem, guard
from asvit_tf.errors import DivergedError
from asvit_tf.guard import Observation, Rollback, Verdict
from asvit_tf.trainer import RetokenizingTrainer, SoundCheckpoints

ROLLBACKS_FILE = "rollbacks.json"


def read_rollbacks(model_dir: str | os.PathLike) -> list[Rollback]:
    """Those of a training, in order; none where it was never set back."""
    path = os.path.join(model_dir, ROLLBACKS_FILE)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return [Rollback(**row) for row in json.loads(file.read())]


class Guard:
    """Train action: judges every block (see `guard.judge`), keeps unsound weights from being saved, and sets back.

    All it knows is read off the model directory (`blocks.jsonl`, `rollbacks.json`), so a resumed training is guarded as
    an unbroken one. Every worker of several sees the same losses and does the same; one writes.

    Args:
      trainer: A `RetokenizingTrainer`.
      model_dir: Of the training.
      config: Of the trainer; its steps are read.
      most: How often a training is set back before it is stopped.
      writes: Whether this process writes `rollbacks.json`.

    Raises:
      DivergedError: A training would have to be set back once more than `most` times.
    """

    def __init__(
        self, trainer: RetokenizingTrainer, model_dir: str, config: cfg.TrainerConfig, most: int, writes: bool
    ):
        self._trainer = trainer
        self._model_dir = model_dir
        self._config = config
        self._most = most if trainer.learning_rate is not None else 0
        self._writes = writes
        self._rollbacks = read_rollbacks(model_dir)
        self._rows = block_log.read_blocks(model_dir)
        self._start = os.path.join(model_dir, "start", "weights")
        self._step = 0

    def begin(self, checkpoints: SoundCheckpoints) -> None:
        """Takes up a training whose newest checkpoint, if there is one, has been restored.

        Args:
          checkpoints: Where sound weights are saved.
        """
        self._checkpoints = checkpoints
        self._step = int(self._trainer.global_step.numpy())
        self._rows = [row for row in self._rows if row["step"] <= self._step]
        if self._rollbacks:
            self._ease(self._rollbacks[-1])
        if self._step == 0:
            # For a training that goes wrong before its first checkpoint, or never learns. Every worker has to take part
            # in saving; those that do not write do it where nobody looks.
            with tempfile.TemporaryDirectory() as nowhere:
                self._trainer.checkpoint.write(self._start if self._writes else os.path.join(nowhere, "weights"))

    def __call__(self, output: Any) -> None:
        step = int(self._trainer.global_step.numpy())
        row = {name: float(output[name]) for name in ("training_loss", "guessing_loss") if name in output}
        self._rows.append({"step": step, "steps": step - self._step, **row})
        self._step = step
        seen = guard.observations(self._rows, self._config.steps_per_loop)
        verdict = guard.judge(seen, self._config.train_steps)
        if verdict is Verdict.UNLEARNED and (len(self._rollbacks) >= self._most or not self._has_start()):
            verdict = Verdict.SOUND  # It may still learn; whether it did is judged at the end.
        self._checkpoints.sound = verdict is Verdict.SOUND
        if verdict not in (Verdict.SOUND, Verdict.SUSPECT):
            self._set_back(verdict, seen[-1])

    def _set_back(self, verdict: Verdict, last: Observation) -> None:
        newest = tf.train.latest_checkpoint(self._model_dir)
        if len(self._rollbacks) >= self._most:
            tries = f" after being set back {len(self._rollbacks)} times" if self._rollbacks else ""
            raise DivergedError(
                f"{verdict.value} at step {self._step}{tries}; the newest sound checkpoint is {newest}; try a lower "
                "learning rate, a longer warm-up, or gradients clipped at a lower norm (global_clipnorm)"
            )
        afresh = newest is None or verdict is Verdict.UNLEARNED
        with self._trainer.strategy.scope():
            self._trainer.checkpoint.read(self._start if afresh else newest).assert_existing_objects_matched()
        restored = int(self._trainer.global_step.numpy())
        rollback = Rollback(
            step=self._step,
            restored=restored,
            reason=verdict.value,
            loss=last.loss if math.isfinite(last.loss) else None,
            guessing_loss=last.guessing,
            factor=guard.FACTOR ** (len(self._rollbacks) + 1),
        )
        self._rollbacks.append(rollback)
        print(rollback, file=sys.stderr)
        if self._writes:
            rows = [dataclasses.asdict(row) for row in self._rollbacks]
            filesystem.write_json(os.path.join(self._model_dir, ROLLBACKS_FILE), rows)
        self._ease(rollback)
        self._rows = [row for row in self._rows if row["step"] <= restored]
        self._step = restored
        self._checkpoints.sound = True
        if afresh:  # Else a training that is killed now would go on from weights that it was set back from.
            self._checkpoints.save(checkpoint_number=restored, check_interval=False)

    def _has_start(self) -> bool:
        return tf.io.gfile.exists(f"{self._start}.index")

    def _ease(self, rollback: Rollback) -> None:
        self._trainer.learning_rate.ease(rollback.factor, rollback.restored)

    def end(self) -> None:
        """Removes what only a running training needs."""
        if self._writes and self._has_start():
            tf.io.gfile.rmtree(os.path.dirname(self._start))
