"""Refuses detection experiments and data that could only fail later, or would be trained or evaluated wrongly."""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow as tf
from google.protobuf import message
from official.vision.configs import maskrcnn

from asvit_tf.dataloaders import inputs
from asvit_tf.errors import UserError

_BOXES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def metrics(task: Any) -> tuple[str, ...]:
    """What a detection task's evaluation reports and a best checkpoint may be chosen by."""
    masks = tuple(f"mask_{name}" for name in _BOXES) if _has_masks(task) else ()
    # The Model Garden evaluates no loss of Mask R-CNN.
    loss = () if isinstance(task, maskrcnn.MaskRCNNTask) else ("validation_loss",)
    return (*_BOXES, *masks, *loss)


def check_model(task: Any) -> None:
    """Checks the model of a detection task.

    Raises:
      UserError: The input size does not suit the feature pyramid, there is no class beside the background, or the names
        are not as many as the classes.
    """
    model = task.model
    multiple = 2**model.max_level
    inputs.check_input_size(model.input_size)
    height, width = model.input_size[:2]
    if height % multiple or width % multiple:
        padded = [max(-(-side // multiple), 1) * multiple for side in (height, width)]
        raise UserError(
            f"task.model.input_size is {height} x {width}; a feature pyramid up to level {model.max_level} needs sides "
            f"that are multiples of {multiple}, such as {padded[0]} x {padded[1]}"
        )
    if model.num_classes < 2:
        raise UserError(
            f"task.model.num_classes is {model.num_classes}; the background is a class too, so at least 2 are needed"
        )
    if task.class_names and len(task.class_names) != model.num_classes:
        raise UserError(f"the task has {model.num_classes} classes but {len(task.class_names)} class_names")


def check(task: Any, section: str) -> None:
    """Checks one of the two data sections of a detection task.

    Args:
      task: The task.
      section: "train_data" or "validation_data".

    Raises:
      UserError: There are no detection data at that place, they have more classes than the model, or the annotation
        file that an evaluation needs is missing or does not suit.
    """
    _check_records(section, first_file(task, section, "asvit prepare-coco"), task)
    if section == "validation_data":
        _check_annotations(task)


def first_file(task: Any, section: str, prepared_by: str) -> str:
    """The first file of TFRecords that a data section names.

    Args:
      task, section: As `check`.
      prepared_by: The command that writes such files.

    Raises:
      UserError: There are none, or batches are empty.
    """
    name, params = f"task.{section}", getattr(task, section)
    inputs.check_batch_size(name, params)
    if params.tfds_name or not params.input_path:
        raise UserError(f"{name} has no TFRecords; set {name}.input_path to what {prepared_by} wrote")
    return inputs.record_files(name, params.input_path)[0]


def _has_masks(task: Any) -> bool:
    return getattr(task.model, "include_mask", False)


def _check_records(section: str, file: str, task: Any) -> None:
    labels: list[int] = []
    images = 0
    try:
        for features in inputs.peek(file):
            images += bool(features["image/encoded"].bytes_list.value and features["image/source_id"].bytes_list.value)
            boxes = features["image/object/class/label"].int64_list.value
            labels += boxes
            if _has_masks(task) and len(features["image/object/mask"].bytes_list.value) != len(boxes):
                raise UserError(f"{file} holds no masks; prepare them with asvit prepare-coco, without --no-masks")
    except (tf.errors.OpError, message.DecodeError):
        images = 0
    if not images:
        raise UserError(f"task.{section}.input_path: {file} holds no TFRecords of detection data")
    inputs.check_classes(file, "categories", labels, 1, task.model.num_classes)


def _check_annotations(task: Any) -> None:
    """An evaluation compares with the annotation file; the Model Garden notices its absence after minutes."""
    path = task.annotation_file
    if not path:
        raise UserError("task.annotation_file is not set; asvit prepare-coco writes one, annotations_validation.json")
    if not tf.io.gfile.exists(path):
        raise UserError(f"task.annotation_file: {path} does not exist; asvit prepare-coco writes one")
    try:
        with tf.io.gfile.GFile(path) as file:
            categories = [int(row["id"]) for row in json.load(file)["categories"]]
    except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise UserError(f"{path} is not a COCO annotation file") from error
    if categories and max(categories) >= task.model.num_classes:
        raise UserError(
            f"{os.path.basename(path)} has categories up to {max(categories)}; task.model.num_classes is "
            f"{task.model.num_classes}, it must be at least {max(categories) + 1}"
        )
