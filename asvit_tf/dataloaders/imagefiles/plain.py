"""Files that are kept byte for byte: TensorFlow decodes them to the pixels that Pillow sees.

Pillow overlooks in a PNG what libpng, which TensorFlow decodes with, refuses. What might be refused is no plain file:
writing it anew loses nothing.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

JPEGS = ("JPEG", "MPO")  # MPO: a JPEG with further images behind it, as phones write them.

_ANCILLARY = 0x20  # The bit of a chunk's first letter that says that a reader may overlook the chunk.
_WHOLE_WINDOW = 7  # zlib's number for a window of 32,768 bytes, the largest.


def is_plain(encoded: bytes, image: Image.Image) -> bool:
    """Whether TensorFlow decodes these bytes to the pixels that Pillow sees.

    Args:
      encoded: A file.
      image: The same, loaded by Pillow.
    """
    if image.mode not in ("L", "RGB"):
        return False
    if image.format in JPEGS:
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
    """Whether it has 8 bits in 1 or 3 channels, is neither transparent nor animated, and libpng finds no fault.

    libpng refuses a wrong checksum, a chunk that it must know and does not, and pixels packed with another window than
    they say.
    """
    length, kind, width, height, bits, channels, *ways = struct.unpack_from(">I4sIIBBBBB", encoded, 8)
    if (length, kind, bits, ways[:2]) != (13, b"IHDR", 8, [0, 0]) or channels not in (0, 2) or ways[2] > 1:
        return False
    place, view, packed = 33, memoryview(encoded), b""  # Behind the header; `packed` is zlib's first byte.
    if encoded[29:33] != zlib.crc32(view[12:29]).to_bytes(4, "big"):
        return False
    while place + 12 <= len(encoded):
        (length,) = struct.unpack_from(">I", encoded, place)
        kind = encoded[place + 4 : place + 8]
        end = place + 8 + length
        if encoded[end : end + 4] != zlib.crc32(view[place + 4 : end]).to_bytes(4, "big"):
            return False
        if kind == b"IEND":
            size = height * (1 + width * (3 if channels else 1))
            return packed != b"" and _has_window(packed[0], size, interlaced=ways[2] == 1)
        if kind == b"IDAT":
            packed = packed or encoded[place + 8 : min(place + 9, end)]
        elif not kind.isalpha() or not kind[0] & _ANCILLARY or kind in (b"tRNS", b"acTL"):
            return False
        place = end + 4
    return False


def _has_window(first: int, size: int, interlaced: bool) -> bool:
    """Whether packed bytes that begin so certainly refer to nothing that lies farther back than they say.

    Args:
      first: zlib's first byte; its upper half is the logarithm of the window, less 8.
      size: Of the image with the filters' bytes; interlaced it has more.
    """
    return first >> 4 == _WHOLE_WINDOW or (not interlaced and 1 << ((first >> 4) + 8) >= size)
