"""Every kind of image file: pixels upright, colours right, bytes kept where they may be, and reasons for the others."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageOps, features

from asvit_tf.dataloaders.imagefiles import door, skipped

RED, BLUE, GREY = (200, 30, 60), (30, 60, 200), (120, 120, 120)
WIDTH, HEIGHT = 24, 16
JPEG_ERROR = 4


def flat(mode="RGB", colour=RED):
    return Image.new(mode, (WIDTH, HEIGHT), colour)


def noise(seed=0, size=(WIDTH, HEIGHT)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(content):
    with Image.open(io.BytesIO(content)) as image:
        assert image.format in ("JPEG", "MPO", "PNG")
        assert image.mode in ("RGB", "L")
        return np.asarray(image.convert("RGB")).astype(int)


def palette(index=1):
    image = Image.new("P", (WIDTH, HEIGHT), index)
    image.putpalette([0, 0, 0, *RED, *BLUE])
    return image


def grey_numbers(value, dtype):
    return Image.fromarray(np.full((HEIGHT, WIDTH), value, dtype))


def cmyk_as_stored(adobe):
    """A CMYK JPEG with or without Adobe's marker, which says that the stored numbers are inverted."""
    ink = flat().convert("CMYK")
    content = encoded(ink if adobe else ImageChops.invert(ink), "JPEG", quality=98)
    start = content.index(b"\xff\xee")  # Pillow always writes it, and inverts.
    assert content[start + 4 : start + 9] == b"Adobe"
    return content if adobe else content[:start] + content[start + 16 :]


def animation(kind, **options):
    return encoded(flat(), kind, save_all=True, append_images=[flat(colour=BLUE)], **options)


TRANSPARENT = tuple(round(0.25 * part + 0.75 * 128) for part in RED)  # Opacity 64 of 255 over mid-grey.
KINDS = {
    "cmyk.jpg, Adobe's": (lambda: cmyk_as_stored(True), RED),
    "cmyk.jpg, plain": (lambda: cmyk_as_stored(False), RED),
    "cmyk.tif": (lambda: encoded(flat().convert("CMYK"), "TIFF"), RED),
    "progressive.jpg": (lambda: encoded(flat(), "JPEG", progressive=True, quality=98), RED),
    "grey.jpg": (lambda: encoded(flat("L", 120), "JPEG", quality=98), GREY),
    "rgba.png": (lambda: encoded(flat("RGBA", (*RED, 255)), "PNG"), RED),
    "half.png": (lambda: encoded(flat("RGBA", (*RED, 64)), "PNG"), TRANSPARENT),
    "clear.png": (lambda: encoded(flat("RGBA", (*RED, 0)), "PNG"), (128, 128, 128)),
    "grey_alpha.png": (lambda: encoded(flat("LA", (120, 0)), "PNG"), (128, 128, 128)),
    "half.webp": (lambda: encoded(flat("RGBA", (*RED, 64)), "WEBP", lossless=True), TRANSPARENT),
    "half.tif": (lambda: encoded(flat("RGBA", (*RED, 64)), "TIFF"), TRANSPARENT),
    "palette.png": (lambda: encoded(palette(), "PNG"), RED),
    "palette_clear.png": (lambda: encoded(palette(), "PNG", transparency=1), (128, 128, 128)),
    "rgb_clear.png": (lambda: encoded(flat(), "PNG", transparency=RED), (128, 128, 128)),
    "one_bit.png": (lambda: encoded(Image.new("1", (WIDTH, HEIGHT), 1), "PNG"), (255, 255, 255)),
    "one_bit.tif": (lambda: encoded(Image.new("1", (WIDTH, HEIGHT), 1), "TIFF", compression="group4"), (255,) * 3),
    "16 bits.png": (lambda: encoded(grey_numbers(120 * 257, np.uint16), "PNG"), GREY),
    "16 bits.tif": (lambda: encoded(grey_numbers(120 * 257, np.uint16), "TIFF"), GREY),
    "16 bits.pgm": (lambda: b"P5 2 1 65535\n" + (120 * 257).to_bytes(2, "big") * 2, GREY),
    "32 bits.tif": (lambda: encoded(grey_numbers(120 * 257, np.int32), "TIFF"), GREY),
    "real, to 1.tif": (lambda: encoded(grey_numbers(120 / 255, np.float32), "TIFF"), GREY),
    "real, to 255.tif": (lambda: encoded(grey_numbers(120, np.float32), "TIFF"), GREY),
    "lab.tif": (lambda: encoded(Image.new("LAB", (WIDTH, HEIGHT), (128, 128, 128)), "TIFF"), (119, 119, 119)),
    "ycbcr.jpg": (lambda: encoded(flat().convert("YCbCr"), "JPEG", quality=98), RED),
    "gif": (lambda: encoded(palette(), "GIF"), RED),
    "animated.gif": (lambda: animation("GIF"), RED),
    "animated.png": (lambda: animation("PNG"), RED),
    "animated.webp": (lambda: animation("WEBP", lossless=True), RED),
    "pages.tif": (lambda: animation("TIFF"), RED),
    "lossy.webp": (lambda: encoded(flat(), "WEBP", quality=98), RED),
    "lzw.tif": (lambda: encoded(flat(), "TIFF", compression="tiff_lzw"), RED),
    "palette.bmp": (lambda: encoded(palette(), "BMP"), RED),
    "rgba.bmp": (lambda: encoded(flat("RGBA", (*RED, 255)), "BMP"), RED),
    "ppm": (lambda: encoded(flat(), "PPM"), RED),
    "tga": (lambda: encoded(flat(), "TGA"), RED),
    "ico": (lambda: encoded(flat(), "ICO"), RED),
}


