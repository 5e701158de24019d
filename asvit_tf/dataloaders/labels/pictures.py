"""Label pictures: the number or colour of every pixel as the file has it, set upright with its image. No TensorFlow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from asvit_tf.dataloaders.annotations import pictures
from asvit_tf.dataloaders.annotations.pictures import Frame, Picture
from asvit_tf.dataloaders.annotations.values import Unreadable
from asvit_tf.dataloaders.imagefiles import door, memory
from asvit_tf.dataloaders.imagefiles.skipped import DAMAGED, MAX_PIXELS, NOT_AN_IMAGE, TOO_LARGE, UnreadableError
from asvit_tf.errors import UserError

_LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
_BITS_OF_PNG = 24  # Place of the byte.
_LARGEST = 65535


def glance(path: Path) -> Picture:
    """Size and orientation of an image or label picture by its first bytes; what follows may be damaged.

    Raises:
      UnreadableError: It is no image.
    """
    door.is_image(path)  # Refuses what cannot be opened.
    try:
        with Image.open(path, formats=door.formats()) as image:
            if image.format != "TIFF":
                return Picture(image.size, door.orientation(image))
    except UnidentifiedImageError as error:
        raise UnreadableError(NOT_AN_IMAGE) from error
    except Exception as error:  # A reader is given arbitrary bytes and raises whatever it likes.
        raise UnreadableError(DAMAGED) from error
    return pictures.look(path)  # Pillow turns a TIFF when it decodes it.


def frame(mask: Path, mask_size: Picture, image: Path, size: Picture) -> Frame:
    """Whether a label picture is of its image upright or of the file's pixels; `EITHER` where both have its size.

    Args:
      mask, image: Their files, for the message.
      mask_size, size: What `glance` or `look` says about them.

    Raises:
      UserError: It has neither size.
    """
    try:
        found = pictures.frame(mask_size.upright, size)
    except Unreadable as error:
        words = " x ".join(map(str, size.upright)) + (" upright, by its EXIF" if size.orientation != 1 else "")
        raise UserError(
            f"the label picture {mask} is {' x '.join(map(str, mask_size.upright))}, but its image {image} is {words}; "
            "they have to be of the same size"
        ) from error
    return Frame.UPRIGHT if found is Frame.EITHER and mask_size.orientation != 1 else found


def read(path: Path, in_colours: bool) -> tuple[np.ndarray, Picture]:
    """The label of every pixel, as `table.code` writes it: [H, W] upright by the EXIF of this file; and its size.

    Args:
      path: A lossless picture of any of the usual modes. Numbers are grey values of 1 to 16 bits, or the indices of a
        palette; transparency is left out of account.
      in_colours: Whether the labels are colours; else grey ones saved as RGB are numbers, too.

    Raises:
      UnreadableError: It cannot be decoded.
      UserError: It is a JPEG or another lossy file, or holds colours instead of numbers.
    """
    contents = door.file_bytes(path)
    try:
        with Image.open(io.BytesIO(contents), formats=door.formats()) as image:
            _check(path, image)
            with memory.room.taken(image.width * image.height):
                orientation = 1 if image.format == "TIFF" else door.orientation(image)  # Of a PNG this decodes it.
                image.load()
                size = Picture(image.size, orientation)
                codes = _colours(path, image) if in_colours else _numbers(path, image, contents)
    except UnidentifiedImageError as error:
        raise UnreadableError(NOT_AN_IMAGE) from error
    except (UnreadableError, UserError, MemoryError):
        raise
    except Exception as error:  # A reader is given arbitrary bytes and raises whatever it likes.
        raise UnreadableError(DAMAGED) from error
    return pictures.turned_pixels(codes, size), size


def _check(path: Path, image: Image.Image) -> None:
    """Refuses by what a file says of itself."""
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableError(TOO_LARGE)
    if image.format not in _LOSSLESS:
        raise UserError(
            f"the label picture {path} is a {image.format}, which may change the labels; allowed are PNG, BMP, TIFF, "
            "GIF and PPM"
        )


def _colours(path: Path, image: Image.Image) -> np.ndarray:
    """[H, W] uint32."""
    if image.mode.startswith(("I", "F")):
        raise UserError(f"the label picture {path} is of more than 8 bits, but the file of classes has colours")
    pixels = np.asarray(image.convert("RGB"))
    codes = pixels[..., 0].astype(np.uint32)
    for channel in (1, 2):
        codes <<= 8
        codes |= pixels[..., channel]
    return codes


def _numbers(path: Path, image: Image.Image, contents: bytes) -> np.ndarray:
    """[H, W] uint8 or uint16."""
    pixels = np.asarray(image)
    if image.mode in ("RGB", "RGBA"):
        if any((pixels[..., 0] != pixels[..., channel]).any() for channel in (1, 2)):
            raise UserError(
                f"the label picture {path} holds colours; name their classes with --classes, a file of lines R G B NAME"
            )
        return pixels[..., 0]
    if image.mode in ("LA", "PA"):
        return pixels[..., 0]
    if image.mode == "L" and image.format == "PNG" and contents[_BITS_OF_PNG] < 8:
        return pixels // (255 // ((1 << contents[_BITS_OF_PNG]) - 1))  # Pillow scales 2 and 4 bits up to 8.
    if image.mode in ("L", "P"):
        return pixels
    if image.mode == "1":
        return pixels.astype(np.uint8)
    if not image.mode.startswith("I"):
        raise UserError(f"the label picture {path} has pixels of the mode {image.mode}; allowed are grey and colours")
    low, high = int(pixels.min()), int(pixels.max())
    if not 0 <= low <= high <= _LARGEST:
        raise UserError(f"the label picture {path} holds numbers from {low} to {high}; allowed are 0 to {_LARGEST}")
    return pixels.astype(np.uint16)
