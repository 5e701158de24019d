"""Refuses classification experiments and data that could only fail later, or would be trained or evaluated wrongly."""

from __future__ import annotations

import json
import os

import tensorflow as tf
from google.protobuf import message
from official.vision.configs import image_classification

from asvit_tf.dataloaders import inputs
from asvit_tf.dataloaders.class_records import PNG
from asvit_tf.dataloaders.folders import prepared_tfds
from asvit_tf.errors import UserError


def metrics(task: image_classification.ImageClassificationTask) -> tuple[str, ...]:
    """What a classifier's evaluation reports and a best checkpoint may be chosen by."""
    return ("accuracy", "balanced_accuracy", f"top_{task.evaluation.top_k}_accuracy", "validation_loss")


def check_model(task: image_classification.ImageClassificationTask) -> None:
    """Checks that labels and losses agree: Mixup and CutMix make soft labels; without them labels are numbers.

    Raises:
      UserError: They do not, or the backbone has no features to classify by.
    """
    inputs.check_input_size(task.model.input_size)
    names = getattr(task, "class_names", [])
    if names and len(names) != task.model.num_classes:
        raise UserError(
            f"task.model.num_classes is {task.model.num_classes}, but task.class_names are {len(names)}; they must be "
            "as many"
        )
    shares = getattr(task, "class_shares", [])
    if shares and (len(shares) != task.model.num_classes or not min(shares) > 0):
        raise UserError(
            f"task.class_shares has {len(shares)} numbers, the least {min(shares)}; it must have one above 0 for each "
            f"of the {task.model.num_classes} classes"
        )
    backbone = task.model.backbone
    if backbone.type == "asvit" and not backbone.asvit.pre_logits:
        raise UserError("task.model.backbone.asvit.pre_logits is false; a classifier needs it, so it must be true")
    if task.train_data.is_multilabel:
        return
    mixed, losses = task.train_data.mixup_and_cutmix is not None, task.losses
    if mixed != losses.soft_labels or (mixed and losses.one_hot):
        raise UserError(
            f"task.losses has soft_labels={losses.soft_labels} and one_hot={losses.one_hot} "
            f"{'with' if mixed else 'without'} train_data.mixup_and_cutmix; allowed are true and false with it, and "
            "false and true (or false) without"
        )


def check(task: image_classification.ImageClassificationTask, section: str) -> None:
    """Checks one of the two data sections of a classification task.

    Args:
      task: The task.
      section: "train_data" or "validation_data".

    Raises:
      UserError: There is no data at that place, it is no classification data, or it has more classes than the model.
    """
    name, params = f"task.{section}", getattr(task, section)
    inputs.check_batch_size(name, params)
    if params.tfds_name:
        _check_tfds(name, params, task.model.num_classes)
    elif not params.input_path:
        raise UserError(f"{name} has no data; set {name}.input_path, or {name}.tfds_name and {name}.tfds_split")
    elif params.file_type == "tfrecord":
        _check_records(name, params, task)


def _check_tfds(name: str, params: image_classification.DataConfig, num_classes: int) -> None:
    import tensorflow_datasets as tfds

    if params.input_path:
        raise UserError(f"{name} has both input_path and tfds_name; set one of them to ''")
    info = tfds.builder_from_directory(str(prepared_tfds(params.tfds_name, params.tfds_data_dir))).info
    features = info.features or {}
    if not {"image", "label"} <= set(features):
        raise UserError(f"data set {params.tfds_name!r} of {name} has no features named image and label")
    if any(part.split("[")[0] not in info.splits for part in params.tfds_split.replace(" ", "").split("+")):
        raise UserError(f"{name}.tfds_split is {params.tfds_split!r}; allowed are parts of {', '.join(info.splits)}")
    classes = getattr(features["label"], "num_classes", None) or 0
    if classes > num_classes:
        raise UserError(
            f"data set {params.tfds_name!r} has {classes} classes, the model {num_classes}; set task.model.num_classes"
        )


def _check_records(
    name: str,
    params: image_classification.DataConfig,
    task: image_classification.ImageClassificationTask,
) -> None:
    files = inputs.record_files(name, params.input_path)
    first = os.path.basename(files[0])
    # Whichever section is read, the Model Garden takes these names from the one for training.
    keys = (task.train_data.image_field_key, task.train_data.label_field_key)
    num_classes = task.model.num_classes
    labels: list[int] = []
    try:
        for features in inputs.peek(files[0]):
            image, label = (features[key] for key in keys)
            png = image.bytes_list.value[0].startswith(PNG)
            if png and params.decode_jpeg_only and params.aug_crop:  # Without crops everything is decoded.
                raise UserError(f"{first} holds PNG images; set {name}.decode_jpeg_only=false")
            labels += label.int64_list.value
    except (tf.errors.OpError, message.DecodeError, IndexError):
        labels.clear()
    if not labels:
        raise UserError(f"{name}.input_path: {first} holds no TFRecords with {' and '.join(keys)}")
    inputs.check_classes(first, "labels", labels, 0, num_classes)
    prepared = _prepared_classes(os.path.dirname(files[0]))
    if prepared not in (None, num_classes):
        raise UserError(
            f"{name}.input_path: the data have {prepared} classes, the model {num_classes}; set "
            f"task.model.num_classes={prepared}"
        )


def _prepared_classes(directory: str) -> int | None:
    """How many classes the data have that `asvit prepare` wrote into a directory; None if it wrote none."""
    path = os.path.join(directory, "dataset.json")
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path) as file:
            return len(json.load(file)["class_names"])
    except (ValueError, KeyError, TypeError, tf.errors.OpError):
        return None  # Of another program.
