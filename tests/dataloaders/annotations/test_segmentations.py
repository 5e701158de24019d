"""Segmentations in every spelling, against pycocotools, closed forms and pixels counted by hand."""

import json
import resource

import numpy as np
import pytest
from helpers import compressed
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO

from asvit_tf.dataloaders import masks
from asvit_tf.dataloaders.annotations import segmentations
from asvit_tf.dataloaders.annotations.values import Unreadable

HEIGHT, WIDTH = 30, 50
TRIANGLE, SQUARE = [5.0, 5.0, 25.0, 8.0, 12.0, 27.0], [30, 3, 44, 3, 44, 20, 30, 20]
BOX = (30.0, 3.0, 14.0, 17.0)  # Of the square.


def block(top, left, bottom, right):
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole[top:bottom, left:right] = 1
    return whole


def mask(segmentation, box=None):
    found, _ = segmentations.mask_of(segmentations.read(segmentation, box), HEIGHT, WIDTH)
    return None if found is None else mask_tools.decode(found)


def of_coco(segmentation):
    coco = COCO()
    coco.imgs = {1: dict(height=HEIGHT, width=WIDTH)}
    return coco.annToMask(dict(image_id=1, segmentation=segmentation))


@pytest.mark.parametrize(
    "segmentation",
    [[TRIANGLE], [TRIANGLE, SQUARE], masks.run_lengths(block(3, 4, 9, 44)), compressed(block(3, 4, 9, 44))],
    ids=["polygon", "two polygons", "run lengths", "compressed"],
)
def test_every_form_of_coco_is_what_coco_makes_of_it(segmentation):
    expected = of_coco(segmentation)
    assert expected.any()
    np.testing.assert_array_equal(mask(segmentation), expected)


PAIRS = [SQUARE[i : i + 2] for i in range(0, 8, 2)]


@pytest.mark.parametrize(
    "segmentation",
    [
        SQUARE,
        [*map(str, SQUARE)],
        PAIRS,
        [PAIRS],
        [dict(x=x, y=y) for x, y in PAIRS],
        [[dict(x=x, y=y) for x, y in PAIRS]],
        [list(BOX)],
        list(BOX),
        [[30, 3, 44, 20]],
        json.dumps([SQUARE]),
    ],
    ids=["flat", "texts", "pairs", "polygons of pairs", "points", "polygons of points", "box", "flat box", "corners"]
    + ["text of JSON"],
)
def test_the_same_square_in_other_spellings(segmentation):
    np.testing.assert_array_equal(mask(segmentation, BOX), block(3, 30, 20, 44))


@pytest.mark.parametrize(
    "counts", [bytes, str, lambda text: str(text.encode())], ids=["bytes", "text", "text of bytes"]
)
def test_compressed_run_lengths_in_every_type(counts):
    whole = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH), np.uint8)
    rle = compressed(whole)
    text = rle["counts"]
    rle["counts"] = text.encode() if counts is bytes else counts(text)
    np.testing.assert_array_equal(mask(rle), whole)
    del rle["size"]
    np.testing.assert_array_equal(mask(rle), whole)


def test_compressed_run_lengths_of_a_large_image_are_those_of_pycocotools():
    whole = np.zeros((3000, 4000), np.uint8)
    whole[7:2900, 5:3990] = 1
    whole[100, 100] = 0
    runs = segmentations.read(compressed(whole), None)[0].counts
    np.testing.assert_array_equal(runs, masks.run_lengths(whole)["counts"])


def test_a_list_of_run_lengths_and_polygons_is_their_union():
    parts = [compressed(block(0, 0, 4, 9)), masks.run_lengths(block(2, 5, 10, 12)), SQUARE, [1, 2, 3, 4]]
    np.testing.assert_array_equal(mask(parts), block(0, 0, 4, 9) | block(2, 5, 10, 12) | block(3, 30, 20, 44))


@pytest.mark.parametrize(
    "segmentation", [None, float("nan"), "", [], {}, [[]], [[1, 2, 3, 4]], [1, 2], compressed(block(0, 0, 0, 0))]
)
def test_no_pixels_are_no_mask(segmentation):
    assert mask(segmentation, BOX) is None


