"""Images in RGB as the bytes of a JPEG or PNG."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"  # How such a file begins.
_QUALITY = 95
_JPEG_SIDE = 65500  # libjpeg's longest.
_LEVEL = 1  # Of zlib: the quickest.
_FILTER = 1  # Each number less the one of the pixel to the left.


def fits_jpeg(size: tuple[int, int]) -> bool:
    """Whether JPEGs may have this width and height."""
    return max(size) <= _JPEG_SIDE


def encoded_as(image: Image.Image, as_jpeg: bool) -> bytes:
    """An image in RGB as JPEG or PNG."""
    image.info = {}  # Profiles and comments: Pillow would write them, too, and may stumble over them.
    file = io.BytesIO()
    if as_jpeg:
        image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    else:
        image.save(file, "PNG", compress_level=_LEVEL)
    return file.getvalue()


def png_of_strips(size: tuple[int, int], strips: Iterable[Image.Image]) -> bytes:
    """A PNG of an image that is never whole in memory as RGB; Pillow would need it whole.

    Args:
      size: Width and height.
      strips: Of whole rows, in RGB, downwards.
    """
    file = io.BytesIO()
    file.write(PNG)
    for kind, content in _chunks(size, strips):
        file.write(struct.pack(">I", len(content)) + kind)
        file.write(content)
        file.write(zlib.crc32(content, zlib.crc32(kind)).to_bytes(4, "big"))
    return file.getvalue()


def _chunks(size: tuple[int, int], strips: Iterable[Image.Image]) -> Iterator[tuple[bytes, bytes]]:
    yield b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(_LEVEL)
    for strip in strips:
        pixels = np.asarray(strip).reshape(strip.height, -1)  # [rows, 3 * width]
        rows = np.empty((strip.height, 1 + pixels.shape[1]), np.uint8)
        rows[:, 0], rows[:, 1:4] = _FILTER, pixels[:, :3]
        np.subtract(pixels[:, 3:], pixels[:, :-3], out=rows[:, 4:])
        yield b"IDAT", packer.compress(rows.tobytes())
    yield b"IDAT", packer.flush()
    yield b"IEND", b""
