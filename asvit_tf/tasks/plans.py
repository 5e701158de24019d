"""How `asvit run` and studies train a classifier: a recipe, with the topology, the data and their amount in it."""

from __future__ import annotations

import copy
import dataclasses
import importlib.resources
from collections.abc import Sequence
from typing import Any

from official.core import config_definitions as cfg

from asvit_tf.choices import RECIPES
from asvit_tf.dataloaders.classification import Dataset
from asvit_tf.design.grids import ceil_div
from asvit_tf.design.topology import STRIDE, Topology
from asvit_tf.errors import UserError
from asvit_tf.tasks import classification, experiment_files, photographs, schedules

PHOTOGRAPHS = "photographs"
ENDING = ("cosine", "polynomial")  # Learning rates that end with the training.
WARMUPS = ("linear", "polynomial")
_KEPT = ("num_classes", "input_size", "backbone.type", "backbone.asvit.topology", "backbone.asvit.base_stride")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to train a classifier of a user's images. None: as the recipe says.

    Attributes:
      image_size: Rows and columns, in pixels.
      seed: Seed of weights and data.
      epochs: Epochs of training.
      batch_size: Images in a step; all of them where they are fewer.
      retokenization: A preset schedule; None as the recipe says.
      flip: Mirror training images at random.
      base_stride: Pixels between tokens at the finest tokenization (`grids.base_stride`).
      recipe: One of `choices.RECIPES`, or a YAML for the experiment `asvit_images`.
      overrides: Fields of the experiment, as `asvit train --params_override` takes them; they come last.
      balanced: Train for the balanced accuracy (see `classification.Adjusted`).
      init_checkpoint: Weights to start from.
      init_modules: Which of them (see `checkpoints.initialize`).
    """

    image_size: tuple[int, int]
    seed: int
    epochs: int | None = None
    batch_size: int | None = None
    retokenization: str | None = "none"
    flip: bool | None = None
    base_stride: int = STRIDE
    recipe: str = "digits"
    overrides: tuple[str, ...] = ()
    balanced: bool = False
    init_checkpoint: str | None = None
    init_modules: str = "all"


def classifier(plan: Plan, dataset: Dataset, topology: Topology) -> cfg.ExperimentConfig:
    """The experiment that trains a topology on a data set.

    Args:
      plan: How to train.
      dataset: To train on.
      topology: To train.

    Raises:
      UserError: The recipe cannot be read, or a field does not exist, has a value of another type, or belongs to the
        design.
    """
    params = recipe(plan.recipe)
    _check_amounts(plan, params)
    examples, epochs = dataset.train_examples, plan.epochs or _epochs(params, plan.recipe, dataset.train_examples)
    batch_size = plan.batch_size or params.task.train_data.global_batch_size
    if plan.recipe == PHOTOGRAPHS:
        batch_size = min(plan.batch_size or photographs.batch_size(examples), examples)
        experiment_files.override(
            params,
            photographs.fitted(examples, epochs, batch_size, plan.image_size, plan.base_stride, dataset.train_bytes),
            plan.recipe,
        )
    experiment_files.override(params, _data(plan, dataset, topology), "asvit run")
    experiment_files.override(params, _steps(examples, epochs, min(batch_size, examples)), "asvit run")
    apply(params, plan.overrides)
    return params


def recipe(name: str) -> cfg.ExperimentConfig:
    """The experiment of a recipe: one of `choices.RECIPES`, or a YAML.

    Raises:
      UserError: There is none, or it has other fields or values than such an experiment.
    """
    params = classification.asvit_images()
    registered = classification.asvit_images()
    path = str(importlib.resources.files("official_configs") / RECIPES[name]) if name in RECIPES else name
    experiment_files.override(params, experiment_files.read(path), path)
    experiment_files.check_types(params, registered)
    kind = params.task.model.backbone.type
    if kind != "asvit":
        raise UserError(f"{path}: task.model.backbone.type is {kind!r}; it must be asvit, whose design is trained")
    return params


def dtype(plan: Plan, usual: str) -> str:
    """What a training computes in, before there are any data: as a field says, else as usual on the devices.

    Averages of weights are kept in the network's own type, for which float16 is too narrow.

    Args:
      plan: How to train.
      usual: "float32", "bfloat16" or "float16".

    Raises:
      UserError: As `classifier`: the recipe, or fields of it, do not exist or have values of another type.
    """
    params = recipe(plan.recipe)
    _check_amounts(plan, params)
    if plan.recipe == PHOTOGRAPHS:  # Has averages, whatever the amount of data.
        fitted = photographs.fitted(1000, plan.epochs or 80, 32, plan.image_size, plan.base_stride)
        experiment_files.override(params, fitted, plan.recipe)
    params.runtime.mixed_precision_dtype = None  # Which no field can say.
    apply(params, plan.overrides)
    averages = params.trainer.optimizer_config.ema is not None
    return params.runtime.mixed_precision_dtype or ("float32" if averages and usual == "float16" else usual)


def _check_amounts(plan: Plan, params: cfg.ExperimentConfig) -> None:
    """Refuses a recipe that says neither batch nor epochs where the plan leaves them to it."""
    batch, trainer = params.task.train_data.global_batch_size, params.trainer
    if plan.batch_size is None and batch < 1:
        raise UserError(
            f"{plan.recipe}: task.train_data.global_batch_size is {batch}; it must be at least 1, or give --batch-size"
        )
    if plan.epochs is None and not 1 <= trainer.steps_per_loop <= trainer.train_steps:
        raise UserError(
            f"{plan.recipe}: trainer.train_steps is {trainer.train_steps} and steps_per_loop {trainer.steps_per_loop}; "
            "epochs are the one over the other, at least 1, or give --epochs"
        )


def apply(params: cfg.ExperimentConfig, overrides: Sequence[str]) -> None:
    """Sets single fields, as `asvit train --params_override` does.

    Raises:
      UserError: One does not exist, has a value of another type, or belongs to the design.
    """
    designed = _design(params)
    for text in overrides:
        experiment_files.override_by_text(params, text)
    experiment_files.check_types(params, classification.asvit_images())
    if _design(params) != designed:
        raise UserError(f"params_override changes the design; none of task.model's {', '.join(_KEPT)} can be changed")


def epochs_of(params: cfg.ExperimentConfig) -> int:
    """Epochs of an experiment whose loop of steps is one."""
    return max(1, params.trainer.train_steps // params.trainer.steps_per_loop)


def with_epochs(params: cfg.ExperimentConfig, epochs: int) -> cfg.ExperimentConfig:
    """The same training with another end: phases begin where they did, a cosine ends at the last step.

    Args:
      params: The experiment; it is not changed.
      epochs: Of the whole training.
    """
    schedule, steps = schedules.schedule_of(params), epochs * params.trainer.steps_per_loop
    params = copy.deepcopy(params)
    phases = [
        {"until_step": end, "stride": phase.tokenization.stride, "dilation": phase.tokenization.dilation}
        for phase, end in zip(schedule.phases, [*schedule.boundaries, None], strict=True)
    ]
    # Of the schedule's transition as it is in steps; a preset's share would be another number of them.
    share = schedule.transition / steps
    params.override({"task": {"retokenization": {"phases": phases, "transition": share}}})
    params.trainer.train_steps = steps
    rate = params.trainer.optimizer_config.learning_rate
    if rate.type in ENDING:
        rate.get().decay_steps = steps
    return params


def evaluations(epochs: int) -> int:
    """How often a training of so many epochs is evaluated."""
    return ceil_div(epochs, _epochs_between_evaluations(epochs))


def _epochs_between_evaluations(epochs: int) -> int:
    return max(1, epochs // 12)


def _epochs(params: cfg.ExperimentConfig, recipe: str, examples: int) -> int:
    return photographs.epochs(examples) if recipe == PHOTOGRAPHS else epochs_of(params)


def _design(params: cfg.ExperimentConfig) -> list[Any]:
    """What `_KEPT` names."""
    model, backbone = params.task.model, params.task.model.backbone
    return [
        model.num_classes,
        list(model.input_size),
        backbone.type,
        backbone.asvit.topology,
        backbone.asvit.base_stride,
    ]


def _data(plan: Plan, dataset: Dataset, topology: Topology) -> dict[str, Any]:
    """What the data set, the topology and the plan decide of the task."""
    mirror = {} if plan.flip is None else {"aug_rand_hflip": plan.flip}
    start = {"init_checkpoint": plan.init_checkpoint, "init_checkpoint_modules": plan.init_modules}
    return {
        "task": {
            "seed": plan.seed,
            "class_names": list(dataset.class_names),
            "class_shares": dataset.shares("train") if plan.balanced else [],
            "stored_side": dataset.stored_side,
            **(start if plan.init_checkpoint else {}),
            "model": {
                "num_classes": len(dataset.class_names),
                "input_size": [*plan.image_size, 3],
                "backbone": {
                    "asvit": {
                        "topology": str(topology),
                        "base_stride": plan.base_stride,
                        "stride": plan.base_stride,
                    }
                },
            },
            **({} if plan.retokenization is None else {"retokenization": {"preset": plan.retokenization}}),
            # JPEGs are cropped before they are decoded.
            "train_data": {
                "input_path": dataset.train_path,
                "seed": plan.seed,
                "decode_jpeg_only": dataset.jpeg_only,
                **mirror,
            },
            "validation_data": {"input_path": dataset.validation_path},
            "evaluation": {"top_k": min(5, len(dataset.class_names))},
        }
    }


def _steps(examples: int, epochs: int, batch_size: int) -> dict[str, Any]:
    """Every number of steps; a loop of them is an epoch."""
    epoch_steps = examples // batch_size
    train_steps = epoch_steps * epochs
    return {
        "task": {"train_data": {"global_batch_size": batch_size}},
        "trainer": {
            "train_steps": train_steps,
            "steps_per_loop": epoch_steps,
            "summary_interval": epoch_steps,
            "checkpoint_interval": epoch_steps * max(1, epochs // 12),
            "validation_interval": epoch_steps * _epochs_between_evaluations(epochs),
            "optimizer_config": {
                # Of every kind, whichever a recipe or an override chooses.
                "learning_rate": {kind: {"decay_steps": train_steps} for kind in ENDING},
                "warmup": {kind: {"warmup_steps": max(1, train_steps // 20)} for kind in WARMUPS},
            },
        },
    }
