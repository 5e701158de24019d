"""The training of a detector or segmenter on a user's images: a recipe, with what follows from the data in it."""

from __future__ import annotations

import importlib.resources
import os
from typing import Any

from official.core import config_definitions as cfg
from official.core import exp_factory

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.dataloaders.boxes import Boxes
from asvit_tf.dataloaders.coco import Prepared
from asvit_tf.dataloaders.labels.prepare import Prepared as Labelled
from asvit_tf.design.grids import ceil_div
from asvit_tf.tasks import experiment_files, photographs
from search.dense import sizes
from search.dense.choices import Choices, SegmentationChoices
from search.dense.settings import DenseSettings, DetectionSettings, SegmentationSettings
from search.runs.designing import Kept

EXPERIMENTS = {
    "retinanet": "retinanet_asvit_coco",
    "cascade": "cascadercnn_asvit_coco",
    "segmentation": "segmentation_asvit_coco",
}
_RECIPES = {
    "retinanet": "photographs_retinanet_asvit_cpu.yaml",
    "cascade": "photographs_cascadercnn_asvit_cpu.yaml",
    "segmentation": "photographs_segmentation_asvit_cpu.yaml",
}
_EVALUATIONS = 6
_WARMUP_SHARE = 0.05
_CHECKPOINT_STEPS = 600
_MOST_SHUFFLED = 1000


def registered(model: str) -> cfg.ExperimentConfig:
    """The experiment as the package registers it."""
    return exp_factory.get_exp_config(EXPERIMENTS[model])


def experiment(
    settings: DetectionSettings, choices: Choices, prepared: Prepared, boxes: Boxes, kept: Kept | None
) -> cfg.ExperimentConfig:
    """The experiment that trains a detector.

    Args:
      settings: Of the run.
      choices: What was chosen.
      prepared: The records.
      boxes: Of the training split.
      kept: The network to start from.

    Raises:
      UserError: An override names a field that does not exist, or has a value of another type.
    """
    params = _recipe(settings.model, prepared.config_file)
    experiment_files.override(params, _fitted(settings, choices, prepared, boxes), "asvit detect-run")
    if settings.model == "cascade":
        experiment_files.override(params, _two_stages(boxes), "asvit detect-run")
    _last(params, settings, kept, "asvit detect-run")
    return params


def check(model: str, settings: DenseSettings) -> None:
    """Refuses the user's fields before any image is read.

    Args:
      model: Of `EXPERIMENTS`.
      settings: Of the run.

    Raises:
      UserError: An override names a field that does not exist, or has a value of another type.
    """
    _last(_recipe(model), settings, None, "")


def _recipe(model: str, *more: str) -> cfg.ExperimentConfig:
    """The experiment of a recipe, with more YAMLs, such as what the preparation of the data wrote."""
    params = registered(model)
    recipe = str(importlib.resources.files("official_configs") / _RECIPES[model])
    for source in (recipe, *more):
        experiment_files.override(params, experiment_files.read(source), source)
    return params


def _last(params: cfg.ExperimentConfig, settings: DenseSettings, kept: Kept | None, command: str) -> None:
    """Sets where to start from, then the user's fields; checks all types."""
    usual = type(params)(task=type(params.task)())
    if kept is not None:
        start = dict(init_checkpoint=kept.checkpoint, init_checkpoint_modules="backbone")
        experiment_files.override(params, dict(task=start), command)
    for text in settings.params_override:
        experiment_files.override_by_text(params, text)
    experiment_files.check_types(params, usual)


