"""Refuses segmentation experiments and data that could only fail later, or would be trained or evaluated wrongly."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import message
from PIL import Image, UnidentifiedImageError

from asvit_tf import detection_checks, inputs
from asvit_tf.errors import UserError

_MAP = "image/segmentation/class/encoded"


def metrics(task: Any) -> tuple[str, ...]:
    """What an evaluation reports and a best checkpoint may be chosen by."""
    return ("mean_iou", "validation_loss", *(f"iou/{i}" for i in range(task.model.num_classes)))


def check_model(task: Any) -> None:
    """Checks the model of a segmentation task.

    Raises:
      UserError: As in detection; or images are resized to another size than the model's.
    """
    detection_checks.check_model(task)
    for section in ("train_data", "validation_data"):
        data = getattr(task, section)
        size = list(data.crop_size or data.output_size) if data.is_training else list(data.output_size)
        if size != list(task.model.input_size[:2]):
            raise UserError(
                f"images of task.{section} are resized to {size}; it must be the model's input_size, "
                f"{list(task.model.input_size[:2])}"
            )


def check(task: Any, section: str) -> None:
    """Checks one of the two data sections of a segmentation task.

    Args:
      task: The task.
      section: "train_data" or "validation_data".

    Raises:
      UserError: There are no TFRecords with a class for every pixel at that place, or they have more classes than the
        model.
    """
    name, params = f"task.{section}", getattr(task, section)
    if section == "validation_data":
        detection_checks.check_whole(name, params)
    detection_checks.check_given(name, params, "asvit prepare-coco --semantic")
    file = inputs.record_files(name, params.input_path)[0]
    seen: set[int] = set()
    try:
        for features in inputs.peek(file):
            for encoded in features[_MAP].bytes_list.value:
                # Not TensorFlow, for the reason that `inputs.peek` gives.
                seen.update(np.unique(np.asarray(Image.open(io.BytesIO(encoded)))).tolist())
    except (tf.errors.OpError, message.DecodeError, UnidentifiedImageError):
        seen.clear()
    if not seen:
        raise UserError(f"{file} holds no class for every pixel; prepare it with asvit prepare-coco --semantic")
    classes, largest = seen - {task.losses.ignore_label}, task.model.num_classes - 1
    if classes and max(classes) > largest:
        raise UserError(
            f"{file} has classes from {min(classes)} to {max(classes)}; allowed by task.model.num_classes are "
            f"0 to {largest}"
        )
