"""Masks of objects: run lengths written, and a class for every pixel made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_tools

from asvit_tf.dataloaders.imagefiles import reduced

IGNORED = 255  # In a map of classes: pixels that are neither trained on nor evaluated.


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask [H, W] in COCO's uncompressed run lengths: columns first, beginning with a run of zeros."""
    flat = mask.astype(bool).T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return dict(size=list(mask.shape), counts=counts.tolist())


def box_of(mask: np.ndarray) -> list[int]:
    """x, y, width and height of the pixels of a mask [H, W]; four zeros if it is empty."""
    return mask_tools.toBbox(mask_tools.encode(np.asfortranarray(mask, np.uint8))).astype(int).tolist()


def class_map(rows: Sequence[Mapping[str, Any]], categories: Sequence[int], height: int, width: int) -> np.ndarray:
    """The class of every pixel, from the masks of an image's objects.

    Args:
      rows: Annotations, their masks as compressed run lengths.
      categories: Identifiers in the order of the classes, of which the first is class 1.
      height, width: Size of the image.

    Returns:
      [height, width] uint8: 0 where no object is; `IGNORED` where a crowd is, or where objects of two classes overlap.
    """
    classes = np.zeros((height, width), np.uint8)
    for row in rows:
        pixels = mask_tools.decode(row["segmentation"]).astype(bool)
        here = IGNORED if row["iscrowd"] else 1 + categories.index(row["category_id"])
        below = classes[pixels]
        classes[pixels] = np.where((below == 0) | (below == here), here, IGNORED)
    return classes


def convertible(row: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The annotation with its mask as the Model Garden's conversion takes it: run lengths, in a list if no crowd's.

    Args:
      row: Of an object.
      size: Rows and columns to which the mask is reduced.
    """
    mask = np.asarray(mask_tools.decode(row["segmentation"]))
    lengths = run_lengths(reduced.nearest(mask, size))
    return {**row, "segmentation": lengths if row["iscrowd"] else [lengths]}
