"""The one door for images: whatever Pillow reads becomes an upright 8-bit RGB JPEG or PNG. No TensorFlow.

TensorFlow decodes fewer kinds, trusts no EXIF, clips 16 bits, and ends a training at a file that it cannot decode. So
every command reads image files here: what comes out is decoded by TensorFlow to the pixels that Pillow sees.

- Kept byte for byte (`plain`): JPEG, baseline or progressive, 8 bits, grey or YCbCr; PNG, 8 bits, grey or RGB, without
  a fault that libpng would find, neither transparent nor animated; both only where EXIF does not turn them.
- Written anew as JPEG (quality 95, no chroma subsampling): other JPEGs, lossy WebP, AVIF, JPEG 2000. As PNG: the rest.
- Transparent pixels lie on mid-grey (128), as what the Model Garden's augmentations fill in; 16 bits are divided by
  257 (12 bits of a TIFF by 4095 / 255); whole and real numbers of 32 bits see `colours`. Of animations and pages the
  first is read. Colour profiles are not applied.
- Few large images are in memory at once, whatever the number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import stat
import threading
import warnings

from PIL import ExifTags, Image, UnidentifiedImageError

from asvit_tf.dataloaders.imagefiles import colours, memory
from asvit_tf.dataloaders.imagefiles.plain import JPEGS, is_plain
from asvit_tf.dataloaders.imagefiles.skipped import (
    CAMERA_RAW,
    DAMAGED,
    EMPTY,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    NOT_AN_IMAGE,
    NOT_REGULAR,
    TOO_LARGE,
    TOO_LONG,
    UNREADABLE,
    UnreadableError,
)
from asvit_tf.dataloaders.imagefiles.written import PNG, encoded_as, fits_jpeg, png_of_strips

__all__ = [
    "PNG",
    "UnreadableError",
    "convert",
    "file_bytes",
    "formats",
    "image_suffixes",
    "is_foreign",
    "is_image",
    "orientation",
    "read",
    "reason_against",
]

_COMMON = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NEW_SUBFILE_TYPE, _DNG_VERSION = 254, 50706  # Tags of a TIFF; the lowest bit of the first: a smaller copy of another.
# EPS would start Ghostscript; the others are no pictures, or are read by programs that are not here.
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# Of files that are images, but not for Pillow: they are named where they are skipped.
_FOREIGN_SUFFIXES = {".heic", ".heif", ".jxl", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".svg"}

_LARGE_BYTES = 1 << 26
_large_file = threading.Lock()

# The bound here is `MAX_PIXELS`; Pillow warns from half of it on.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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
    _check_regular(path)
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise UnreadableError(_unreadable(error)) from error
    with _large_file if size > _LARGE_BYTES else contextlib.nullcontext():
        return convert(file_bytes(path))


def is_foreign(path: str | os.PathLike) -> bool:
    """Whether a file is named as one that Pillow does not read: HEIC, camera raw, SVG."""
    return os.path.splitext(path)[1].lower() in _FOREIGN_SUFFIXES


def reason_against(path: str | os.PathLike) -> str | None:
    """Why a file cannot be read; None if it can. Of a foreign one only the beginning is read, as for `is_image`."""
    try:
        if is_foreign(path) and not is_image(path):
            return NOT_AN_IMAGE
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
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise UnreadableError(TOO_LARGE)
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(_unreadable(error)) from error
    if len(content) > MAX_BYTES:  # It grew, or says no size.
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
            _check(image, encoded)
            with memory.room.taken(image.width * image.height):
                return _converted(image, encoded)
    except UnidentifiedImageError as error:
        raise UnreadableError(DAMAGED if _begins_like_an_image(encoded) else NOT_AN_IMAGE) from error
    except Image.DecompressionBombError as error:
        raise UnreadableError(TOO_LARGE) from error
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:
        # A reader is given arbitrary bytes and raises whatever it likes.
        raise UnreadableError(DAMAGED) from error


def _check(image: Image.Image, encoded: bytes) -> None:
    """Refuses by what a file says of itself.

    Raises:
      UnreadableError: The image is too large, or the preview of a raw one.
    """
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableError(TOO_LARGE)
    if max(image.size) > MAX_SIDE:
        raise UnreadableError(TOO_LONG)
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        kind = tags.get(_NEW_SUBFILE_TYPE)
        is_copy = isinstance(kind, int) and kind & 1
        if _DNG_VERSION in tags or is_copy or encoded[8:10] == b"CR":  # CR: Canon's mark.
            raise UnreadableError(CAMERA_RAW)


def _converted(image: Image.Image, encoded: bytes) -> bytes:
    """As `convert`. What is not needed any more is freed at once, because images are large."""
    image.load()  # Before EXIF is asked for: Pillow loads for that, too, and hides that it failed.
    turn = _TURNS.get(orientation(image))  # None for a TIFF, which Pillow has turned already.
    if turn is None and is_plain(encoded, image):
        return encoded
    kind, as_jpeg = image.format, _is_lossy(image.format, encoded) and fits_jpeg(image.size)
    if kind == "PNG":
        colours.settle_transparency(image, encoded)
    # Not `ImageOps.exif_transpose`: it writes EXIF anew, and fails where that is damaged.
    upright = image if turn is None else image.transpose(turn)
    if upright is not image:
        image.close()
    if upright.width * upright.height > memory.LARGE_PIXELS and not as_jpeg:
        return png_of_strips(upright.size, (strip for _, strip in colours.rgb_strips(upright, kind)))
    result = colours.rgb(upright, kind)
    if result is not upright:
        upright.close()
    return encoded_as(result, as_jpeg)


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1 where it says nothing that makes sense."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged EXIF harms no pixels; viewers overlook it.
        return 1
    return value if value in range(1, 9) else 1


def _is_lossy(kind: str | None, encoded: bytes) -> bool:
    return _is_lossy_webp(encoded) if kind == "WEBP" else kind in (*JPEGS, "AVIF", "JPEG2000")


def _is_lossy_webp(encoded: bytes) -> bool:
    """Whether the first chunk of pixels is of the lossy kind; colour profiles and others may lie before it."""
    place = 12
    while place + 8 <= len(encoded):
        kind = encoded[place : place + 4]
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        size = int.from_bytes(encoded[place + 4 : place + 8], "little")
        place += 8 + (16 if kind == b"ANMF" else size + size % 2)  # A frame begins with 16 bytes, then has chunks.
    return True
