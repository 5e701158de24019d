"""Photographs much larger than a network's input, reduced once, before they are stored. No TensorFlow.

A pipeline that decodes 12 megapixels in every epoch to see 32 x 32 of them spends its time on that; and it resizes by
interpolating between neighbouring pixels, so of a large photograph it sees a few pixels and their noise. Here every
pixel counts: a triangle as wide as two of the new pixels weighs them, as `tf.image.resize(..., antialias=True)` does,
by which `serving.modules` reduces what a SavedModel is given.
"""

from __future__ import annotations

import io

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


def reduced(encoded: bytes, side: int) -> bytes:
    """An image whose shorter side is at most `side` pixels, of the same kind; others unchanged, byte for byte.

    Args:
      encoded: JPEG or PNG as `door.read` gives it.
      side: Pixels, >= 1.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        size = size_of(image.size, side)
        if size == image.size:
            return encoded
        is_jpeg = image.format == "JPEG"
        if is_jpeg:  # By halves while it is decoded, as long as twice the size is left.
            image.draft("RGB", (2 * size[0], 2 * size[1]))
        with memory.room.taken(image.width * image.height):
            return encoded_as(image.convert("RGB").resize(size, Image.Resampling.BILINEAR), is_jpeg)
