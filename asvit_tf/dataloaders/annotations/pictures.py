"""Image files of annotations: their stored size, how they are turned upright, and their bytes as the records hold them.

Records hold every picture upright. An annotation file speaks of the picture as it is stored or as it is shown; its
width and height tell which.
"""

from __future__ import annotations

import dataclasses
import enum
import io
from pathlib import Path

import numpy as np
from PIL import Image

from asvit_tf.dataloaders.annotations.values import Box, Unreadable
from asvit_tf.dataloaders.imagefiles import door
from asvit_tf.errors import UserError

_UPRIGHT = 1
_LYING = (5, 6, 7, 8)  # Orientations in which width and height change places.


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image file that can be decoded.

    Attributes:
      stored: Width and height of the file's pixels.
      orientation: Of EXIF, 1 (upright) to 8.
    """

    stored: tuple[int, int]
    orientation: int = _UPRIGHT

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as it is shown, and as the records hold it."""
        return self.stored[::-1] if self.orientation in _LYING else self.stored


def look(path: Path) -> Picture:
    """Size and orientation of an image file, which is read once and decoded whole.

    Raises:
      door.UnreadableError: It cannot be read or decoded.
    """
    return read(path)[0]


def read(path: Path) -> tuple[Picture, bytes]:
    """The same, and the picture upright, as the bytes of a JPEG or PNG.

    Raises:
      door.UnreadableError: It cannot be read or decoded.
    """
    contents = door.file_bytes(path)
    converted = door.convert(contents)
    with Image.open(io.BytesIO(converted)) as image:
        upright = image.size
    with Image.open(io.BytesIO(contents), formats=door.formats()) as image:
        orientation = door.orientation(image)
    return Picture(upright[::-1] if orientation in _LYING else upright, orientation), converted


def format_of(encoded: bytes) -> str:
    """Whether the bytes of a picture are a "png" or a "jpeg"."""
    return "png" if encoded.startswith(door.PNG) else "jpeg"


def encoded(path: Path) -> tuple[bytes, str]:
    """The picture upright, as the bytes of a JPEG or PNG, and which of the two.

    Raises:
      UserError: The file has changed since `look`.
    """
    try:
        contents = door.read(path)
    except door.UnreadableError as error:
        raise UserError(f"{path} is no image any more: {error}") from error
    return contents, format_of(contents)


class Frame(enum.Enum):
    """What coordinates count in: the picture upright, or the file's pixels; or what the split's others do."""

    UPRIGHT = "upright"
    STORED = "stored"
    EITHER = "either"


def frame(stated: tuple[int | None, int | None], picture: Picture) -> Frame:
    """Which of its two sizes an annotation file gives a picture; `EITHER` where both are the same, or none is stated.

    Args:
      stated: Width and height of the annotation file, None where there is none.
      picture: The image file.

    Raises:
      Unreadable: It is neither.
    """

    def agrees(size: tuple[int, int]) -> bool:
        return all(side is None or side == there for side, there in zip(stated, size))

    width, height = picture.upright
    if picture.orientation == _UPRIGHT and agrees(picture.upright):
        return Frame.UPRIGHT
    if agrees(picture.upright):
        return Frame.EITHER if agrees(picture.stored) else Frame.UPRIGHT
    if agrees(picture.stored):
        return Frame.STORED
    words = f"is {width} x {height}" + (" upright, by its EXIF orientation" if picture.orientation != _UPRIGHT else "")
    kind = "have another size than their annotation says"
    if agrees((height, width)):
        kind = "have width and height exchanged in their annotation, and no EXIF orientation that explains it"
    raise Unreadable(kind, f"{words}, but its annotation says {stated[0]} x {stated[1]}")


def turned_box(box: Box, picture: Picture) -> Box:
    """A box of the file's pixels as a box of the picture upright."""
    width, height = picture.stored
    x, y, w, h = box
    right, bottom = width - x - w, height - y - h  # Distances from the other two sides.
    return {
        1: (x, y, w, h),
        2: (right, y, w, h),
        3: (right, bottom, w, h),
        4: (x, bottom, w, h),
        5: (y, x, h, w),
        6: (bottom, x, h, w),
        7: (bottom, right, h, w),
        8: (y, right, h, w),
    }[picture.orientation]


def turned_pixels(pixels: np.ndarray, picture: Picture) -> np.ndarray:
    """An array [stored height, stored width] as the picture upright has it."""
    turns = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].T,
        8: np.rot90(pixels),
    }
    return turns[picture.orientation]
