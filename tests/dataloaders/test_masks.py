"""Masks: every form of COCO's against pycocotools, boxes and maps of classes by hand."""

import numpy as np
import pytest
from helpers import compressed
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO

from asvit_tf.dataloaders import masks

HEIGHT, WIDTH = 30, 50


def block(top, left, bottom, right):
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole[top:bottom, left:right] = 1
    return whole


@pytest.mark.parametrize("mask", [np.zeros((3, 4)), np.ones((3, 4)), np.eye(4), np.eye(4)[:, ::-1], np.eye(3, 5)])
def test_run_lengths_are_those_of_coco(mask):
    ours = masks.run_lengths(mask)
    rle = mask_tools.frPyObjects(ours, *mask.shape)
    np.testing.assert_array_equal(mask_tools.decode(rle), mask)


def test_a_box_is_left_top_width_and_height():
    assert masks.box_of(block(2, 10, 5, 17).astype(bool)) == [10, 2, 7, 3]
    assert masks.box_of(block(2, 10, 5, 17) | block(20, 3, 21, 4)) == [3, 2, 14, 19]
    assert masks.box_of(block(0, 0, HEIGHT, WIDTH)) == [0, 0, WIDTH, HEIGHT]
    assert masks.box_of(block(0, 0, 0, 0)) == [0, 0, 0, 0]


TRIANGLE, SQUARE = [5.0, 5.0, 25.0, 8.0, 12.0, 27.0], [30, 3, 44, 3, 44, 20, 30, 20]


@pytest.mark.parametrize(
    "segmentation",
    [
        [TRIANGLE],
        [TRIANGLE, SQUARE],
        masks.run_lengths(block(3, 4, 9, 44)),
        compressed(block(3, 4, 9, 44)),
    ],
    ids=["polygon", "two polygons", "run lengths", "compressed"],
)
def test_every_form_is_what_coco_makes_of_it(segmentation):
    coco = COCO()
    coco.imgs = {1: dict(height=HEIGHT, width=WIDTH)}
    expected = coco.annToMask(dict(image_id=1, segmentation=segmentation))
    assert expected.any()
    actual = masks.compressed(segmentation, HEIGHT, WIDTH)
    assert actual["size"] == [HEIGHT, WIDTH]
    assert isinstance(actual["counts"], str)  # Else it is no JSON.
    np.testing.assert_array_equal(mask_tools.decode(actual), expected)


def test_a_list_of_run_lengths_is_their_union():
    parts = [compressed(block(0, 0, 4, 9)), masks.run_lengths(block(2, 5, 10, 12)), [1, 2, 3, 4]]
    expected = block(0, 0, 4, 9) | block(2, 5, 10, 12)
    np.testing.assert_array_equal(mask_tools.decode(masks.compressed(parts, HEIGHT, WIDTH)), expected)


@pytest.mark.parametrize("segmentation", [[], [[1, 2, 3, 4]], compressed(block(0, 0, 0, 0))])
def test_no_pixels_are_no_mask(segmentation):
    assert masks.compressed(segmentation, HEIGHT, WIDTH) is None


def test_run_lengths_of_another_size_are_noticed():
    good, turned = masks.run_lengths(block(1, 1, 3, 3)), masks.run_lengths(block(1, 1, 3, 3).T)
    assert masks.size_beyond([TRIANGLE, good], HEIGHT, WIDTH) is None
    assert masks.size_beyond([good, turned], HEIGHT, WIDTH) == [WIDTH, HEIGHT]


def row(mask, category, iscrowd=0):
    return dict(segmentation=mask_tools.encode(np.asfortranarray(mask)), category_id=category, iscrowd=iscrowd)


def test_a_map_of_classes_by_hand():
    columns = np.zeros((4, 2, 6), np.uint8)
    for mask, (left, right) in zip(columns, ((0, 2), (1, 3), (2, 4), (5, 6))):
        mask[:, left:right] = 1
    rows = [row(columns[0], 90), row(columns[1], 90), row(columns[2], 7), row(columns[3], 7, iscrowd=1)]
    # Category 7 is the first class; two of one class may overlap, two classes may not.
    expected = [[2, 2, masks.IGNORED, 1, 0, masks.IGNORED]] * 2
    assert masks.class_map(rows, [7, 90], 2, 6).tolist() == expected