@pytest.mark.parametrize("kind", KINDS)
def test_colours(kind):
    make, colour = KINDS[kind]
    found = pixels(door.convert(make()))
    assert np.abs(found - colour).max() <= JPEG_ERROR


def test_avif_and_jpeg_2000_where_pillow_has_them():
    for name, kind in (("avif", "AVIF"), ("jpg_2000", "JPEG2000")):
        if features.check(name):
            assert np.abs(pixels(door.convert(encoded(flat(), kind))) - RED).max() <= JPEG_ERROR


def test_16_bits_are_scaled_and_not_clipped():
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert pixels(door.convert(encoded(Image.fromarray(values), kind)))[0, :, 0].tolist() == [0, 1, 128, 255]


KEPT = {
    "jpg": lambda: encoded(noise(), "JPEG"),
    "progressive.jpg": lambda: encoded(noise(), "JPEG", progressive=True),
    "grey.jpg": lambda: encoded(noise().convert("L"), "JPEG"),
    "png": lambda: encoded(noise(), "PNG"),
    "grey.png": lambda: encoded(noise().convert("L"), "PNG"),
    "jpg with orientation 1": lambda: encoded(noise(), "JPEG", exif=orientation(1)),
    "jpg with nonsense for an orientation": lambda: encoded(noise(), "JPEG", exif=orientation(77)),
    "jpg with damaged EXIF": lambda: encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09nothing"),
    "jpg with bytes behind it": lambda: encoded(noise(), "JPEG") + b"more",
    "mpo": lambda: encoded(noise(), "MPO", save_all=True, append_images=[noise(1)]),
}


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("kind", KEPT)
def test_plain_files_are_kept_byte_for_byte(kind):
    content = KEPT[kind]()
    assert door.convert(content) == content


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", b"\xff\xd8\xff"), ("PNG", b"\x89PNG"), ("WEBP", b"\x89PNG")])
@pytest.mark.parametrize("value", range(1, 9))
def test_upright(kind, suffix, value):
    """EXIF's eight orientations: 1 as it is; 2 mirrored; 3 upside down; 4 both; 5 to 8 on their side."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24], upright[:16, 24:], upright[16:, :24] = RED, BLUE, (250, 250, 0)
    undo = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (1, False), 7: (3, True)}
    turns, mirrored = undo.get(value, (3, False))
    # Stored so that the viewer's turn (clockwise by 90 degrees for 6) makes it upright again.
    stored = np.rot90(np.fliplr(upright) if mirrored else upright, turns)
    options = dict(lossless=True) if kind == "WEBP" else dict(quality=95, subsampling=0) if kind == "JPEG" else {}
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=orientation(value), **options)
    found = door.convert(content)
    assert found.startswith(suffix)
    inner = np.zeros((32, 48), bool)
    inner[4:12, 4:20] = inner[4:12, 28:44] = inner[20:28, 4:20] = inner[20:28, 28:44] = True  # Away from the edges.
    assert np.abs(pixels(found) - upright)[inner].max() <= JPEG_ERROR


@pytest.mark.parametrize("options", [{}, dict(compression="tiff_lzw"), dict(save_all=True, append_images=[noise(1)])])
def test_a_tiff_is_turned_once(options):
    content = encoded(noise(size=(40, 20)), "TIFF", exif=orientation(6), **options)
    np.testing.assert_array_equal(pixels(door.convert(content)), np.rot90(np.asarray(noise(size=(40, 20))), -1))


@pytest.mark.parametrize("pointer", [0x8769, 0x8825])  # To camera settings; to the place on earth.
def test_a_photograph_is_turned_though_other_exif_is_damaged(pointer):
    rows = ((0x0112, 3, 1, 6), (pointer, 9, 1, 0xFFFFFFFF))  # 9: with a sign.
    exif = b"II*\0\x08\0\0\0\x02\0" + b"".join(struct.pack("<HHLL", *row) for row in rows) + bytes(4)
    content = encoded(noise(size=(40, 20)), "JPEG", exif=b"Exif\0\0" + exif, quality=98, subsampling=0)
    with Image.open(io.BytesIO(content)) as image, pytest.raises(Exception):  # noqa: B017, PT011
        ImageOps.exif_transpose(image)
    stored = np.asarray(Image.open(io.BytesIO(content)))
    assert np.abs(pixels(door.convert(content)) - np.rot90(stored, -1)).mean() < JPEG_ERROR


def wrong_checksum(content):
    """A PNG whose pixels have another checksum than it says: Pillow reads it, TensorFlow does not."""
    place = content.index(b"IDAT")
    end = place + 4 + int.from_bytes(content[place - 4 : place], "big")
    return content[:end] + b"\0\0\0\0" + content[end + 4 :]


def test_a_png_with_a_wrong_checksum_is_written_anew():
    content = wrong_checksum(encoded(noise(), "PNG"))
    found = door.convert(content)
    assert found != content
    np.testing.assert_array_equal(pixels(found), np.asarray(noise()))
    place = found.index(b"IDAT")
    end = place + 4 + int.from_bytes(found[place - 4 : place], "big")
    assert int.from_bytes(found[end : end + 4], "big") == zlib.crc32(found[place:end])


def bomb(width, height):
    """A PNG that claims this size; of a few bytes."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x01\0\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + zlib.crc32(header).to_bytes(4, "big") + b"\0\0\0\0IDAT5\xaf\x06\x1e"
    )


