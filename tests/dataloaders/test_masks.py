"""Masks: run lengths against pycocotools, boxes and maps of classes by hand."""

import numpy as np
import pytest
from pycocotools import mask as mask_tools

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
