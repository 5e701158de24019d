"""The one door for images: whatever Pillow reads becomes an upright 8-bit RGB JPEG or PNG. No TensorFlow.

TensorFlow decodes fewer kinds, trusts no EXIF, clips 16 bits, and ends a training at a file that it cannot decode. So
every command reads image files here: what comes out is decoded by TensorFlow to the pixels that Pillow sees.

- Kept byte for byte: JPEG, baseline or progressive, 8 bits, grey or YCbCr; PNG, 8 bits, grey or RGB, with right
  checksums, neither transparent nor animated; both only where EXIF does not turn them.
- Written anew as JPEG (quality 95, no chroma subsampling): other JPEGs, lossy WebP, AVIF, JPEG 2000. As PNG: the rest.
- Transparent pixels lie on mid-grey (128), as what the Model Garden's augmentations fill in; 16 bits are divided by
  257 (12 bits of a TIFF by 4095 / 255); whole and real numbers of 32 bits see `_eight_bits`. Of animations and pages
  the first is read. Colour profiles are not applied.
"""

from __future__ import annotations

import functools
import io
import os
import stat
import struct
import warnings
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError

from asvit_tf.dataloaders.imagefiles.skipped import (
    DAMAGED,
    EMPTY,
    MAX_BYTES,
    MAX_PIXELS,
    NOT_AN_IMAGE,
    NOT_REGULAR,
    TOO_LARGE,
    UNREADABLE,
)

PNG = b"\x89PNG\r\n\x1a\n"  # How such a file begins.
BACKGROUND = (128, 128, 128)
_QUALITY = 95
_JPEG_SIDE = 65500  # libjpeg's longest.
_COMMON = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")
_JPEGS = ("JPEG", "MPO")  # MPO: a JPEG with further images behind it, as phones write them.
# EPS would start Ghostscript; the others are no pictures, or are read by programs that are not here.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# Of files that are images, but not for Pillow: they are named where they are skipped.
_FOREIGN_SUFFIXES = {".heic", ".heif", ".jxl", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".svg"}

# The bound here is `MAX_PIXELS`; Pillow warns from half of it on.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableError(Exception):
    """A file that is not read; its text is the reason, one of those in `skipped`."""


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, in the order in which they are tried."""
    Image.init()
    read = [name for name in Image.ID if name in Image.OPEN and name not in _NOT_READ]
    without_mark = [name for name in read if Image.OPEN[name][1] is None]  # Recognized by their sizes only: the last.
    return tuple(dict.fromkeys([*_COMMON, *(name for name in read if name not in without_mark), *without_mark]))


def _begins_like_an_image(encoded: bytes) -> bool:
    marks = (Image.OPEN[name][1] for name in (*_COMMON, "AVIF") if name in Image.OPEN)
    return any(mark is not None and mark(encoded[:16]) is True for mark in marks)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of files that one expects to be images."""
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in formats()}
    return frozenset(known | _FOREIGN_SUFFIXES)


def read(path: str | os.PathLike) -> bytes:
    """An image file as upright 8-bit RGB or grey JPEG or PNG.

    Raises:
      UnreadableError: It cannot be read or decoded.
    """
    return convert(file_bytes(path))


def reason_against(path: str | os.PathLike) -> str | None:
    """Why a file cannot be read; None if it can."""
    try:
        read(path)
    except UnreadableError as error:
        return str(error)
    return None


def is_image(path: str | os.PathLike) -> bool:
    """Whether a file begins like an image; quick, nothing is decoded.

    Raises:
      UnreadableError: It cannot be opened.
    """
    _check_regular(path)
    try:
        with open(path, "rb") as file, Image.open(file, formats=formats()):
            return True
    except UnidentifiedImageError:
        return False
    except Exception as error:
        # A reader is given arbitrary bytes and raises whatever it likes: then it had recognized them.
        if isinstance(error, OSError) and error.errno:
            raise UnreadableError(_unreadable(error)) from error
        return True


