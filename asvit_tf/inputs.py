"""Refuses training data that the input pipeline could not read, or would read wrongly, before anything is built.

The Model Garden finds a missing file only after minutes of building, waits minutes for the network when a data set of
TensorFlow Datasets is not there, and trains silently on labels that its one-hot encoding drops.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from google.protobuf import message
from official.core import input_reader
from official.vision.configs import image_classification
from official.vision.dataloaders import tfds_classification_decoders

from asvit_tf.data import PNG
from asvit_tf.errors import UserError
from asvit_tf.folders import prepared_tfds

_PEEKED = 64  # Records that are looked at.
LABEL_PROBLEM = "a label belongs to none of the classes"


def metrics(task: image_classification.ImageClassificationTask) -> tuple[str, ...]:
    """What a classifier's evaluation reports and a best checkpoint may be chosen by."""
    return ("accuracy", f"top_{task.evaluation.top_k}_accuracy", "validation_loss")


def check_model(task: image_classification.ImageClassificationTask) -> None:
    """Checks that labels and losses agree: Mixup and CutMix make soft labels; without them labels are numbers.

    Raises:
      UserError: They do not.
    """
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
    if params.global_batch_size < 1:
        raise UserError(f"{name}.global_batch_size is {params.global_batch_size}; it must be at least 1")
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
    # The Model Garden decodes only the data sets on this list.
    decoders = tfds_classification_decoders.TFDS_ID_TO_DECODER_MAP
    decoders.setdefault(params.tfds_name, tfds_classification_decoders.ClassificationDecorder)


def record_files(name: str, input_path: str | Sequence[str]) -> list[str]:
    """The files that a data section's `input_path` names.

    Raises:
      UserError: There are none; `name` says whose path it is.
    """
    try:
        files = input_reader.match_files(input_path)
    except ValueError as error:
        raise UserError(f"{name}.input_path: {error}") from error
    missing = [file for file in files if not tf.io.gfile.exists(file)]
    if missing:
        raise UserError(f"{name}.input_path: {missing[0]} does not exist")
    return files


def peek(file: str) -> Iterator[Mapping[str, tf.train.Feature]]:
    """Features of the first records of a file, by name; a name that is not there has no values."""
    # Not tf.data: whatever runs an operation before a strategy for several hosts is made, makes that fail.
    for record in itertools.islice(tf.compat.v1.io.tf_record_iterator(file), _PEEKED):
        yield tf.train.Example.FromString(record).features.feature


def _check_records(
    name: str,
    params: image_classification.DataConfig,
    task: image_classification.ImageClassificationTask,
) -> None:
    files = record_files(name, params.input_path)
    first = os.path.basename(files[0])
    # Whichever section is read, the Model Garden takes these names from the one for training.
    keys = (task.train_data.image_field_key, task.train_data.label_field_key)
    num_classes = task.model.num_classes
    labels: list[int] = []
    try:
        for features in peek(files[0]):
            image, label = (features[key] for key in keys)
            png = image.bytes_list.value[0].startswith(PNG)
            if png and params.decode_jpeg_only and params.aug_crop:  # Without crops everything is decoded.
                raise UserError(f"{first} holds PNG images; set {name}.decode_jpeg_only=false")
            labels += label.int64_list.value
    except (tf.errors.OpError, message.DecodeError, IndexError):
        labels.clear()
    if not labels:
        raise UserError(f"{name}.input_path: {first} holds no TFRecords with {' and '.join(keys)}")
    if not 0 <= min(labels) <= max(labels) < num_classes:
        raise UserError(
            f"{first} has labels from {min(labels)} to {max(labels)}; allowed by task.model.num_classes are "
            f"0 to {num_classes - 1}"
        )


def checked_labels(dataset: tf.data.Dataset, num_classes: int) -> tf.data.Dataset:
    """The same batches; a label that no class belongs to ends the training, where one-hot encoding would drop it.

    Args:
      dataset: Of (images, labels), labels [B] whole or [B, classes] soft.
      num_classes: Of the model.

    Raises:
      tf.errors.InvalidArgumentError: From the iterator, with `LABEL_PROBLEM` in its message.
    """

    def check_batch(images, labels):
        if labels.shape.rank == 1:
            good = tf.reduce_all((labels >= 0) & (tf.cast(labels, tf.int64) < num_classes))
        else:
            # Mixed and smoothed or not, the shares of all classes add up to one.
            good = tf.reduce_all(tf.abs(tf.reduce_sum(tf.cast(labels, tf.float32), -1) - 1) < 0.05)
        with tf.control_dependencies([tf.debugging.Assert(good, [LABEL_PROBLEM])]):
            return images, tf.identity(labels)

    return dataset.map(check_batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
