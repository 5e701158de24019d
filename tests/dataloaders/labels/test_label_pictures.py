"""Label pictures of every mode, and turned as their images are."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from asvit_tf.dataloaders.annotations import pictures as images
from asvit_tf.dataloaders.annotations.pictures import Frame
from asvit_tf.dataloaders.imagefiles import memory
from asvit_tf.dataloaders.imagefiles.skipped import UnreadableError
from asvit_tf.dataloaders.labels import pictures
from asvit_tf.errors import UserError

HEIGHT, WIDTH = 3, 5
NUMBERS = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
ORIENTATION = 0x0112


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_bits(rows, bits):
    """A grey PNG of 1, 2 or 4 bits, which Pillow does not write."""
    packed = b""
    for row in rows:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text = text.ljust(-(-len(text) // 8) * 8, "0")
        packed += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")


def palette(pixels):
    image = Image.fromarray(pixels.astype(np.uint8))
    image.putpalette([part for i in range(256) for part in (255 - i, i * 7 % 256, 9)])
    return image


def grey_and_alpha(pixels):
    return Image.merge("LA", [Image.fromarray(pixels), Image.new("L", pixels.shape[::-1], 3)])


def rgba(pixels):
    return Image.fromarray(np.dstack([pixels] * 3 + [np.full_like(pixels, 7)]))


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("grey.png", Image.fromarray(NUMBERS), NUMBERS),
        ("palette.png", palette(NUMBERS), NUMBERS),
        ("palette.gif", palette(NUMBERS), NUMBERS),
        ("16.png", Image.fromarray(NUMBERS.astype(np.uint16) * 300), NUMBERS * np.uint16(300)),
        ("16.tif", Image.fromarray(NUMBERS.astype(np.uint16) * 300), NUMBERS * np.uint16(300)),
        ("32.tif", Image.fromarray(NUMBERS.astype(np.int32) * 300), NUMBERS * np.uint16(300)),
        ("binary.png", Image.fromarray(NUMBERS % 2 == 1), NUMBERS % 2),
        ("alpha.png", grey_and_alpha(NUMBERS), NUMBERS),
        ("rgb.png", Image.fromarray(np.dstack([NUMBERS] * 3)), NUMBERS),
        ("rgba.png", rgba(NUMBERS), NUMBERS),
        ("grey.bmp", Image.fromarray(NUMBERS), NUMBERS),
        ("grey.pgm", Image.fromarray(NUMBERS), NUMBERS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers_are_read_as_the_file_has_them(tmp_path, name, image, expected):
    image.save(tmp_path / name)
    codes, size = pictures.read(tmp_path / name, in_colours=False)
    np.testing.assert_array_equal(codes, expected)
    assert size.upright == (WIDTH, HEIGHT)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_numbers_of_few_bits_are_not_scaled(tmp_path, bits):
    rows = NUMBERS % (1 << bits)
    (tmp_path / "few.png").write_bytes(png_of_bits(rows, bits))
    np.testing.assert_array_equal(pictures.read(tmp_path / "few.png", False)[0], rows)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_colours_are_read_whatever_the_mode(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH, 3), np.uint8) * 255
    image = Image.fromarray(pixels)
    if mode == "RGBA":
        image.putalpha(Image.new("L", image.size, 9))
    elif mode == "P":
        image = image.quantize(8, dither=Image.Dither.NONE)
    elif mode == "L":
        pixels = np.dstack([NUMBERS] * 3)
        image = Image.fromarray(NUMBERS)
    assert image.mode == mode
    image.save(tmp_path / "mask.png")
    codes, _ = pictures.read(tmp_path / "mask.png", in_colours=True)
    assert [[tuple(int(code).to_bytes(3, "big")) for code in row] for row in codes] == [
        [tuple(pixel) for pixel in row] for row in pixels.tolist()
    ]


@pytest.mark.parametrize(
    ("name", "image", "in_colours", "message"),
    [
        ("mask.jpg", Image.fromarray(NUMBERS), False, "is a JPEG, which may change the labels; allowed are PNG"),
        ("mask.webp", Image.fromarray(NUMBERS).convert("RGB"), True, "is a WEBP, which may change the labels"),
        ("mask.png", Image.new("RGB", (2, 2), (1, 1, 2)), False, "holds colours; name their classes with --classes"),
        ("mask.png", Image.fromarray(NUMBERS.astype(np.uint16)), True, "more than 8 bits, .* has colours"),
        ("mask.tif", Image.fromarray(NUMBERS.astype(np.int32) - 1), False, "numbers from -1 to 13; .* 0 to 65535"),
        ("mask.tif", Image.fromarray(NUMBERS.astype(np.float32)), False, "pixels of the mode F"),
    ],
)
def test_what_holds_no_labels_is_refused(tmp_path, name, image, in_colours, message):
    image.save(tmp_path / name)
    with pytest.raises(UserError, match=message):
        pictures.read(tmp_path / name, in_colours)


def test_damaged_label_pictures_cannot_be_read(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(tmp_path / "mask.png")
    whole = (tmp_path / "mask.png").read_bytes()
    (tmp_path / "mask.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableError, match="truncated or damaged"):
        pictures.read(tmp_path / "mask.png", False)
    (tmp_path / "text.png").write_text("no picture")
    for function in (pictures.glance, lambda path: pictures.read(path, False)):
        with pytest.raises(UnreadableError, match="not an image"):
            function(tmp_path / "text.png")


def test_a_label_picture_takes_room_before_it_is_decoded(tmp_path, monkeypatch):
    """Few large ones are in memory at once, whatever the number of threads."""
    Image.fromarray(NUMBERS).save(tmp_path / "mask.png")
    steps = []

    @contextlib.contextmanager
    def taken(pixels):
        steps.append(pixels)
        yield
        steps.append("left")

    loaded = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(memory.room, "taken", taken)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: (steps.append("decoded"), loaded(image))[1])
    pictures.read(tmp_path / "mask.png", False)
    assert steps[0] == WIDTH * HEIGHT
    assert steps[-1] == "left"
    assert "decoded" in steps


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_label_picture_with_exif_of_its_own_is_set_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(NUMBERS).save(tmp_path / "mask.png", exif=exif)
    with Image.open(tmp_path / "mask.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    codes, size = pictures.read(tmp_path / "mask.png", False)
    np.testing.assert_array_equal(codes, expected)
    assert size.upright == expected.shape[::-1]
    assert pictures.glance(tmp_path / "mask.png") == size


@pytest.mark.parametrize(
    ("mask_size", "mask_orientation", "expected"),
    [((5, 3), 1, Frame.STORED), ((3, 5), 1, Frame.UPRIGHT), ((5, 3), 6, Frame.UPRIGHT), ((3, 5), 6, Frame.STORED)],
)
def test_the_size_tells_of_what_a_label_picture_is(tmp_path, mask_size, mask_orientation, expected):
    """Of an image of 5 x 3 stored, 3 x 5 upright."""
    picture = images.Picture((5, 3), 6)
    assert pictures.frame(tmp_path, images.Picture(mask_size, mask_orientation), tmp_path, picture) is expected


def test_a_square_tells_nothing(tmp_path):
    square = images.Picture((4, 4), 6)
    assert pictures.frame(tmp_path, images.Picture((4, 4), 1), tmp_path, square) is Frame.EITHER
    assert pictures.frame(tmp_path, images.Picture((4, 4), 3), tmp_path, square) is Frame.UPRIGHT
    with pytest.raises(UserError, match=r"is 4 x 5, but its image .* is 4 x 4 upright, by its EXIF; .* same size"):
        pictures.frame(tmp_path, images.Picture((4, 5), 1), tmp_path, square)
