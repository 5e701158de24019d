"""Record files of splits, and the section of an experiment that names them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from asvit_tf.dataloaders import experiment_yaml

CLASSES = "image/segmentation/class/encoded"  # Feature: the class of every pixel, a grey PNG of 8 bits.
# Features of a photograph that is stored reduced, alone: what `image/height` and `image/width` were before.
OWN_SIZE = ("image/own/height", "image/own/width")


def task(class_names: Sequence[str], shards: int, stored_pixels: int | None = None) -> dict[str, Any]:
    """The part of a task that names data, beside which its YAML lies, and classes.

    Args:
      class_names: By class.
      shards: Files of each split.
      stored_pixels: Most pixels of photographs in the training records; None where they are not reduced.
    """
    paths = {split: f"{experiment_yaml.HERE}/{pattern(split, shards)}" for split in ("train", "validation")}
    stored = {} if stored_pixels is None else dict(stored_pixels=stored_pixels)
    return dict(
        **stored,
        class_names=list(class_names),
        model=dict(num_classes=len(class_names)),
        train_data=dict(input_path=paths["train"]),
        validation_data=dict(input_path=paths["validation"]),
    )


def pattern(split: str, shards: int) -> str:
    """The file of a split, or the pattern of its files."""
    return f"{split}.tfrecord" if shards == 1 else f"{split}-*-of-{shards:05d}.tfrecord"


def order(images: int) -> np.ndarray:
    """The fixed random order in which images are written, [images]: places."""
    return np.random.default_rng(0).permutation(images)


@contextlib.contextmanager
def writer(directory: Path, split: str, shards: int) -> Iterator[Callable[[tf.train.Example], None]]:
    """Yields what writes an example; examples are dealt out to the files of a split in turn."""
    with contextlib.ExitStack() as stack:
        names = [pattern(split, shards).replace("*", f"{i:05d}") for i in range(shards)]
        writers = [stack.enter_context(tf.io.TFRecordWriter(str(directory / name))) for name in names]
        written = 0

        def write(example: tf.train.Example) -> None:
            nonlocal written
            writers[written % shards].write(example.SerializeToString())
            written += 1

        yield write
