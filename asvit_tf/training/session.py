"""One connection to the devices: strategy, task and trainer, and the Model Garden's runner on them."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import base_task, task_factory, train_lib, train_utils
from official.core import config_definitions as cfg
from official.vision.configs import maskrcnn
from official.vision.utils import summary_manager

from asvit_tf.errors import UserError
from asvit_tf.modeling import checkpoints
from asvit_tf.training import strategies
from asvit_tf.training.display.screen import Screen
from asvit_tf.training.runner import ExperimentRunner
from asvit_tf.training.saving.best import BestKeeper
from asvit_tf.training.trainer import RetokenizingTrainer


@dataclasses.dataclass(frozen=True)
class Session:
    """What one connection to the devices holds.

    Attributes:
      params, model_dir: The experiment and its directory.
      strategy: How its work is distributed.
      task, trainer: Made in the strategy's scope.
      newest: Checkpoint to continue from, or to evaluate; None at the first start.
    """

    params: cfg.ExperimentConfig
    model_dir: str
    strategy: tf.distribute.Strategy
    task: base_task.Task
    trainer: RetokenizingTrainer
    newest: str | None

    @property
    def writes(self) -> bool:
        """Whether this process writes summaries and logs; of several workers one does."""
        return self.strategy.extended.should_save_summary

    def step(self) -> int:
        """Steps trained so far."""
        return int(self.trainer.global_step.numpy())

    def runner(self, mode: str, train_actions: Sequence[Callable], eval_action: Callable) -> ExperimentRunner:
        """The Model Garden's runner; the newest checkpoint, if there is one, has been restored."""
        tf.summary.experimental.set_step(self.trainer.global_step)  # Pictures take whatever step there is.
        with checkpoints.damage_explained(self.newest):
            return ExperimentRunner(
                distribution_strategy=self.strategy,
                task=self.task,
                mode=mode,
                params=self.params,
                model_dir=self.model_dir,
                trainer=self.trainer,
                save_summary=self.writes,
                train_actions=list(train_actions),
                eval_actions=[eval_action],
                # One that takes pictures where `allow_image_summary` asks for them.
                eval_summary_manager=(
                    summary_manager.maybe_build_eval_summary_manager(self.params, self.model_dir)
                    if self.writes
                    else None
                ),
            )


@contextlib.contextmanager
def connected(params: cfg.ExperimentConfig, model_dir: str, mode: str, keeps_best: bool = False) -> Iterator[Session]:
    """Connects to the devices and builds task and trainer; `keeps_best` as of `run.run`."""
    strategy = strategies.build(params.runtime)
    _check_batches(params, mode, strategy.num_replicas_in_sync)
    with contextlib.ExitStack() as stack:
        # All workers take part in saving the best checkpoint; those that do not write it save it where nobody looks.
        writes = strategy.extended.should_save_summary
        best_dir = model_dir if writes else stack.enter_context(tempfile.TemporaryDirectory())
        keeper = BestKeeper(best_dir) if keeps_best else train_lib.maybe_create_best_ckpt_exporter(params, best_dir)
        with strategy.scope():
            task = task_factory.get_task(params.task, logging_dir=model_dir)
            trainer = train_utils.create_trainer(
                params,
                task,
                train="train" in mode,
                evaluate="eval" in mode,
                checkpoint_exporter=keeper,
                trainer_cls=RetokenizingTrainer,
            )
        newest = checkpoints.newest(model_dir)
        if newest is not None:
            checkpoints.check_resumable(trainer.model, trainer.optimizer, newest)
        yield Session(params, model_dir, strategy, task, trainer, newest)


def _check_batches(params: cfg.ExperimentConfig, mode: str, replicas: int) -> None:
    """Refuses batches that the devices cannot share.

    Raises:
      UserError: Naming the field.
    """
    for part, section in (("train", "train_data"), ("eval", "validation_data")):
        data = getattr(params.task, section)
        if part in mode and data is not None and data.global_batch_size % replicas:
            raise UserError(
                f"task.{section}.global_batch_size is {data.global_batch_size}; it is shared by {replicas} devices, so "
                f"allowed are multiples of {replicas}"
            )


class Evaluation:
    """Evaluation action: keeps the numbers of the last evaluation in `metrics`, and shows them.

    Args:
      session, screen: Of the training.
      evaluated: Called with the step behind each, if it is given.
    """

    def __init__(self, session: Session, screen: Screen, evaluated: Callable[[int], None] | None = None):
        self.metrics: dict[str, float] = {}
        self._session = session
        self._screen = screen
        self._evaluated = evaluated

    def __call__(self, output: Mapping[str, Any]) -> None:
        # Segmentation reports pictures too.
        self.metrics = {name: float(value) for name, value in output.items() if np.ndim(value) == 0}
        if "validation_loss" not in self.metrics:
            raise UserError(
                "nothing was evaluated: the data have fewer images than task.validation_data.global_batch_size, "
                "and drop_remainder leaves the rest out"
            )
        if isinstance(self._session.params.task, maskrcnn.MaskRCNNTask):
            del self.metrics["validation_loss"]  # The Model Garden computes none, and reports 0.
        self._screen.evaluated(self._session.step(), self.metrics)
        if self._evaluated is not None:
            self._evaluated(self._session.step())
