"""Photographs much larger than a network's input, reduced once, before they are stored. No TensorFlow.

A pipeline that decodes 12 megapixels in every epoch to see 32 x 32 of them spends its time on that; and it resizes by
interpolating between neighbouring pixels, so of a large photograph it sees a few pixels and their noise. Here every
pixel counts: a triangle as wide as two of the new pixels weighs them, as `tf.image.resize(..., antialias=True)` does,
by which `serving.modules` reduces what a SavedModel is given.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from asvit_tf.dataloaders.imagefiles import memory
from asvit_tf.dataloaders.imagefiles.written import encoded_as


def size_of(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Two sides scaled so that the shorter one is `side`; unchanged where it is not longer than that."""
    shorter = min(size)
    if shorter <= side:
        return size
    first, second = (max(side, (2 * each * side + shorter) // (2 * shorter)) for each in size)
    return first, second


def size_within(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """Two sides scaled so that they have at most `pixels`; unchanged where they have no more."""
    if size[0] * size[1] <= pixels:
        return size
    factor = math.sqrt(pixels / (size[0] * size[1]))
    first, second = (max(1, int(each * factor)) for each in size)
    return first, second


def reduced(encoded: bytes, side: int) -> bytes:
    """An image whose shorter side is at most `side` pixels, of the same kind; others unchanged, byte for byte.

    Args:
      encoded: JPEG or PNG as `door.read` gives it.
      side: Pixels, >= 1.
    """
    return _reduced(encoded, functools.partial(size_of, side=side))


def within(encoded: bytes, pixels: int) -> bytes:
    """The same, for an image of at most `pixels` pixels, >= 1."""
    return _reduced(encoded, functools.partial(size_within, pixels=pixels))


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels of pixels reduced without mixing them: each new pixel has the one in the middle of what it covers.

    A label that would be lost by that keeps one pixel where it is, unless that is another's only one.

    Args:
      labels: [H, W] uint8.
      size: Rows and columns of the result, at most H and W; where they are these, the labels are returned.
    """
    if size == labels.shape:
        return labels
    rows, columns = (((2 * np.arange(new) + 1) * old) // (2 * new) for new, old in zip(size, labels.shape))
    small = labels[rows[:, None], columns]
    counts = _counts(small)
    for lost in np.flatnonzero((_counts(labels) > 0) & (counts == 0)):
        places = np.argwhere(labels == lost) * size // labels.shape
        free = places[counts[small[tuple(places.T)]] > 1]
        if len(free):
            place = tuple(free[len(free) // 2])
            counts[small[place]] -= 1
            counts[lost] += 1
            small[place] = lost
    return small


def _counts(labels: np.ndarray) -> np.ndarray:
    """[256], pixels by label."""
    return np.array(Image.fromarray(np.ascontiguousarray(labels)).histogram())


def _reduced(encoded: bytes, size_for: Callable[[tuple[int, int]], tuple[int, int]]) -> bytes:
    with Image.open(io.BytesIO(encoded)) as image:
        size = size_for(image.size)
        if size == image.size:
            return encoded
        is_jpeg = image.format == "JPEG"
        if is_jpeg:  # By halves while it is decoded, as long as twice the size is left.
            image.draft("RGB", (2 * size[0], 2 * size[1]))
        with memory.room.taken(image.width * image.height):
            return encoded_as(image.convert("RGB").resize(size, Image.Resampling.BILINEAR), is_jpeg)
