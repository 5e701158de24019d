"""The training of a detector or segmenter on a user's images: a recipe, with what follows from the data in it."""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
from typing import Any

from official.core import config_definitions as cfg
from official.core import exp_factory

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.dataloaders import boxes as box_records
from asvit_tf.dataloaders.boxes import Boxes
from asvit_tf.dataloaders.coco import Prepared
from asvit_tf.dataloaders.labels.prepare import Prepared as Labelled
from asvit_tf.design.grids import ceil_div
from asvit_tf.errors import UserError
from asvit_tf.tasks import experiment_files
from search.dense import anchors, sizes
from search.dense.anchors import Anchors
from search.dense.settings import TOPOLOGY, DenseSettings, DetectionSettings, SegmentationSettings
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
_FOUND_AT_LEAST = 20


@dataclasses.dataclass(frozen=True)
class Choices:
    """What was chosen by the data.

    Attributes:
      size: Rows and columns of the input.
      anchors: Of the feature pyramid.
      batch_size, epochs: Of the training.
      learning_rate: Its peak.
      topology: Of the backbone.
    """

    size: tuple[int, int]
    anchors: Anchors
    batch_size: int
    epochs: int
    learning_rate: float
    topology: str

    def lines(self, centres: Any, settings: DetectionSettings) -> list[str]:
        """In words."""
        given = "as given" if settings.image_size else "by the images"
        ratios = ", ".join(f"{ratio:g}" for ratio in self.anchors.aspect_ratios)
        boxes = ", ".join(f"{width:.0f} x {height:.0f} ({share:.0%})" for height, width, share in centres)
        return [
            f"input {self.size[0]} x {self.size[1]}, {given}",
            f"boxes there, width x height, by k-means: {boxes}",
            f"anchors: levels {self.anchors.min_level} to {self.anchors.max_level}, {self.anchors.num_scales} scales "
            f"from {self.anchors.anchor_size:g} places, width/height {ratios}: mean IoU with the boxes "
            f"{self.anchors.mean_iou:.2f}, {self.anchors.recall:.0%} at 0.5 or more",
            f"{self.epochs} epochs in batches of {self.batch_size}, learning rate {self.learning_rate:g}",
        ]


def choose(settings: DetectionSettings, boxes: Boxes, kind: str, kept: Kept | None) -> tuple[Choices, Any]:
    """What fits the data; and the clusters of boxes (`anchors.clusters`) in pixels of the input.

    Args:
      settings: Of the run; what is given there stays.
      boxes: Of the training split.
      kind: "cpu", "gpu" or "tpu".
      kept: The network to start from.

    Raises:
      UserError: There are no boxes.
    """
    if not len(boxes.sides):
        raise UserError("no image of the training split has a box; nothing can be learned")
    size = settings.size or sizes.input_size(boxes.images, sizes.MOST_PIXELS[kind])
    scaled = boxes.scaled(*size)
    is_two_stage = settings.model == "cascade"
    fitted = anchors.fit(
        scaled, sizes.levels(size, scaled, is_two_stage), settings.seed, (1,) if is_two_stage else (1, 2, 3)
    )
    batch = min(settings.batch_size or sizes.batch_size(size, kind), len(boxes.images))
    topology = settings.topology or (TOPOLOGY if kept is None else str(kept.topology))
    choices = Choices(
        size=size,
        anchors=fitted,
        batch_size=batch,
        epochs=settings.epochs or sizes.epochs(len(boxes.images)),
        learning_rate=sizes.learning_rate(batch),
        topology=topology,
    )
    return choices, anchors.clusters(scaled, settings.seed)


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
    images = {split: count.images for split, count in prepared.counts.items()}
    experiment_files.override(params, _fitted(settings, choices, boxes, images["validation"]), "asvit detect-run")
    if settings.model == "cascade":
        experiment_files.override(params, _masks(boxes.with_masks), "asvit detect-run")
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
            "model": {"input_size": [*size, 3], "backbone": {"asvit": {"topology": choices.topology}}},
            "train_data": {
                "global_batch_size": choices.batch_size,
                "seed": settings.seed,
                "output_size": size,
                "shuffle_buffer_size": min(images["train"], 1000),
            },
            "validation_data": {"global_batch_size": min(8, images["validation"]), "output_size": size},
        },
        **_steps(choices.epochs, max(1, images["train"] // choices.batch_size), choices.learning_rate),
    }
    experiment_files.override(params, fitted, "asvit segment-run")
    _last(params, settings, kept, "asvit segment-run")
    return params


@dataclasses.dataclass(frozen=True)
class SegmentationChoices:
    """What was chosen by the data; attributes as of `Choices`."""

    size: tuple[int, int]
    batch_size: int
    epochs: int
    learning_rate: float
    topology: str

    @classmethod
    def of(
        cls, settings: SegmentationSettings, prepared: Labelled, kind: str, kept: Kept | None
    ) -> SegmentationChoices:
        """What fits the data.

        Args:
          settings: Of the run; what is given there stays.
          prepared: The records.
          kind: "cpu", "gpu" or "tpu".
          kept: The network to start from.
        """
        train = prepared.counts["train"]
        records = os.path.join(prepared.directory, "train.tfrecord")
        size = settings.size or sizes.input_size(box_records.image_sizes(records), sizes.MOST_PIXELS[kind])
        batch = min(settings.batch_size or sizes.batch_size(size, kind), train.images)
        epochs = settings.epochs or sizes.epochs(train.images, "segmentation")
        topology = settings.topology or (TOPOLOGY if kept is None else str(kept.topology))
        return cls(size, batch, epochs, sizes.learning_rate(batch), topology)

    @property
    def lines(self) -> list[str]:
        """In words."""
        return [
            f"input {self.size[0]} x {self.size[1]}",
            f"{self.epochs} epochs in batches of {self.batch_size}, learning rate {self.learning_rate:g}",
        ]


def _fitted(settings: DetectionSettings, choices: Choices, boxes: Boxes, held_out: int) -> dict[str, Any]:
    """The fields that follow from what was chosen."""
    epoch = max(1, len(boxes.images) // choices.batch_size)
    fitted = choices.anchors
    most = max(_FOUND_AT_LEAST, 2 * boxes.most_in_an_image)
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
                "detection_generator": {"max_num_detections": min(100, most)},
            },
            "train_data": {
                "global_batch_size": choices.batch_size,
                "seed": settings.seed,
                "shuffle_buffer_size": min(len(boxes.images), 1000),
                "parser": parser,
            },
            "validation_data": {"global_batch_size": min(16, held_out), "parser": parser},
        },
        **_steps(choices.epochs, epoch, choices.learning_rate),
    }


def _steps(epochs: int, epoch: int, learning_rate: float) -> dict[str, Any]:
    """Every number of steps, and the learning rate; a loop of steps is an epoch."""
    steps, interval = epochs * epoch, epoch * ceil_div(epochs, _EVALUATIONS)
    return {
        "trainer": {
            "train_steps": steps,
            "steps_per_loop": epoch,
            "summary_interval": epoch,
            "validation_interval": interval,
            "checkpoint_interval": interval,
            "optimizer_config": {
                "learning_rate": {"cosine": {"initial_learning_rate": learning_rate, "decay_steps": steps}},
                "warmup": {"linear": {"warmup_steps": max(1, round(_WARMUP_SHARE * steps))}},
            },
        }
    }


def _masks(has_masks: bool) -> dict[str, Any]:
    """Masks are trained where the data have them."""
    return {"task": {"model": {"include_mask": has_masks}}}
