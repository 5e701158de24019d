"""The best network of a training: a checkpoint beside the others, and what its evaluation found.

The Model Garden's `BestCheckpointExporter` writes the numbers first and the weights then. Killed in between, it takes
the same evaluation for no better one and never saves them; and behind a number that is not finite nothing is better.
Here a checkpoint counts from the moment when TensorFlow's state file, the last that is written, names it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from asvit_tf.modeling import checkpoints
from asvit_tf.storage import write_json
from asvit_tf.tasks import baselines
from asvit_tf.training.saving.sound import SoundCheckpoints

SUBDIRECTORY = "best"


@dataclasses.dataclass(frozen=True)
class Best:
    """The best network so far.

    Attributes:
      step: Steps trained.
      metrics: Of its evaluation on the validation images, at all tokens.
      checkpoint: Path; where training averages the weights, its model has the averages.
    """

    step: int
    metrics: dict[str, float]
    checkpoint: str


def read(model_dir: str | os.PathLike) -> Best | None:
    """That of a training; None where it kept none, or no evaluation gave finite numbers."""
    newest = checkpoints.newest(os.path.join(model_dir, SUBDIRECTORY))
    if newest is None:
        return None
    try:
        with tf.io.gfile.GFile(_numbers(newest)) as file:
            fields = json.loads(file.read())
        return Best(int(fields["step"]), dict(fields["metrics"]), newest)
    except (tf.errors.NotFoundError, ValueError, KeyError, TypeError):
        return None  # Somebody's doing: the numbers are written before the checkpoint counts.


def _numbers(checkpoint: str) -> str:
    """The file with step and metrics; one of the checkpoint's by its name, so that it is removed with it."""
    return f"{checkpoint}.json"


class BestKeeper:
    """Saves the network whenever an evaluation finds it better than the one saved before (`baselines.merit`).

    The trainer calls it at the end of each evaluation at all tokens, in the place of a `BestCheckpointExporter`, while
    averaged weights are those of the model. What is kept depends on the directory alone, so a killed training goes on
    with it. A training that goes on from before the best keeps it: it was evaluated, and better.

    Args:
      model_dir: Model directory of the training; in it the checkpoints have a directory of their own.
    """

    def __init__(self, model_dir: str):
        self._directory = os.path.join(model_dir, SUBDIRECTORY)
        self._manager: SoundCheckpoints | None = None
        self._best = read(model_dir)
        self._last: dict[str, float] = {}

    @property
    def best_ckpt_logs(self) -> dict[str, float]:
        """Metrics of the best network; as long as there is none, of the last."""
        return self._best.metrics if self._best else self._last

    def maybe_export_checkpoint(
        self, checkpoint: tf.train.Checkpoint, eval_logs: Mapping[str, Any], global_step: int, write_logs: bool = True
    ) -> bool:
        """Saves if this is the best so far; returns whether it was.

        Args:
          checkpoint: What is saved; the same one at each call.
          eval_logs: Metrics by name.
          global_step: Steps trained.
          write_logs: Not used.
        """
        self._last = {name: float(value) for name, value in eval_logs.items() if np.ndim(value) == 0}
        merit = baselines.merit(self._last)
        before = baselines.merit(self._best.metrics) if self._best else None
        if merit is None or (before is not None and merit <= before):
            return False
        if self._manager is None:
            self._manager = SoundCheckpoints(checkpoint, self._directory, max_to_keep=1, on_save=lambda: None)
        # Not numbered by steps: a step that is trained again must not write over the files that count.
        number = checkpoints.step_of(self._best.checkpoint) + 1 if self._best else 1
        path = os.path.join(self._directory, f"ckpt-{number}")
        tf.io.gfile.makedirs(self._directory)
        write_json(_numbers(path), dict(step=int(global_step), metrics=self._last))
        self._manager.save(checkpoint_number=number)
        self._best = Best(int(global_step), self._last, path)
        return True
