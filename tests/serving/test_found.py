"""What a detector finds, judged: by hand, and by pycocotools where a number is its own."""

import json
import math

import numpy as np
import pytest

from asvit_tf.journals import Journal
from asvit_tf.serving import found

CATEGORIES = {1: "dot", 4: "line", 7: "never"}
# Two dots and a line in image 3; nothing in image 5; a line and a crowd in image 9.
OBJECTS = [
    (3, 1, [10, 10, 20, 20], 0),
    (3, 1, [60, 10, 20, 20], 0),
    (3, 4, [10, 60, 40, 10], 0),
    (9, 4, [5, 5, 40, 10], 0),
    (9, 1, [50, 50, 50, 50], 1),
]


@pytest.fixture
def annotations(tmp_path):
    rows = [
        dict(id=i + 1, image_id=image, category_id=category, bbox=box, area=box[2] * box[3], iscrowd=crowd)
        for i, (image, category, box, crowd) in enumerate(OBJECTS)
    ]
    images = [dict(id=image, file_name=f"{image}.jpg", width=100, height=100) for image in (3, 5, 9)]
    categories = [dict(id=number, name=name) for number, name in CATEGORIES.items()]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(dict(images=images, annotations=rows, categories=categories)))
    return path


def row(image, category, box, score):
    return dict(image_id=image, category_id=category, bbox=box, score=score)


def test_everything_found_exactly(annotations):
    rows = [row(image, category, box, 0.9) for image, category, box, crowd in OBJECTS if not crowd]
    judged = found.judge(annotations, rows)
    assert judged.class_names == ("dot", "line", "never")
    assert judged.summary["AP"] == judged.summary["AP50"] == pytest.approx(1)
    assert math.isnan(judged.summary["APl"])  # No object is that large.
    assert judged.objects.tolist() == [2, 2, 0]
    np.testing.assert_allclose(judged.by_class[:2], 1)
    assert np.isnan(judged.by_class[2]).all()
    assert judged.confusion.tolist() == [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert judged.mistakes == {3: 0, 5: 0, 9: 0}


def test_mistakes_of_every_kind(annotations):
    rows = [
        row(3, 1, [10, 10, 20, 20], 0.9),  # Right.
        row(3, 1, [11, 10, 20, 20], 0.8),  # The same object again: invented.
        row(3, 4, [60, 10, 20, 20], 0.7),  # A dot taken for a line.
        row(3, 4, [10, 66, 40, 10], 0.6),  # IoU 4/16: invented, and the line is missed.
        row(5, 7, [0, 0, 9, 9], 0.95),  # Where nothing is.
        row(9, 4, [5, 5, 40, 10], 0.4),  # Not sure enough: missed.
        row(9, 1, [60, 60, 20, 20], 0.9),  # In the crowd: no mistake.
    ]
    judged = found.judge(annotations, rows)
    nothing = 3
    expected = np.zeros((4, 4), int)
    expected[0, 0] = 1
    expected[nothing, 0] = 1
    expected[0, 1] = 1
    expected[nothing, 1] = 1
    expected[1, nothing] = 2
    expected[nothing, 2] = 1
    np.testing.assert_array_equal(judged.confusion, expected)
    assert judged.mistakes == {3: 4, 5: 1, 9: 1}


def test_average_precision_by_hand(annotations):
    # Lines at IoU 0.5: one is found first, then one invented, then the other: precision 1, above recall 0.5 then 2/3.
    rows = [row(3, 4, OBJECTS[2][2], 0.9), row(5, 4, [0, 0, 30, 9], 0.8), row(9, 4, OBJECTS[3][2], 0.7)]
    judged = found.judge(annotations, rows)
    # 101 recalls: 0 to 0.5 are 51 with 1, the other 50 have 2/3.
    assert judged.by_class[1, 1] == pytest.approx((51 + 50 * 2 / 3) / 101)
    np.testing.assert_allclose(judged.precision[[0, 50, 51, 100], 1], [1, 1, 2 / 3, 2 / 3])
    assert judged.by_class[0].tolist() == [0, 0]


def test_nothing_found(annotations):
    judged = found.judge(annotations, [])
    assert judged.summary["AP"] == 0
    assert math.isnan(judged.summary["APl"])
    assert "mask_AP" not in judged.summary
    np.testing.assert_array_equal(judged.by_class, [[0, 0], [0, 0], [math.nan] * 2])
    assert judged.confusion[:, 3].tolist() == [2, 2, 0, 0]
    assert judged.mistakes == {3: 3, 5: 0, 9: 1}


def test_masks_are_judged_too(annotations, tmp_path):
    from pycocotools import mask as mask_tools

    content = json.loads(annotations.read_text())
    for each in content["annotations"]:
        left, top, width, height = each["bbox"]
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        each["segmentation"] = [corners] if not each["iscrowd"] else each.get("segmentation", [corners])
        if each["iscrowd"]:
            whole = mask_tools.merge(mask_tools.frPyObjects([corners], 100, 100))
            each["segmentation"] = {**whole, "counts": whole["counts"].decode()}
    annotations.write_text(json.dumps(content))
    rows = []
    for image, category, box, crowd in OBJECTS:
        if crowd:
            continue
        pixels = np.zeros((100, 100), np.uint8, order="F")
        left, top, width, height = box
        pixels[top : top + height, left : left + width // 2] = 1  # Half of each: IoU 0.5.
        lengths = mask_tools.encode(pixels)
        lengths = {**lengths, "counts": lengths["counts"].decode()}
        rows.append({**row(image, category, box, 0.9), "segmentation": lengths})
    judged = found.judge(annotations, rows)
    assert judged.summary["AP"] == pytest.approx(1)
    assert judged.summary["mask_AP50"] == pytest.approx(1)
    assert judged.summary["mask_AP75"] == 0
    assert found.judge(annotations, []).summary["mask_AP"] == 0


def test_kept_answers_are_of_one_checkpoint(tmp_path):
    path = tmp_path / "found.json"
    assert found.load(path, "abc") is None
    found.save(path, [row(3, 1, [0, 0, 1, 1], 0.5)], "abc")
    assert found.load(path, "abc") == [row(3, 1, [0, 0, 1, 1], 0.5)]
    assert found.load(path, "other") is None


def test_answers_go_on_behind_a_kill(tmp_path, monkeypatch):
    """Image by image; those of another checkpoint are asked for again."""
    asked = []

    class Detector:
        def __init__(self, saved_model):
            assert saved_model == "saved_model"

        def find(self, encoded, min_score):
            asked.append(encoded)
            if encoded == b"3" and len(asked) == 3:
                raise KeyboardInterrupt
            return [found.Detection("dot", 1, 0.5, (1.0, 2.0, 4.0, 8.0))] if encoded == b"2" else []

    monkeypatch.setattr(found, "Detector", Detector)
    monkeypatch.setattr(found, "pictures", lambda pattern: iter([(1, b"1"), (2, b"2"), (3, b"3")]))

    def answer(checkpoint):
        return found.answer("saved_model", "records", 3, Journal(tmp_path / "found.jsonl"), checkpoint)

    with pytest.raises(KeyboardInterrupt):
        answer("abc")
    rows = [row(2, 1, [1.0, 2.0, 3.0, 6.0], 0.5)]
    assert answer("abc") == rows
    assert asked == [b"1", b"2", b"3", b"3"]
    assert answer("other") == rows
    assert asked[4:] == [b"1", b"2", b"3"]
