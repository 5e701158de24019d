"""The boxes of detection records: how large they are, and how many there are. No picture is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
import tqdm

from asvit_tf.dataloaders import inputs
from asvit_tf.dataloaders.labels import records


@dataclasses.dataclass(frozen=True)
class Boxes:
    """The objects of a split; without crowds, and without boxes that float32 makes as thin as nothing.

    Attributes:
      images: [N, 2], height and width of every image, in pixels; before it was reduced, where it is stored reduced.
      of_image: [M], the image of every box.
      sides: [M, 2], height and width of every box, in pixels.
      categories: [M], identifiers.
      with_masks: Whether every object has a mask.
    """

    images: np.ndarray
    of_image: np.ndarray
    sides: np.ndarray
    categories: np.ndarray
    with_masks: bool

    @property
    def most_in_an_image(self) -> int:
        """Boxes of the image that has most; 0 without any."""
        return int(np.bincount(self.of_image).max()) if len(self.of_image) else 0

    def scaled(self, height: int, width: int) -> np.ndarray:
        """[M, 2], the boxes' height and width when every image is resized to fit into `height` x `width`."""
        factors = np.min(np.array([height, width]) / self.images, axis=1)
        return self.sides * factors[self.of_image, None]


def image_sizes(pattern: str) -> np.ndarray:
    """[N, 2], height and width of every image of TFRecords, in pixels; where it is stored reduced, those of before.

    Args:
      pattern: Path or pattern of the files.

    Raises:
      UserError: There are no such files.
    """

    def parse(serialized: tf.Tensor) -> tf.Tensor:
        return _size(tf.io.parse_single_example(serialized, _SIZE_FEATURES))

    examples = tf.data.TFRecordDataset(inputs.record_files("train_data", pattern))
    return np.array(list(examples.map(parse, num_parallel_calls=tf.data.AUTOTUNE).as_numpy_iterator()), float)


def read(pattern: str, progress: bool = False) -> Boxes:
    """Those of the records that `prepare-coco` wrote.

    Args:
      pattern: Path or pattern of the files.
      progress: Show a progress bar on standard error.

    Raises:
      UserError: There are no such files.
    """
    corners = {f"image/object/bbox/{side}": tf.io.VarLenFeature(tf.float32) for side in _SIDES}
    flags = {f"image/object/{name}": tf.io.VarLenFeature(tf.int64) for name in ("class/label", "is_crowd")}
    masks = {"image/object/mask": tf.io.VarLenFeature(tf.string)}

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tf.io.parse_single_example(serialized, {**_SIZE_FEATURES, **corners, **flags, **masks})
        dense = {name: tf.sparse.to_dense(found[name]) for name in (*corners, *flags)}
        edges = tf.stack([dense[name] for name in corners])
        return _size(found), edges, *(dense[name] for name in flags), tf.size(found["image/object/mask"].values)

    files = inputs.record_files("train_data", pattern)
    examples = tf.data.TFRecordDataset(files).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    images, of_image, sides, categories, with_masks = [], [], [], [], True
    bar = tqdm.tqdm(examples.as_numpy_iterator(), desc="boxes", unit="image", disable=not progress)
    for number, (size, (top, left, bottom, right), labels, crowds, mask_count) in enumerate(bar):
        counted = crowds == 0 if len(crowds) == len(labels) else np.ones(len(labels), bool)
        with_masks = with_masks and bool(mask_count == len(labels))
        counted &= (bottom > top) & (right > left)
        images.append(size)
        of_image += [number] * int(counted.sum())
        sides.append((np.stack([bottom - top, right - left], axis=-1) * size)[counted])
        categories.append(labels[counted])
    return Boxes(
        np.array(images, float).reshape(-1, 2),
        np.array(of_image, int),
        np.concatenate([*sides, np.zeros((0, 2))]),
        np.concatenate([*categories, np.zeros(0, int)]).astype(int),
        with_masks and bool(of_image),
    )


def _size(found: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Height and width of the image that was given, [2]."""
    own = tf.stack([found[name] for name in records.OWN_SIZE])
    return tf.where(own > 0, own, tf.stack([found[name] for name in _SIZE]))


_SIZE = ("image/height", "image/width")
_SIZE_FEATURES = {name: tf.io.FixedLenFeature((), tf.int64) for name in _SIZE} | {
    name: tf.io.FixedLenFeature((), tf.int64, 0) for name in records.OWN_SIZE
}
_SIDES = ("ymin", "xmin", "ymax", "xmax")
