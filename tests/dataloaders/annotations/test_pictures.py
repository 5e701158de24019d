"""Pictures that EXIF turns: boxes and pixels against Pillow, and which of two sizes an annotation means."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from asvit_tf.dataloaders.annotations import pictures
from asvit_tf.dataloaders.annotations.pictures import Frame, Picture
from asvit_tf.dataloaders.annotations.values import Unreadable
from asvit_tf.dataloaders.imagefiles import door
from asvit_tf.errors import UserError

STORED = (7, 5)  # Width, height.


def saved(path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_and_boxes_are_turned_as_pillow_turns_them(tmp_path, orientation):
    mask = np.zeros(STORED[::-1], np.uint8)
    mask[1:3, 2:6] = 255
    path = saved(tmp_path / "mask.png", mask, orientation)
    picture = pictures.look(path)
    assert (picture.stored, picture.orientation) == (STORED, orientation)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert picture.upright == expected.shape[::-1]
    turned = pictures.turned_pixels(mask, picture)
    np.testing.assert_array_equal(turned, expected)
    rows, columns = np.nonzero(expected)
    box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert pictures.turned_box((2, 1, 4, 2), picture) == pytest.approx(box)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_records_hold_the_picture_upright(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (*STORED[::-1], 3), np.uint8)
    path = saved(tmp_path / "picture.png", pixels, orientation)
    encoded, kind = pictures.encoded(path)
    (tmp_path / "encoded").write_bytes(encoded)
    with Image.open(tmp_path / "encoded") as written, Image.open(path) as image:
        assert (written.format, kind) == ("PNG", "png")
        expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(np.asarray(written), expected)
    if orientation == 1:
        assert encoded == path.read_bytes()


@pytest.mark.parametrize(
    ("stated", "orientation", "expected"),
    [
        ((7, 5), 1, Frame.UPRIGHT),
        ((None, None), 1, Frame.UPRIGHT),
        ((7, 5), 6, Frame.STORED),
        ((5, 7), 6, Frame.UPRIGHT),
        ((5, None), 6, Frame.UPRIGHT),
        ((7, 5), 3, Frame.EITHER),
        ((None, None), 6, Frame.EITHER),
    ],
)
def test_the_size_tells_what_an_annotation_means(stated, orientation, expected):
    assert pictures.frame(stated, Picture(STORED, orientation)) is expected


def test_another_size_is_no_size():
    for stated, orientation, kind in (((5, 7), 1, "exchanged"), ((5, 7), 3, "exchanged"), ((8, 5), 6, "another size")):
        with pytest.raises(Unreadable, match=kind):
            pictures.frame(stated, Picture(STORED, orientation))


def test_what_is_no_image_has_no_size(tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("page.png", "empty.png", "none.png", "."):
        with pytest.raises(door.UnreadableError):
            pictures.look(tmp_path / name)


def test_a_picture_is_read_once(tmp_path, monkeypatch):
    """A file that changes meanwhile is what it was when it was read."""
    path = saved(tmp_path / "picture.png", np.zeros((*STORED[::-1], 3), np.uint8), 6)
    read = door.file_bytes

    def changed(path):
        contents = read(path)
        path.write_text("no image")
        return contents

    monkeypatch.setattr(door, "file_bytes", changed)
    assert pictures.look(path) == Picture(STORED, 6)
    with pytest.raises(UserError, match=f"{path} is no image any more: not an image that Pillow reads"):
        pictures.encoded(path)
