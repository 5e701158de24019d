"""PNGs that Pillow reads and libpng, with which TensorFlow decodes, refuses: they are written anew."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from asvit_tf.dataloaders.imagefiles import door, skipped

WIDTH, HEIGHT = 400, 16


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def with_window(packed, bits):
    """What zlib packed, said to refer to no more than 2^bits bytes."""
    first = (bits - 8) << 4 | 8
    second = packed[1] & 0xE0
    return bytes((first, second + -(first * 256 + second) % 31)) + packed[2:]


def png(height=HEIGHT, before=b"", window=15, header=(8, 2, 0, 0, 0), split=None):
    """A PNG in RGB whose rows repeat what lies many kilobytes before them."""
    row = np.random.default_rng(0).integers(0, 256, (8, WIDTH, 3), np.uint8)
    pixels = np.concatenate([row] * (height // 8))
    packed = with_window(zlib.compress(b"".join(b"\0" + line.tobytes() for line in pixels)), window)
    parts = [packed] if split is None else [packed[:split], packed[split:]]
    content = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, height, *header)) + before
    content += b"".join(chunk(b"IDAT", part) for part in parts) + chunk(b"IEND", b"")
    return door.PNG + content, pixels


FAULTS = {
    "a critical chunk that nobody knows": dict(before=chunk(b"ABCD", b"x")),
    "two palettes": dict(before=chunk(b"PLTE", bytes(6)) * 2),
    "a chunk without letters": dict(before=chunk(b"1234", b"x")),
    "a window of 4,096 bytes": dict(window=12),
    "a window of 4,096 bytes, and an empty first chunk": dict(window=12, split=0),
    "a window of 4,096 bytes, its two bytes apart": dict(window=12, split=1),
    "two headers": dict(before=chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_libpng_refuses_is_written_anew(fault):
    content, pixels = png(**FAULTS[fault])
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_image(content)
    found = door.convert(content)
    np.testing.assert_array_equal(tf.io.decode_image(found), pixels)


SOUND = {
    "plain": {},
    "two chunks": dict(split=1),
    "an empty first chunk": dict(split=0),
    "a long chunk": dict(before=chunk(b"abCd", bytes(8_000_001))),
    "a chunk that may be overlooked": dict(before=chunk(b"abCd", b"x")),
    "a small window that holds it all": dict(height=8, window=14),
}


@pytest.mark.parametrize("kind", SOUND)
def test_what_libpng_reads_is_kept(kind):
    content, pixels = png(**SOUND[kind])
    assert door.convert(content) == content
    np.testing.assert_array_equal(tf.io.decode_image(content), pixels)


def test_a_side_that_libpng_refuses_has_a_reason():
    for side, reason in ((1_000_000, None), (1_000_001, skipped.TOO_LONG)):
        file = io.BytesIO()
        Image.new("L", (side, 1)).save(file, "PNG")
        if reason is None:
            assert tf.io.decode_image(door.convert(file.getvalue())).shape == (1, side, 1)
        else:
            with pytest.raises(door.UnreadableError, match=reason):
                door.convert(file.getvalue())
