"""Boxes as corners and as shares of the image are refused; what is cut is counted."""

import json

import numpy as np
import pytest
from PIL import Image

from asvit_tf.dataloaders import coco
from asvit_tf.errors import UserError

HEIGHT, WIDTH = 60, 80


def written(root, boxes, images=4, **image_fields):
    """COCO's layout with these boxes in both splits, dealt out to the images."""
    for number, split in enumerate(("train", "val")):
        (root / split).mkdir(parents=True)
        for i in range(images):
            pixels = np.random.default_rng([number, i]).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
        rows = [
            {**dict(id=i + 1, file_name=f"{i}.png", width=WIDTH, height=HEIGHT), **image_fields} for i in range(images)
        ]
        objects = [
            dict(id=i + 1, image_id=1 + i % images, category_id=1, bbox=box, iscrowd=0) for i, box in enumerate(boxes)
        ]
        content = dict(images=rows, annotations=objects, categories=[dict(id=1, name="cat")])
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def drawn(number, seed=0):
    """Left, top, right and bottom of boxes anywhere in the image, [number, 4]."""
    random = np.random.default_rng(seed)
    sizes = random.integers(4, 30, (number, 2))
    starts = (random.random((number, 2)) * ([WIDTH, HEIGHT] - sizes)).astype(int)
    return np.concatenate([starts, starts + sizes], axis=1)


def prepared(tmp_path, boxes, **image_fields):
    root = written(tmp_path / "data", boxes, **image_fields)
    return coco.prepare(tmp_path / "records", root, include_masks=False)


@pytest.mark.parametrize("image_fields", [{}, dict(width=None, height=None)])
def test_corners_are_refused(tmp_path, image_fields):
    with pytest.raises(UserError) as refused:
        prepared(tmp_path, drawn(40).tolist(), **image_fields)
    line = str(refused.value)
    assert "train.json: " in line
    assert "of 40 boxes stick out of their image (the first: [" in line
    assert "but as corners they fit; bbox must be x, y, width, height in pixels" in line
    assert not (tmp_path / "records").exists()


def test_shares_of_the_image_are_refused(tmp_path):
    boxes = drawn(40) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
    boxes[:, 2:] -= boxes[:, :2]
    with pytest.raises(UserError, match=r"train.json: 40 of 40 boxes have no number above 1 .*in pixels"):
        prepared(tmp_path, boxes.tolist())


def test_boxes_of_coco_are_not(tmp_path):
    boxes = drawn(40).astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    boxes[:3] = [[70, 5, 20, 10], [5, 55.5, 10, 4.9], [-3, -3, 20, 20]]
    boxes[3] = [0, 0, 1, 1]
    boxes[4] = [75, 5, 5.5, 10]  # By rounding.
    boxes[5] = [0, 0, 0, 0]
    count = prepared(tmp_path, boxes.tolist()).counts["train"]
    assert count.objects == 39
    assert count.notes == {"boxes that stick out of their image, cut": 2}


def test_a_few_small_boxes_at_the_upper_left_are_boxes(tmp_path):
    assert prepared(tmp_path, [[4, 6, 12, 15]] * 4).counts["train"].objects == 4