def segmentation(
    settings: SegmentationSettings, choices: SegmentationChoices, prepared: Labelled, kept: Kept | None
) -> cfg.ExperimentConfig:
    """The experiment that trains a segmenter; arguments and errors as of `experiment`."""
    params = _recipe("segmentation", prepared.config_file)
    images = {split: count.images for split, count in prepared.counts.items()}
    size = list(choices.size)
    fitted = {
        "task": {
            "seed": settings.seed,
            "losses": {"class_weights": sizes.class_weights(prepared.counts["train"].pixels)},
            "model": {"input_size": [*size, 3], "backbone": {"asvit": {"topology": choices.topology}}},
            "train_data": {
                "global_batch_size": choices.batch_size,
                "seed": settings.seed,
                "output_size": size,
                "shuffle_buffer_size": _shuffled(images["train"], prepared),
            },
            "validation_data": {
                "global_batch_size": sizes.evaluated_at_once(
                    images["validation"], *params.task.validation_data.groundtruth_padded_size
                ),
                "output_size": size,
            },
        },
        **_steps(choices.epochs, max(1, images["train"] // choices.batch_size), choices.learning_rate),
    }
    experiment_files.override(params, fitted, "asvit segment-run")
    _last(params, settings, kept, "asvit segment-run")
    return params


def _fitted(settings: DetectionSettings, choices: Choices, prepared: Prepared, boxes: Boxes) -> dict[str, Any]:
    """The fields that follow from what was chosen."""
    epoch = max(1, len(boxes.images) // choices.batch_size)
    held_out = prepared.counts["validation"].images
    fitted = choices.anchors
    parser = dict(max_num_instances=max(10, boxes.most_in_an_image))
    return {
        "task": {
            "seed": settings.seed,
            "model": {
                "input_size": [*choices.size, 3],
                "min_level": fitted.min_level,
                "max_level": fitted.max_level,
                "anchor": {
                    "num_scales": fitted.num_scales,
                    "anchor_size": fitted.anchor_size,
                    "aspect_ratios": list(fitted.aspect_ratios),
                },
                "backbone": {"asvit": {"topology": choices.topology}},
                "detection_generator": {
                    "max_num_detections": choices.most_found,
                    "pre_nms_top_k": max(500, 5 * choices.most_found),
                },
            },
            "train_data": {
                "global_batch_size": choices.batch_size,
                "seed": settings.seed,
                "shuffle_buffer_size": _shuffled(len(boxes.images), prepared),
                "parser": parser,
            },
            "validation_data": {"global_batch_size": min(16, held_out), "parser": parser},
        },
        **_steps(choices.epochs, epoch, choices.learning_rate),
    }


def _shuffled(examples: int, prepared: Prepared | Labelled) -> int:
    """Records that are shuffled in memory."""
    record_bytes = os.path.getsize(os.path.join(prepared.directory, "train.tfrecord"))
    return min(_MOST_SHUFFLED, photographs.shuffled(examples, record_bytes))


def _steps(epochs: int, epoch: int, learning_rate: float) -> dict[str, Any]:
    """Every number of steps, and the learning rate; a loop of steps is an epoch, or an even part of a long one."""
    number, loop = sizes.loops(epoch)
    epoch = number * loop
    steps, interval = epochs * epoch, epoch * ceil_div(epochs, _EVALUATIONS)
    return {
        "trainer": {
            "train_steps": steps,
            "steps_per_loop": loop,
            "summary_interval": loop,
            "validation_interval": interval,
            "checkpoint_interval": min(interval, loop * max(1, _CHECKPOINT_STEPS // loop)),
            "optimizer_config": {
                "learning_rate": {"cosine": {"initial_learning_rate": learning_rate, "decay_steps": steps}},
                "warmup": {"linear": {"warmup_steps": max(1, round(_WARMUP_SHARE * steps))}},
            },
        }
    }


def _two_stages(boxes: Boxes) -> dict[str, Any]:
    """Masks where the data have them; as many proposals as crowded images need."""
    most = boxes.most_in_an_image
    proposals = min(1000, max(100, 4 * most))
    looked_at = {name: max(500, 2 * proposals) for name in ("pre_nms_top_k", "test_pre_nms_top_k")}
    model = {
        "include_mask": boxes.with_masks,
        "roi_generator": {**looked_at, "num_proposals": proposals, "test_num_proposals": proposals},
        "roi_sampler": {"num_sampled_rois": min(512, max(48, 2 * most))},
        "mask_sampler": {"num_sampled_masks": min(128, max(12, most // 2))},
    }
    return {"task": {"model": model}}
