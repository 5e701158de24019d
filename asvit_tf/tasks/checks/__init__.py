"""Contradictions in an experiment's settings that the Model Garden would notice late, or never."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from official.core import config_definitions as cfg
from official.vision.configs import backbones, maskrcnn, retinanet, semantic_segmentation

from asvit_tf import choices
from asvit_tf.errors import UserError
from asvit_tf.tasks.checks import classification, detection, segmentation

_KINDS = {
    retinanet.RetinaNetTask: detection,
    maskrcnn.MaskRCNNTask: detection,
    semantic_segmentation.SemanticSegmentationTask: segmentation,
}


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
    if params.runtime.mixed_precision_dtype == "float16" and trainer.optimizer_config.ema is not None:
        # The Model Garden's averages take no gradients from the optimizer that scales losses.
        raise UserError(
            "runtime.mixed_precision_dtype is float16, with which weights cannot be averaged; set it to float32 or "
            "bfloat16, or trainer.optimizer_config.ema to null"
        )
    if hasattr(params.task, "guard"):
        _whole("task.guard.max_rollbacks", params.task.guard.max_rollbacks, 0)
    kind = _kind(params.task)
    metric, known = trainer.best_checkpoint_eval_metric, kind.metrics(params.task)
    if trainer.best_checkpoint_export_subdir and metric not in known:
        raise UserError(f"trainer.best_checkpoint_eval_metric is {metric!r}; allowed are {', '.join(known)}")
    _check_backbone(params.task.model.backbone)
    kind.check_model(params.task)


def check_learning_rate(trainer: cfg.TrainerConfig) -> None:
    """Refuses a training that goes on behind the end of its learning rate, where that is 0 and nothing is learned.

    Raises:
      UserError: Saying how to go on.
    """
    config = trainer.optimizer_config.learning_rate
    rate, name = config.get(), config.type
    last = {"cosine": "alpha", "polynomial": "end_learning_rate"}.get(name)
    if last is None or getattr(rate, last) or getattr(rate, "cycle", False):
        return
    end = rate.decay_steps + (rate.offset or 0)
    if trainer.train_steps > end:
        raise UserError(
            f"trainer.train_steps is {trainer.train_steps}, but the {name} learning rate is 0 from step {end} on, so "
            f"nothing would be learned there; to go on with a finished training, set trainer.optimizer_config."
            f"learning_rate.{name}.decay_steps={trainer.train_steps - (rate.offset or 0)} too"
        )


def check_data(params: cfg.ExperimentConfig, section: str) -> None:
    """Refuses data, "train_data" or "validation_data", that cannot be trained on or evaluated with.

    Raises:
      UserError: Saying what is wrong, and what is allowed.
    """
    kind = _kind(params.task)
    # Several replicas may need batches of one size; with classifiers, training says it where nothing is left.
    counts_all = section == "validation_data" and kind is not classification and _has_one_replica(params.runtime)
    if counts_all and params.task.validation_data.drop_remainder:
        raise UserError(
            "task.validation_data.drop_remainder is true, which leaves images out of the evaluation; set it to false "
            "(allowed on a TPU and on several GPUs)"
        )
    kind.check(params.task, section)


def _has_one_replica(runtime: cfg.RuntimeConfig) -> bool:
    return runtime.distribution_strategy not in ("tpu", "multi_worker_mirrored") and runtime.num_gpus < 2


def _kind(task: cfg.TaskConfig) -> ModuleType:
    """The module with the `metrics`, `check_model` and `check` of a kind of task."""
    return next((module for kind, module in _KINDS.items() if isinstance(task, kind)), classification)


def _check_backbone(backbone: backbones.Backbone) -> None:
    if backbone.type != "asvit":
        return
    where = "task.model.backbone.asvit"
    for field, allowed in choices.BACKBONE.items():
        value = getattr(backbone.asvit, field)
        if value not in allowed:
            raise UserError(f"{where}.{field} is {value!r}; allowed are {', '.join(allowed)}")
    rate = backbone.asvit.stochastic_depth
    if not 0 <= rate < 1:
        raise UserError(f"{where}.stochastic_depth is {rate}; allowed are rates from 0 to below 1")


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} is {value!r}; allowed are whole numbers from {least}")