def overwritten(content, seed):
    """With 16 other bytes among the pixels."""
    generator = np.random.default_rng(seed)
    place = int(generator.integers(content.index(b"IDAT") + 20, len(content) - 40))
    return content[:place] + generator.bytes(16) + content[place + 16 :]


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_png_is_not_read_as_black(seed):
    content = overwritten(encoded(noise(size=(60, 40)), "PNG"), seed)
    with pytest.raises(OSError), Image.open(io.BytesIO(content)) as image:  # noqa: PT011
        image.load()
    with pytest.raises(door.UnreadableError, match=skipped.DAMAGED):
        door.convert(content)


REFUSED = {
    "empty": (b"", skipped.EMPTY),
    "text": (b"<html>404</html>", skipped.NOT_AN_IMAGE),
    "half a jpg": (encoded(noise(), "JPEG")[:700], skipped.DAMAGED),
    "half a png": (encoded(noise(), "PNG")[:700], skipped.DAMAGED),
    "half a tif": (encoded(noise(), "TIFF", compression="tiff_lzw")[:700], skipped.DAMAGED),  # Its table is at the end.
    "the beginning of a jpg": (b"\xff\xd8\xff\xe0broken", skipped.DAMAGED),
    "half a bmp": (encoded(noise(), "BMP")[:500], skipped.DAMAGED),
    "a bomb for Pillow": (bomb(60_000, 60_000), skipped.TOO_LARGE),
    "a bomb of one row too many": (bomb(2**14, skipped.MAX_PIXELS // 2**14 + 1), skipped.TOO_LARGE),
    "a program for Ghostscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        skipped.NOT_AN_IMAGE,
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_has_a_reason(tmp_path, kind):
    content, reason = REFUSED[kind]
    (tmp_path / "a.png").write_bytes(content)
    assert door.reason_against(tmp_path / "a.png") == reason


def test_the_bound_is_not_that_of_pillow_alone(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # As programs do that read large images.
    with pytest.raises(door.UnreadableError, match="more than 178,956,970 pixels"):
        door.convert(bomb(2**14, skipped.MAX_PIXELS // 2**14 + 1))


def test_what_is_no_file_never_hangs(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "nowhere.jpg").symlink_to("nothing")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    for name in ("pipe", "device", "folder"):
        assert door.reason_against(tmp_path / f"{name}.jpg") == skipped.NOT_REGULAR
    assert door.reason_against(tmp_path / "nowhere.jpg") == "cannot be read (No such file or directory)"
    assert door.reason_against(tmp_path / "circle.jpg") == "cannot be read (Too many levels of symbolic links)"


def test_an_error_of_the_disk_is_a_reason(tmp_path):
    (tmp_path / "a.jpg").symlink_to("/proc/self/mem")  # Linux: reading its beginning fails with Errno 5, also for root.
    assert door.reason_against(tmp_path / "a.jpg") == "cannot be read (Input/output error)"


@pytest.mark.parametrize("kind", [*KINDS, *KEPT])
def test_tensorflow_decodes_what_pillow_sees(kind):
    import tensorflow as tf

    content = door.convert(KINDS[kind][0]() if kind in KINDS else KEPT[kind]())
    found = tf.io.decode_image(content, channels=3, expand_animations=False).numpy().astype(int)
    if content.startswith(b"\x89PNG"):
        np.testing.assert_array_equal(found, pixels(content))
    else:  # Two settings of the same library.
        assert np.abs(found - pixels(content)).mean() < 2
