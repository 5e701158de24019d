"""Objects without a mask are neither background nor mistakes; no objects, and a name given twice, are refused."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from asvit_tf.dataloaders import coco, masks
from asvit_tf.dataloaders.labels import records
from asvit_tf.errors import UserError

HEIGHT, WIDTH = 40, 60
BOXES = [[4, 6, 12, 15], [30, 10.5, 8, 9]]


def written(root, masked, images=2, **changes):
    """COCO's layout with two objects an image, the first `masked` of each split with a polygon."""
    for number, split in enumerate(("train", "val")):
        (root / split).mkdir(parents=True)
        rows, objects = [], []
        for i in range(images):
            pixels = np.random.default_rng([number, i]).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
            rows.append(dict(id=i + 1, file_name=f"{i}.png", width=WIDTH, height=HEIGHT))
            for x, y, width, height in BOXES:
                row = dict(id=len(objects) + 1, image_id=i + 1, category_id=1, bbox=[x, y, width, height], iscrowd=0)
                polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
                objects.append({**row, "segmentation": [polygon] if len(objects) < masked else []})
        content = dict(images=rows, annotations=objects, categories=[dict(id=1, name="cat")])
        (root / f"{split}.json").write_text(json.dumps({**content, **changes.get(split, {})}))
    return root


@pytest.mark.parametrize(
    ("images", "masked", "holds", "note"),
    [
        (2, 4, True, None),
        (
            *(2, 3, False),
            "boxes alone are trained on: 3 of 4 objects of train, 3 of 4 objects of val have a segmentation",
        ),
        (2, 0, False, None),  # Nothing is decided.
        (50, 99, True, "2 objects without a mask are not trained on"),
    ],
)
def test_masks_are_chosen_where_nearly_all_objects_have_one(tmp_path, images, masked, holds, note):
    root = written(tmp_path / "data", masked, images)
    found = coco.prepare(tmp_path / "records", root, include_masks=None)
    assert found.counts["train"].objects == (masked if holds else 2 * images)
    assert (note or "") in "\n".join(found.left_out)
    assert bool(found.left_out) is (note is not None)
    truth = json.loads((tmp_path / "records/annotations_validation.json").read_text())["annotations"]
    assert all(("segmentation" in row) is holds for row in truth)


def test_what_is_found_where_an_object_has_no_mask_is_no_mistake(tmp_path):
    found = coco.prepare(tmp_path / "records", written(tmp_path / "data", 3))
    assert "2 objects without a mask are not trained on, and what is found there is no mistake" in found.left_out[-1]
    assert found.counts["validation"].objects_left_out == {"no segmentation": 1}
    truth = COCO(str(tmp_path / "records/annotations_validation.json"))
    rows = truth.dataset["annotations"]
    assert [row["iscrowd"] for row in rows] == [0, 0, 0, 1]
    assert sorted(truth.anns) == [1, 2, 3, 4]
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole[10:20, 30:38] = 1  # From 10.5 to 19.5: all pixels that it touches.
    np.testing.assert_array_equal(truth.annToMask(rows[3]), whole)
    # The maskless object is found first of all; it would cost precision.
    answers = [{**row, "iscrowd": 0, "score": 0.5 + 0.1 * row["iscrowd"]} for row in rows]
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, truth.loadRes(answers), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


@pytest.mark.parametrize("segmentation", [[], [[1, 2, 3, 4]], None])
def test_an_object_without_a_mask_is_no_background(tmp_path, segmentation):
    root = written(tmp_path / "data", 4)
    for split in ("train", "val"):
        content = json.loads((root / f"{split}.json").read_text())
        content["annotations"][1]["segmentation"] = segmentation
        (root / f"{split}.json").write_text(json.dumps(content))
    coco.prepare(tmp_path / "records", root, semantic=True)
    maps = {}
    for record in tf.data.TFRecordDataset(str(tmp_path / "records/train.tfrecord")):
        features = tf.train.Example.FromString(record.numpy()).features.feature
        (encoded,) = features[records.CLASSES].bytes_list.value
        (name,) = features["image/filename"].bytes_list.value
        maps[name.decode()] = tf.io.decode_png(encoded).numpy()[..., 0]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[6:21, 4:16] = 1
    expected[10:20, 30:38] = masks.IGNORED
    np.testing.assert_array_equal(maps["0.png"], expected)
    assert not (maps["1.png"] == masks.IGNORED).any()


def crowds(content):
    return [{**row, "iscrowd": 1} for row in content["annotations"]]


@pytest.mark.parametrize("semantic", [False, True])
def test_a_validation_split_without_objects_is_refused(tmp_path, monkeypatch, semantic):
    root = written(tmp_path / "data", 4, val=dict(annotations=[]))
    with monkeypatch.context() as patched:
        patched.setattr(coco.splits, "build", lambda *_: pytest.fail("images are read"))
        with pytest.raises(UserError, match=r"val.json has no annotations; an evaluation needs some"):
            coco.prepare(tmp_path / "records", root, semantic=semantic)
    content = json.loads((root / "train.json").read_text())
    (root / "val.json").write_text(json.dumps({**content, "annotations": crowds(content)}))
    with pytest.raises(UserError, match="all 4 objects of val are crowds; an evaluation needs others"):
        coco.prepare(tmp_path / "records", root, semantic=semantic)
    assert not list(tmp_path.glob("records*"))


def test_two_categories_of_one_name_are_refused(tmp_path):
    names = dict(categories=[dict(id=1, name="cat"), dict(id=7, name="dog"), dict(id=9, name=" cat ")])
    root = written(tmp_path / "data", 4, train=names, val=names)
    with pytest.raises(UserError, match="the categories 1 and 9 have the same name, 'cat'; rename one"):
        coco.prepare(tmp_path / "records", root)


def test_a_name_that_an_unused_category_0_has_too_is_no_contradiction(tmp_path):
    """Roboflow calls the category 0 like the project, which is called like its class."""
    names = dict(categories=[dict(id=0, name="cat"), dict(id=1, name="cat")])
    root = written(tmp_path / "data", 4, train=names, val=names)
    assert coco.prepare(tmp_path / "records", root).class_names == ("", "cat")
