"""Which annotation files are which split, what is held out of one, and what is in both."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asvit_tf import cli
from asvit_tf.dataloaders import coco
from asvit_tf.dataloaders.annotations import division
from asvit_tf.errors import UserError

HEIGHT, WIDTH = 20, 30


def annotated(root, files, images=10, empty=0):
    """Annotation files by path, each with images of its own; the last `empty` have no objects."""
    for number, (path, folder) in enumerate(files.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        rows, objects = [], []
        for i in range(images):
            name = f"{number}_{i}.png"
            pixels = np.random.default_rng([number, i]).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / name)
            rows.append(dict(id=i + 1, file_name=name, width=WIDTH, height=HEIGHT))
            if i < images - empty:
                objects.append(dict(id=i + 1, image_id=i + 1, category_id=1, bbox=[2, 3, 8, 6], iscrowd=0))
        content = dict(images=rows, annotations=objects, categories=[dict(id=1, name="cat")])
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(content))
    return root


def of(name):
    return f"annotations/instances_{name}.json"


def prepared(root, **names):
    shutil.rmtree(root.with_name("records"), ignore_errors=True)
    return coco.prepare(root.with_name("records"), root, names, include_masks=False)


def listed(found):
    content = json.loads((Path(found.directory) / "annotations_validation.json").read_text())
    return {row["file_name"] for row in content["images"]}


@pytest.mark.parametrize(
    ("files", "names", "note"),
    [
        ({of("default"): "images"}, {}, "2 of 10 images of default are held out, as there is no validation split"),
        ({"result.json": "images"}, {}, "2 of 10 images of result are held out"),
        ({"train/_annotations.coco.json": "train"}, {}, "2 of 10 images of train are held out"),
        ({of("default"): "images"}, dict(train="default"), "2 of 10 images of default are held out"),
        ({of("val2017"): "val2017"}, dict(train="val2017"), "2 of 10 images of val2017 are held out"),
        ({of("trainval"): "images"}, {}, "2 of 10 images of trainval are held out"),
    ],
)
def test_a_fifth_of_one_file_is_held_out_always_the_same(tmp_path, files, names, note):
    root = annotated(tmp_path / "data", files)
    found = prepared(root, **names)
    assert any(line.startswith(note) for line in found.left_out)
    train, validation = (found.counts[split] for split in ("train", "validation"))
    assert (train.images, train.objects, train.given_images, train.given_objects) == (8, 8, 8, 8)
    assert (validation.images, validation.objects, validation.given_images, validation.given_objects) == (2, 2, 2, 2)
    assert found.duplicates["validation_in_train"] == 0
    first = listed(found)
    assert listed(prepared(root, **names)) == first


def test_images_with_objects_are_held_out_and_copies_lie_on_one_side(tmp_path):
    root = annotated(tmp_path / "data", {of("default"): "images"}, images=22, empty=12)
    for i in range(1, 5):
        shutil.copy(root / "images/0_0.png", root / f"images/0_{i}.png")
    found = prepared(root)
    assert found.counts["validation"].objects == 2  # A fifth of those that have some, too.
    assert found.duplicates["validation_in_train"] == 0
    assert found.duplicates["repeated"]["train"] == 4


def test_what_cannot_be_read_stays_with_the_training(tmp_path):
    root = annotated(tmp_path / "data", {of("default"): "images"})
    path = root / of("default")
    content = json.loads(path.read_text())
    content["annotations"].append(dict(content["annotations"][0], bbox=[1, 2]))
    path.write_text(json.dumps(content))
    (root / "images/0_3.png").unlink()
    found = coco.prepare(
        tmp_path / "records", root, include_masks=False, leniency=coco.Leniency(missing=True, invalid=True)
    )
    for count in found.counts.values():
        assert count.given_images == count.images + sum(count.images_left_out.values())
        assert count.given_objects == count.objects + sum(count.objects_left_out.values())
    assert sum(count.given_images for count in found.counts.values()) == 10
    assert sum(count.given_objects for count in found.counts.values()) == 11
    assert found.counts["validation"].images_left_out == {}


def test_one_image_with_objects_is_too_few(tmp_path):
    root = annotated(tmp_path / "data", {of("default"): "images"}, images=5, empty=4)
    with pytest.raises(UserError, match=r"1 images of default have objects .* at least 2 are needed, to hold one out"):
        prepared(root)


def test_validation_on_the_training_images_is_refused(tmp_path, capsys):
    root = annotated(tmp_path / "data", {of("default"): "images"})
    for command in ("prepare-coco", "detect-run"):
        options = ["--output", str(tmp_path / "out"), "--train", "default", "--validation", "default"]
        assert cli.main([command, str(root), *options]) == 2
        assert "the same file" in " ".join(capsys.readouterr().err.split())
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_images_of_both_splits_are_counted(tmp_path):
    root = annotated(tmp_path / "data", {of("train"): "train", of("val"): "val"})
    assert prepared(root).left_out == ()
    for i in (2, 5):
        shutil.copy(root / f"train/0_{i}.png", root / f"val/1_{i}.png")
    found = prepared(root)
    assert found.left_out == (
        "validation images that are training images, too: 2 of 10; AP on validation is too high",
        "  val/1_2.png is the same as train/0_2.png",
        "  val/1_5.png is the same as train/0_5.png",
    )
    assert found.duplicates["images"] == dict(train=10, validation=10)
    assert "conflicting" not in found.duplicates


def test_trainval_is_no_training_split_beside_val(tmp_path):
    root = annotated(tmp_path, {of("trainval"): "images", of("val"): "images"})
    with pytest.raises(UserError, match=r"instances_train\*.json.*found .*trainval.json.*name the split with --train"):
        division.find(root, {})
    assert division.find(root, dict(train="trainval")).train.name == "trainval"
    annotated(root, {of("train"): "images"})
    places = division.find(root, {})
    assert (places.train.name, places.validation.name) == ("train", "val")


def test_another_annotation_file_is_not_passed_over(tmp_path):
    """It may be the validation that is called otherwise; captions of the same images, or a table, are not."""
    root = annotated(tmp_path, {of("train"): "train"})
    (root / "annotations/captions_train.json").write_text((root / of("train")).read_text())
    (root / "classes.json").write_text('["cat"]')
    assert division.find(root, {}).validation is None
    annotated(root, {of("holdout"): "holdout"})
    with pytest.raises(UserError, match=r"found .*instances_holdout.json.*name the split with --validation"):
        division.find(root, {})
    assert division.find(root, dict(validation="holdout")).validation.name == "holdout"


def test_a_test_split_is_not_dropped_without_a_word(tmp_path):
    files = {f"{split}/_annotations.coco.json": split for split in ("train", "valid", "test")}
    root = annotated(tmp_path, files, images=1)
    note = (
        "the split test (test/_annotations.coco.json) is not used; a detector is evaluated on the validation split",
    )
    assert division.find(root, {}).notes == note
    shutil.rmtree(root / "valid")
    assert division.find(root, {}).validation is None  # A test split is none to evaluate on, unless it is named.
    assert division.find(root, dict(validation="test")).notes == ()


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("labels/train/1.txt", "0 0.5 0.5 0.25 0.1\n3 0.1 0.2 0.3 0.4\n", "annotations of YOLO, as labels/train/1.txt"),
        ("train/labels/1.txt", "2 .1 .1 .5 .1 .5 .5 .1 .5", "annotations of YOLO, as train/labels/1.txt"),
        ("Annotations/1.xml", "<annotation>\n<folder>x</folder>", "annotations of Pascal VOC, as Annotations/1.xml"),
        ("train/1.xml", '<?xml version="1.0"?>\n<annotation verified="yes">', "Pascal VOC, as train/1.xml"),
        ("labels/classes.txt", "cat\ndog\n", None),
        ("images/1.xml", "<svg/>", None),
    ],
)
def test_other_layouts_are_named(tmp_path, path, content, said):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(content)
    with pytest.raises(UserError) as refused:
        division.find(tmp_path, {})
    line = str(refused.value)
    assert "--train" not in line  # There is nothing to name.
    assert (said or "found none") in line
    if said is not None:
        assert "COCO's layout: annotations/instances_train*.json" in line