def test_the_background_behind_the_last_object_may_be_left_out():
    runs = masks.run_lengths(block(3, 4, 9, 10))
    del runs["counts"][-1]
    found, is_filled = segmentations.mask_of(segmentations.read(runs, None), HEIGHT, WIDTH)
    assert is_filled
    np.testing.assert_array_equal(mask_tools.decode(found), block(3, 4, 9, 10))


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        (dict(size=[HEIGHT, WIDTH], counts=[10, 5, 100]), "do not add up"),  # Cut off in the background.
        (dict(size=[HEIGHT, WIDTH], counts=[10, 5, HEIGHT * WIDTH]), "do not add up"),
        (dict(size=[HEIGHT, WIDTH], counts=[10, 2**62, 2**62]), "do not add up"),
        (dict(size=[WIDTH, HEIGHT], counts=[HEIGHT * WIDTH]), "of another size"),
        (dict(size=[HEIGHT], counts=[HEIGHT * WIDTH]), "size is not height and width"),
        (dict(size=[HEIGHT, WIDTH], counts=[-3, HEIGHT * WIDTH + 3]), "not whole numbers"),
        (dict(size=[HEIGHT, WIDTH], counts=[1.5, HEIGHT * WIDTH - 1.5]), "not whole numbers"),
        (dict(size=[HEIGHT, WIDTH], counts=compressed(block(3, 4, 9, 10))["counts"][:-2]), "add up|damaged"),
        (dict(size=[HEIGHT, WIDTH], counts="zzzz"), "damaged"),
        (dict(size=[HEIGHT, WIDTH], counts="\u1234"), "damaged"),
        (dict(size=[HEIGHT, WIDTH], counts=7), "unknown form"),
        (dict(size=[HEIGHT, WIDTH]), "unknown form"),
        ("a text", "unknown form"),
        ("[[1, 2", "a text"),
        (7, "unknown form"),
        ([[1, 2, 3, 4, 5, 6, 7]], "pairs of numbers"),
        ([[1, 2, 3, 4, 5, float("inf")]], "finite numbers"),
        ([[1, 2, 3, 4, 5, None]], "finite numbers"),
        ([[1, 2, 3, 4, 5, "x"]], "not of numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "not of numbers|finite"),
        ([[[[1, 2], [3, 4]]]], "pairs of numbers"),
    ],
)
def test_what_has_no_clear_meaning_is_named(segmentation, kind):
    with pytest.raises(Unreadable) as caught:
        mask(segmentation)
    assert pytest.approx(1) == len([part for part in kind.split("|") if part in caught.value.kind])


@pytest.mark.parametrize("reach", [40, 300, 1000, 10_000])
def test_polygons_beyond_the_image_are_what_pycocotools_makes_of_them(reach):
    generator = np.random.default_rng(reach)
    for _ in range(60):
        corners = generator.normal([WIDTH / 2, HEIGHT / 2], reach, (int(generator.integers(3, 6)), 2))
        found = mask([corners.ravel().tolist()])
        expected = of_coco([corners.ravel().tolist()])
        np.testing.assert_array_equal(np.zeros_like(expected) if found is None else found, expected)


FAR = 1e9


@pytest.mark.parametrize(
    ("polygon", "expected"),
    [
        ([-FAR, -FAR, 20, -FAR, 20, FAR, -FAR, FAR], block(0, 0, HEIGHT, 20)),
        ([10, -1e300, 20, -1e300, 20, 1e300, 10, 1e300], block(0, 10, HEIGHT, 20)),
        ([-FAR, 7, FAR, 7, FAR, 9, -FAR, 9], block(7, 0, 9, WIDTH)),
        ([-FAR, -FAR, FAR, -FAR, FAR, FAR, -FAR, FAR], block(0, 0, HEIGHT, WIDTH)),
        ([-FAR, -FAR, -50, -FAR, -50, FAR], block(0, 0, 0, 0)),
        ([3.9e8, 3.9e8, 3.9e8 + 9, 3.9e8, 3.9e8, 3.9e8 + 9], block(0, 0, 0, 0)),
        ([FAR, 0, FAR + 9, 0, FAR, 9], block(0, 0, 0, 0)),  # Its numbers would wrap around in 32 bits.
        ([-1.7e308, 7, 1.7e308, 7, 1.7e308, 9, -1.7e308, 9], block(7, 0, 9, WIDTH)),
        # A square with a far spike to the right, two pixels high where it leaves the image.
        ([0, 0, 10, 0, 10, 10, FAR, 10, FAR, 12, 10, 12, 0, 12], block(0, 0, 12, 10) | block(10, 0, 12, WIDTH)),
    ],
)
def test_polygons_of_any_size_need_no_memory(polygon, expected):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = mask([polygon])
    np.testing.assert_array_equal(np.zeros_like(expected) if found is None else found, expected)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # Kilobytes.


def test_a_triangle_from_far_away_has_its_area():
    """Left of the line from (10, 0) to (40, 30), which goes on to both sides."""
    found = mask([[10 - FAR, -FAR, 40 + FAR, 30 + FAR, -FAR, 30 + FAR]])
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    assert abs(int(found.sum()) - int((columns - rows < 10).sum())) <= HEIGHT  # Pixels on the line.


def test_an_endless_outline_is_refused():
    zigzag = np.stack([np.tile([0.0, WIDTH], 40_000), np.arange(80_000) / 3000], axis=1).ravel().tolist()
    with pytest.raises(Unreadable, match="outline longer"):
        mask([zigzag])