def file_bytes(path: str | os.PathLike) -> bytes:
    """The bytes of a regular file.

    Raises:
      UnreadableError: It is none (a pipe would wait for ever), is empty, too large, or cannot be read.
    """
    _check_regular(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(_unreadable(error)) from error
    if len(content) > MAX_BYTES:
        raise UnreadableError(TOO_LARGE)
    if not content:
        raise UnreadableError(EMPTY)
    return content


def _check_regular(path: str | os.PathLike) -> None:
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it.
        raise UnreadableError(_unreadable(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableError(NOT_REGULAR)


def _unreadable(error: Exception) -> str:
    return f"{UNREADABLE} ({getattr(error, 'strerror', None) or error})"


def convert(encoded: bytes) -> bytes:
    """As `read`, from the bytes of a file.

    Raises:
      UnreadableError: They cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableError(TOO_LARGE)
            turned = orientation(image) != 1
            kind = image.format
            image.load()
            if not turned and _is_plain(encoded, image):
                return encoded
            upright = ImageOps.exif_transpose(image) if turned else image  # Pillow has turned a TIFF already.
            return _encoded(_rgb(upright, kind), _is_lossy(kind, encoded))
    except UnidentifiedImageError as error:
        raise UnreadableError(DAMAGED if _begins_like_an_image(encoded) else NOT_AN_IMAGE) from error
    except Image.DecompressionBombError as error:
        raise UnreadableError(TOO_LARGE) from error
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:
        # A reader is given arbitrary bytes and raises whatever it likes.
        raise UnreadableError(DAMAGED) from error


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 where it says nothing that makes sense."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged EXIF harms no pixels; viewers overlook it.
        return 1
    return value if value in range(1, 9) else 1


def _is_plain(encoded: bytes, image: Image.Image) -> bool:
    """Whether TensorFlow decodes these bytes to the pixels that Pillow sees."""
    if image.mode not in ("L", "RGB"):
        return False
    if image.format in _JPEGS:
        return _is_plain_jpeg(encoded)
    return image.format == "PNG" and _is_plain_png(encoded)


def _is_plain_jpeg(encoded: bytes) -> bool:
    """Whether the frame is baseline or progressive with 8 bits in 1 or 3 components, and the end is there."""
    place, plain = 2, False
    while place + 9 < len(encoded):
        if encoded[place] != 0xFF:
            return False
        marker = encoded[place + 1]
        if marker == 0xFF:  # Fills.
            place += 1
            continue
        if marker == 0xDA:  # Begins the pixels, in which FF D9 can only be the end.
            return plain and encoded.find(b"\xff\xd9", place) != -1
        if marker in (0xC0, 0xC1, 0xC2):
            plain = encoded[place + 4] == 8 and encoded[place + 9] in (1, 3)
        place += 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
    return False


def _is_plain_png(encoded: bytes) -> bool:
    """Whether it has 8 bits in 1 or 3 channels, is neither transparent nor animated, and all checksums are right.

    TensorFlow refuses a wrong checksum, which Pillow overlooks in the pixels.
    """
    if encoded[24] != 8 or encoded[25] not in (0, 2):
        return False
    place, view = 8, memoryview(encoded)
    while place + 12 <= len(encoded):
        (length,) = struct.unpack_from(">I", encoded, place)
        kind = encoded[place + 4 : place + 8]
        end = place + 8 + length
        if kind in (b"tRNS", b"acTL") or encoded[end : end + 4] != zlib.crc32(view[place + 4 : end]).to_bytes(4, "big"):
            return False
        if kind == b"IEND":
            return True
        place = end + 4
    return False


def _rgb(image: Image.Image, kind: str | None) -> Image.Image:
    """Any mode as RGB."""
    if kind in _JPEGS and image.mode == "CMYK" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for one of Adobe's, which are inverted.
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    whole = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    whole.alpha_composite(image.convert("RGBA"))
    return whole.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as grey of 8.

    Whole numbers from 0 to 65535 are divided by 257, from 0 to 4095 by 4095 / 255 in a TIFF of 12 bits. Real numbers
    from 0 to 1 are multiplied by 255, from 0 to 255 rounded. Others have no known black and white: the least and the
    largest become 0 and 255.

    Raises:
      UnreadableError: A number is not finite.
    """
    values = np.asarray(image)
    least, most = float(values.min()), float(values.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        raise UnreadableError(DAMAGED)
    low, high = 0.0, 65535.0
    if image.mode.startswith("F"):
        high = 1.0 if most <= 1 else 255.0
    elif getattr(image, "tag_v2", {}).get(258) == (12,):  # BitsPerSample.
        high = 4095.0
    if least < low or most > high:
        low, high = least, max(most, least + 1)
    scaled = np.empty(values.shape, np.uint8)
    for whole, grey in zip(values, scaled):  # By rows: large scans would fill the memory as real numbers.
        grey[:] = np.rint((whole.astype(np.float64) - low) * (255 / (high - low)))
    return Image.fromarray(scaled)


def _is_lossy(kind: str | None, encoded: bytes) -> bool:
    if kind == "WEBP":
        return b"VP8L" not in encoded[:64]  # The chunk of lossless pixels.
    return kind in (*_JPEGS, "AVIF", "JPEG2000")


def _encoded(image: Image.Image, lossy: bool) -> bytes:
    file = io.BytesIO()
    if lossy and max(image.size) <= _JPEG_SIDE:
        image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    else:
        image.save(file, "PNG", compress_level=1)
    return file.getvalue()
