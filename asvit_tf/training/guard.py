"""A training that lost what it learned is set back to its last sound checkpoint and goes on more gently."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import tempfile
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg

from asvit_tf import storage
from asvit_tf.errors import DivergedError
from asvit_tf.modeling import checkpoints
from asvit_tf.training import step_log, verdicts
from asvit_tf.training.display.screen import say
from asvit_tf.training.saving.sound import SoundCheckpoints
from asvit_tf.training.trainer import RetokenizingTrainer
from asvit_tf.training.verdicts import Observation, Rollback, Verdict

ROLLBACKS_FILE = "rollbacks.json"
START = "start"  # Directory of the initial weights, in the model directory, as long as a training runs.


def read_rollbacks(model_dir: str | os.PathLike) -> list[Rollback]:
    """Those of a training, in order; none where it was never set back."""
    path = os.path.join(model_dir, ROLLBACKS_FILE)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return [Rollback(**row) for row in json.loads(file.read())]


class Guard:
    """Train action: judges every block (see `verdicts.judge`), keeps unsound weights from being saved, and sets back.

    All it knows is read off the model directory (`blocks.jsonl`, `rollbacks.json`), so a resumed training is guarded as
    an unbroken one. Every worker of several sees the same losses and does the same; one writes.

    Args:
      trainer: A `RetokenizingTrainer`.
      model_dir: Model directory of the training.
      config: Config of the trainer; its steps are read.
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
        self._rows = step_log.read_blocks(model_dir)  # Of which no observation was made yet.
        self._seen: list[Observation] = []
        self._start = os.path.join(model_dir, START, "weights")
        self._step = 0

    def begin(self, manager: SoundCheckpoints) -> None:
        """Takes up a training whose newest checkpoint, if there is one, has been restored.

        Args:
          manager: Where sound weights are saved.
        """
        self._checkpoints = manager
        self._step = int(self._trainer.global_step.numpy())
        self._trainer.tries = len(self._rollbacks)
        self._rows = [row for row in self._rows if row["step"] <= self._step]
        if self._rollbacks:
            self._ease(self._rollbacks[-1])
        if self._step == 0:
            # For a training that goes wrong before its first checkpoint, or never learns. Every worker has to take part
            # in saving; those that do not write do it where nobody looks.
            with tempfile.TemporaryDirectory() as nowhere, self._trainer.strategy.scope():
                _ = self._trainer.checkpoint.save_counter  # Made at its first use; without it none would be written.
                self._trainer.checkpoint.write(self._start if self._writes else os.path.join(nowhere, "weights"))

    def __call__(self, output: Any) -> None:
        self._step = int(self._trainer.global_step.numpy())
        # As in `blocks.jsonl`, which is all that a resumed training knows.
        self._rows += [{"step": block.step, "steps": block.steps, **block.metrics} for block in self._trainer.latest]
        self._seen += verdicts.observations(self._rows, self._config.steps_per_loop, self._config.train_steps)
        if self._seen:
            self._rows = [row for row in self._rows if row["step"] > self._seen[-1].step]
        verdict = verdicts.judge(self._seen, self._config.train_steps)
        if verdict is Verdict.UNLEARNED and (len(self._rollbacks) >= self._most or not self._has_start()):
            verdict = Verdict.SOUND  # It may still learn; whether it did is judged at the end.
        self._checkpoints.sound = verdict is Verdict.SOUND
        if verdict not in (Verdict.SOUND, Verdict.SUSPECT):
            self._set_back(verdict)

    def _set_back(self, verdict: Verdict) -> None:
        if len(self._rollbacks) >= self._most:
            times = len(self._rollbacks)
            tries = f" after {times} set-back{'s' * (times > 1)}" if times else ""
            raise DivergedError(
                f"{verdict.value} at step {self._step}{tries}",
                "start again in another model_dir with a lower learning rate, a longer warm-up, or gradients clipped "
                "at a lower norm (global_clipnorm)",
            )
        path, restored = self._target(verdict)
        with self._trainer.strategy.scope():
            checkpoints.check_resumable(self._trainer.model, self._trainer.optimizer, path)
            self._trainer.checkpoint.read(checkpoints.readable(path))
        last = self._seen[-1]
        rollback = Rollback(
            step=self._step,
            restored=restored,
            reason=verdict.value,
            loss=last.loss if math.isfinite(last.loss) else None,
            guessing_loss=last.guessing,
            factor=verdicts.FACTOR ** (len(self._rollbacks) + 1),
        )
        self._rollbacks.append(rollback)
        self._step = restored
        self._seen = [observation for observation in self._seen if observation.step <= restored]
        self._rows = []
        self._ease(rollback)
        self._trainer.tries = len(self._rollbacks)
        self._trainer.begin_draws_anew()
        self._checkpoints.sound = True
        # It becomes the newest, and then those behind it go: a training that is killed must not go on from them.
        self._checkpoints.save(checkpoint_number=restored, check_interval=False)
        later = [path for step, path in self._saved().items() if step > restored]
        for file in itertools.chain.from_iterable(checkpoints.files_of(path) for path in later if self._writes):
            tf.io.gfile.remove(file)
        if self._writes:
            say(rollback)
            # Last: killed before it is written, the training goes on from the same checkpoint, comes to the same end
            # and is set back then.
            rows = [dataclasses.asdict(row) for row in self._rollbacks]
            storage.write_json(os.path.join(self._model_dir, ROLLBACKS_FILE), rows)

    def _target(self, verdict: Verdict) -> tuple[str, int]:
        """Path and step of what to go on from: the newest checkpoint that is known to be sound.

        Where none is kept, the newest that was not tried before; where no weights ever were known to be sound, those
        saved may be of the collapse itself, and it goes on from the initial ones.
        """
        saved, last = self._saved(), verdicts.last_confirmed(self._seen)
        confirmed = [step for step in saved if step <= last]
        untried = [step for step in saved if step not in {rollback.restored for rollback in self._rollbacks}]
        never = last == 0 and self._has_start()
        if verdict is Verdict.UNLEARNED or never or not (confirmed or untried):
            return self._start, 0
        step = max(confirmed or untried)
        return saved[step], step

    def _saved(self) -> dict[int, str]:
        """Checkpoints of the training by their steps."""
        state = tf.train.get_checkpoint_state(self._model_dir)
        paths = state.all_model_checkpoint_paths if state else ()
        return {checkpoints.step_of(path): path for path in paths if tf.io.gfile.exists(f"{path}.index")}

    def _has_start(self) -> bool:
        return tf.io.gfile.exists(f"{self._start}.index")

    def _ease(self, rollback: Rollback) -> None:
        # Not the step of the rollback, if the user went on from a checkpoint before it.
        assert self._trainer.learning_rate is not None  # Else nothing is ever set back.
        self._trainer.learning_rate.ease(rollback.factor, min(rollback.restored, self._step))

    def end(self) -> None:
        """Removes what only a running training needs."""
        if self._writes and self._has_start():
            tf.io.gfile.rmtree(os.path.dirname(self._start))
