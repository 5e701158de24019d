"""Numbers of unusual files as 8-bit RGB: white that is 0, negative numbers, one transparent colour of 2 to 16 bits."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms, TiffImagePlugin

from asvit_tf.dataloaders.imagefiles import colours, door, memory, skipped


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values, **tags):
    """A TIFF of these numbers; `tag_262=0` sets a tag, also where Pillow writes another."""
    content = bytearray(encoded(Image.fromarray(values), "TIFF"))
    (directory,) = struct.unpack_from("<L", content, 4)
    (count,) = struct.unpack_from("<H", content, directory)
    for place in range(directory + 2, directory + 2 + 12 * count, 12):
        tag = f"tag_{struct.unpack_from('<H', content, place)[0]}"
        if tag in tags:
            struct.pack_into("<H", content, place + 8, tags[tag])
    return bytes(content)


def pixels(content):
    with Image.open(io.BytesIO(door.convert(content))) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.uint8([[0, 55, 255]]), [255, 200, 0]),  # Pillow turns these itself.
        (np.uint16([[0, 55 * 257, 65535]]), [255, 200, 0]),
        (np.float32([[0, 0.2, 1]]), [255, 204, 0]),
    ],
)
def test_a_tiff_in_which_0_is_white(values, expected):
    assert pixels(tiff(values, tag_262=0))[0, :, 0].tolist() == expected
    assert pixels(tiff(values))[0, :, 0].tolist() == [255 - value for value in expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-0.3, -0.05, 0.2], [0, 128, 255]),  # 0.25 / 0.5 * 255 = 127.5
        ([-1000.0, 0.0, 3000.0], [0, 64, 255]),
        ([1e20, 1e20], [0, 0]),
        ([-7.0, -7.0], [0, 0]),
    ],
)
def test_the_least_and_the_largest_number_become_black_and_white(values, expected):
    assert pixels(tiff(np.float32([values])))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_have_a_reason(number):
    with pytest.raises(door.UnreadableError, match=skipped.NOT_FINITE):
        door.convert(tiff(np.float32([[0, number, 0.5]])))


def png(bits, channels, samples, clear, orientation=1):
    """A PNG of one row; `samples` in its own bits, `clear` is the transparent colour."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    numbers = np.asarray(samples).ravel()
    if bits == 16:
        row = numbers.astype(">u2").tobytes()
    else:
        text = "".join(f"{number:0{bits}b}" for number in numbers)
        row = int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")
    exif = Image.Exif()
    exif[0x0112] = orientation
    return (
        door.PNG
        + chunk(b"IHDR", struct.pack(">IIBBBBB", len(samples), 1, bits, channels, 0, 0, 0))
        + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        + chunk(b"tRNS", np.asarray(clear).astype(">u2").tobytes())
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("bits", "samples", "clear", "expected"),
    [
        (1, [0, 1], 1, [0, 128]),
        (2, [0, 1, 2, 3], 1, [0, 128, 170, 255]),
        (4, [0, 1, 2, 15], 2, [0, 17, 128, 255]),
        (8, [0, 1, 2, 255], 255, [0, 1, 2, 128]),
        (16, [0, 257, 258, 65535], 0, [128, 1, 1, 255]),
        (16, [0, 257, 258, 65535], 258, [0, 1, 128, 255]),
    ],
)
def test_one_transparent_grey(bits, samples, clear, expected):
    assert pixels(png(bits, 0, samples, clear))[0, :, 0].tolist() == expected


def test_one_transparent_colour_of_16_bits():
    samples = [[0x1234, 0, 7], [0x1235, 0, 7], [0xFFFF, 0x1234, 7]]  # The second is it in the upper 8 bits only.
    expected = [[128, 128, 128], [0x12, 0, 0], [0xFF, 0x12, 0]]
    assert pixels(png(16, 2, samples, samples[0]))[0].tolist() == expected
    assert pixels(png(16, 2, samples, samples[0], orientation=3))[0].tolist() == expected[::-1]


def test_lossless_webp_stays_lossless_with_a_colour_profile():
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for options in ({}, dict(icc_profile=profile), dict(save_all=True, append_images=[Image.new("RGB", (24, 16))])):
        content = encoded(Image.fromarray(noise), "WEBP", lossless=True, **options)
        np.testing.assert_array_equal(pixels(content), noise)
    lossy = encoded(Image.fromarray(noise), "WEBP", icc_profile=profile, exif=b"VP8L" * 4)
    assert door.convert(lossy).startswith(b"\xff\xd8")


@pytest.mark.parametrize("tags", [{50706: bytes([1, 4, 0, 0])}, {254: 1}])
def test_the_preview_of_a_raw_image_is_not_taken_for_it(tags):
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
    with pytest.raises(door.UnreadableError, match=skipped.CAMERA_RAW):
        door.convert(encoded(Image.new("RGB", (16, 12)), "TIFF", tiffinfo=directory))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "F", "CMYK"])
def test_strips_change_nothing(mode, monkeypatch):
    generator = np.random.default_rng(0)
    if mode in ("I;16", "F"):
        values = generator.integers(0, 65536, (23, 31)) if mode == "I;16" else generator.normal(size=(23, 31))
        image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.float32))
    else:
        channels = {"RGBA": 4, "CMYK": 4, "LA": 2, "P": 1}[mode]
        size = (23, 31, channels) if channels > 1 else (23, 31)
        image = Image.frombytes(mode, (31, 23), generator.integers(0, 256, size, np.uint8).tobytes())
    if mode == "P":
        image.putpalette(generator.integers(0, 256, 768, np.uint8).tobytes())
        image.info["transparency"] = bytes(range(256))
    whole = np.asarray(colours.rgb(image.copy(), "PNG"))
    monkeypatch.setattr(colours, "_STRIP_PIXELS", 100)
    np.testing.assert_array_equal(colours.rgb(image, "PNG"), whole)
    content = encoded(image, "TIFF")
    expected = pixels(content)
    monkeypatch.setattr(memory, "LARGE_PIXELS", 10)
    np.testing.assert_array_equal(pixels(content), expected)
    np.testing.assert_array_equal(tf.io.decode_image(door.convert(content)), expected)
