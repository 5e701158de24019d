"""What all kinds of training data have in common: files found and looked into, classes checked before and in training.

The Model Garden finds a missing file only after minutes of building, waits minutes for the network when a data set of
TensorFlow Datasets is not there, and trains silently on labels that its one-hot encoding drops.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import input_reader
from official.vision.dataloaders import tfds_classification_decoders

from asvit_tf.dataloaders import record_paths
from asvit_tf.errors import UserError

_PEEKED = 64  # Records that are looked at.
_UNTUNED_CORES = 16  # TensorFlow's calls at once where nothing is tuned.
LABEL_PROBLEM = "a label belongs to none of the classes"


def record_files(name: str, input_path: str | Sequence[str]) -> list[str]:
    """The files that a data section's `input_path` names.

    Raises:
      UserError: There are none; `name` says whose path it is.
    """
    try:
        files = input_reader.match_files(record_paths.understood(input_path))
    except ValueError as error:
        raise UserError(f"{name}.input_path: {error}") from error
    missing = [file for file in files if not tf.io.gfile.exists(file)]
    if missing:
        raise UserError(f"{name}.input_path: {missing[0]} does not exist")
    return files


@contextlib.contextmanager
def decodable_tfds(name: str) -> Iterator[None]:
    """Has the Model Garden decode a data set of TensorFlow Datasets inside the `with` block, whatever its name.

    It decodes only those on a list of its own, by the features `image` and `label`; the others join the list meanwhile.

    Args:
      name: Name of the data set; "" for none.
    """
    decoders = tfds_classification_decoders.TFDS_ID_TO_DECODER_MAP
    if not name or name in decoders:
        yield
        return
    decoders[name] = tfds_classification_decoders.ClassificationDecorder
    try:
        yield
    finally:
        del decoders[name]


def peek(file: str) -> Iterator[Mapping[str, tf.train.Feature]]:
    """Features of the first records of a file, by name; a name that is not there has no values."""
    # Not tf.data: whatever runs an operation before a strategy for several hosts is made, makes that fail.
    for record in itertools.islice(tf.compat.v1.io.tf_record_iterator(file), _PEEKED):
        yield tf.train.Example.FromString(record).features.feature


def check_batch_size(name: str, params: cfg.DataConfig) -> None:
    """Checks the batch size of a data section.

    Raises:
      UserError: It is below 1; `name` says whose it is.
    """
    if params.global_batch_size < 1:
        raise UserError(f"{name}.global_batch_size is {params.global_batch_size}; it must be at least 1")


def check_input_size(size: Sequence[int]) -> None:
    """Checks a model's `input_size`.

    Raises:
      UserError: It is not height, width and 3; images are always read in colour, grey ones too.
    """
    if len(size) != 3 or not all(isinstance(side, int) and side > 0 for side in size) or size[2] != 3:
        raise UserError(
            f"task.model.input_size is {list(size)}; it must be height, width and 3 (grey images are read as colours)"
        )


def check_classes(file: str, what: str, seen: Collection[int], least: int, num_classes: int) -> None:
    """Checks the classes that a file's first records have.

    Args:
      file, what: For the message: the file, and what its classes are called.
      seen: Classes; none are right.
      least: The smallest that is allowed.
      num_classes: Classes of the model; labels count from 0.

    Raises:
      UserError: A class is smaller or larger.
    """
    if seen and not least <= min(seen) <= max(seen) < num_classes:
        raise UserError(
            f"{file} has {what} from {min(seen)} to {max(seen)}; allowed by task.model.num_classes are "
            f"{least} to {num_classes - 1}"
        )


def checked(dataset: tf.data.Dataset, is_good: Callable[[Any], tf.Tensor]) -> tf.data.Dataset:
    """The same batches of (images, labels); labels that are not good end the training.

    Args:
      dataset: A data set of (images, labels).
      is_good: Labels of a batch to a bool.

    Raises:
      tf.errors.InvalidArgumentError: From the iterator, with `LABEL_PROBLEM` in its message.
    """

    def check_batch(images, labels):
        with tf.control_dependencies([tf.debugging.Assert(is_good(labels), [LABEL_PROBLEM])]):
            return images, tf.nest.map_structure(tf.identity, labels)

    return dataset.map(check_batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def checked_labels(dataset: tf.data.Dataset, num_classes: int) -> tf.data.Dataset:
    """`checked` for labels, [B] whole or [B, classes] soft, where one-hot encoding would drop those without a class."""

    def is_good(labels):
        if labels.shape.rank == 1:
            return tf.reduce_all((labels >= 0) & (tf.cast(labels, tf.int64) < num_classes))
        # Mixed and smoothed or not, the shares of all classes add up to one.
        return tf.reduce_all(tf.abs(tf.reduce_sum(tf.cast(labels, tf.float32), -1) - 1) < 0.05)

    return checked(dataset, is_good)


def tuned_where_it_helps(dataset: tf.data.Dataset, cores: int | None = None) -> tf.data.Dataset:
    """The same data, without the thread that tunes parallelism on hosts where it has nothing to tune.

    Without tuning, TensorFlow runs as many calls at once as there are cores, up to 16. With it, an iterator joins that
    thread when it ends, and was seen to wait for it for a minute and more, idle, wherever Python's garbage collection
    met it (`RootDataset::Iterator::~Iterator` of TensorFlow 2.20).

    Args:
      dataset: An input pipeline.
      cores: Of the host; None for those of this one.
    """
    if (cores or os.cpu_count() or 1) > _UNTUNED_CORES:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
