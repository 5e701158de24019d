"""Contradictions in an experiment's settings that the Model Garden would notice late, or never."""

from __future__ import annotations

from typing import Any

from official.core import config_definitions as cfg

from asvit_tf import detection, detection_checks
from asvit_tf.errors import UserError


def check(params: cfg.ExperimentConfig) -> None:
    """Refuses settings that cannot be trained with.

    Raises:
      UserError: Naming the setting, and what is allowed.
    """
    trainer = params.trainer
    for name in ("train_steps", "steps_per_loop"):
        _whole(f"trainer.{name}", getattr(trainer, name), 1)
    if trainer.summary_interval % trainer.steps_per_loop:
        raise UserError(
            f"trainer.summary_interval is {trainer.summary_interval}; it must be a multiple of steps_per_loop, "
            f"{trainer.steps_per_loop}"
        )
    if trainer.validation_steps == 0:
        raise UserError("trainer.validation_steps is 0; allowed are -1, for all, and numbers from 1")
    if getattr(trainer.optimizer_config.learning_rate.get(), "decay_steps", 0) is None:
        raise UserError("the learning rate has no decay_steps; set it to trainer.train_steps")
    if getattr(trainer.optimizer_config.warmup.get(), "warmup_steps", 0) is None:
        raise UserError("trainer.optimizer_config.warmup has no warmup_steps; 0 is none")
    detects = detection.is_detection(params.task)
    metric = trainer.best_checkpoint_eval_metric
    known = detection_checks.metrics(params.task) if detects else _metrics(params.task)
    if trainer.best_checkpoint_export_subdir and metric not in known:
        raise UserError(f"trainer.best_checkpoint_eval_metric is {metric!r}; allowed are {', '.join(known)}")
    (detection_checks.check_model if detects else _check_labels)(params.task)


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} is {value!r}; allowed are whole numbers from {least}")


def _metrics(task) -> tuple[str, ...]:
    return ("accuracy", f"top_{task.evaluation.top_k}_accuracy", "validation_loss")


def _check_labels(task) -> None:
    """Mixup and CutMix make soft labels; without them labels are numbers."""
    if task.train_data.is_multilabel:
        return
    mixed, losses = task.train_data.mixup_and_cutmix is not None, task.losses
    if mixed != losses.soft_labels or (mixed and losses.one_hot):
        raise UserError(
            f"task.losses has soft_labels={losses.soft_labels} and one_hot={losses.one_hot} "
            f"{'with' if mixed else 'without'} train_data.mixup_and_cutmix; allowed are true and false with it, and "
            "false and true (or false) without"
        )
