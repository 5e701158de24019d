"""Refuses segmentation experiments and data that could only fail later, or would be trained or evaluated wrongly."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import message
from PIL import Image

from asvit_tf.dataloaders import inputs
from asvit_tf.errors import UserError
from asvit_tf.tasks.checks import detection

_LEVELS = (2, 5)  # That the backbone has.
_PYRAMIDS = ("fpn", "nasfpn")


def metrics(task: Any) -> tuple[str, ...]:
    """What every evaluation reports and a best checkpoint may be chosen by: an absent class has no IoU."""
    return ("mean_iou", "validation_loss")


def check_model(task: Any) -> None:
    """Checks the model of a segmentation task.

    Raises:
      UserError: As in detection; or a setting that the Model Garden fails with only after building, or after training.
    """
    model, evaluated = task.model, task.validation_data
    detection.check_model(task)
    if not _LEVELS[0] <= model.min_level <= model.head.level <= model.max_level <= _LEVELS[1]:
        raise UserError(
            f"task.model has min_level {model.min_level}, head.level {model.head.level} and max_level "
            f"{model.max_level}; they must rise, and allowed are {_LEVELS[0]} to {_LEVELS[1]}"
        )
    if model.head.feature_fusion == "pyramid_fusion" and model.decoder.type not in _PYRAMIDS:
        raise UserError(
            f"task.model.decoder.type is {model.decoder.type!r}; with head.feature_fusion pyramid_fusion allowed are "
            f"{', '.join(_PYRAMIDS)}"
        )
    weights = task.losses.class_weights
    if weights and len(weights) != model.num_classes:
        raise UserError(f"task.losses.class_weights are {len(weights)}, the model has {model.num_classes} classes")
    if not evaluated.resize_eval_groundtruth and not evaluated.groundtruth_padded_size:
        raise UserError("task.validation_data.resize_eval_groundtruth is false; then groundtruth_padded_size is needed")
    if not evaluated.resize_eval_groundtruth and (evaluated.centered_crop or not evaluated.preserve_aspect_ratio):
        raise UserError(
            "task.validation_data.resize_eval_groundtruth is false; then centered_crop must be false and "
            "preserve_aspect_ratio true"
        )
    if task.export_config.rescale_output:
        raise UserError("task.export_config.rescale_output is true; an exported model answers whole batches: set false")
    expected = list(model.input_size[:2])
    for section in ("train_data", "validation_data"):
        data = getattr(task, section)
        size = list(data.crop_size if data.is_training and data.crop_size else data.output_size)
        if size != expected:
            raise UserError(f"images of task.{section} are resized to {size}; it must be model.input_size, {expected}")


def check(task: Any, section: str) -> None:
    """Checks one of the two data sections of a segmentation task.

    Args:
      task: The task.
      section: "train_data" or "validation_data".

    Raises:
      UserError: There are no TFRecords with a class for every pixel at that place, or they have more classes than the
        model.
    """
    file = detection.first_file(task, section, "asvit prepare-segmentation or prepare-coco --semantic")
    seen: set[int] = set()
    data = getattr(task, section)
    at_own_size = not data.is_training and not data.resize_eval_groundtruth
    try:
        for features in inputs.peek(file):
            classes = _map_of(features, file)
            seen.update(np.unique(classes).tolist())
            if at_own_size and any(side > most for side, most in zip(classes.shape, data.groundtruth_padded_size)):
                raise UserError(
                    f"{file} holds an image of {classes.shape[0]} x {classes.shape[1]}; task.{section}."
                    f"groundtruth_padded_size is {list(data.groundtruth_padded_size)}, and every image has to fit in"
                )
    except (tf.errors.OpError, message.DecodeError):
        seen.clear()
    if not seen:
        raise UserError(f"task.{section}.input_path: {file} holds no TFRecords of segmentation data")
    inputs.check_classes(file, "classes", seen - {task.losses.ignore_label}, 0, task.model.num_classes)


def _map_of(features: Mapping[str, tf.train.Feature], file: str) -> np.ndarray:
    """The map of classes of one record, [H, W]."""
    maps = features["image/segmentation/class/encoded"].bytes_list.value
    if not maps:
        raise UserError(
            f"{file} holds no class for every pixel; asvit prepare-segmentation and prepare-coco --semantic write it"
        )
    try:
        # Not TensorFlow, for the reason that `inputs.peek` gives.
        classes = np.asarray(Image.open(io.BytesIO(maps[0])))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} holds a map of classes that is damaged") from error
    size = tuple(features[f"image/{side}"].int64_list.value[:1] for side in ("height", "width"))
    if not features["image/encoded"].bytes_list.value or tuple(map(list, size)) != tuple([n] for n in classes.shape):
        raise UserError(f"{file} holds an image without a map of classes of its own size")
    return classes
