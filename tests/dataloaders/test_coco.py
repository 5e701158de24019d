"""COCO's files into TFRecords: what the input pipeline reads is what the annotations say; bad input has one line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import compressed
from official.core import exp_factory, task_factory
from official.modeling import hyperparams
from official.vision.dataloaders import tf_example_decoder
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from asvit_tf import (
    cli,
    registry_imports,  # noqa: F401
)
from asvit_tf.dataloaders import coco, masks
from asvit_tf.errors import UserError
from asvit_tf.tasks import experiment_files

HEIGHT, WIDTH = 40, 60


def mask(top, left, bottom, right):
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole[top:bottom, left:right] = 1
    return whole


def annotation(image_id, box, category=3, **fields):
    x, y, width, height = box
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    return dict(
        image_id=image_id, category_id=category, bbox=box, area=width * height, segmentation=[polygon], **fields
    )


@pytest.fixture
def folder(tmp_path):
    """COCO's layout: categories 3 and 7, an image with everything, one without boxes, one with a crowd."""
    annotations = [
        annotation(11, [5, 4, 20, 10], iscrowd=0),
        annotation(11, [50.5, 30, 20, 20], category=7),  # Beyond the border; iscrowd left out.
        annotation(11, [8, 8, 0, 5], iscrowd=0),  # Without width.
        annotation(11, [8, 8, -3, 5], iscrowd=0),
        annotation(11, [70, 8, 5, 5], iscrowd=0),  # Outside of the image.
        {**annotation(11, [1, 1, 5, 5], iscrowd=0), "segmentation": []},
        {**annotation(11, [10, 20, 5, 4], iscrowd=0), "segmentation": masks.run_lengths(mask(20, 10, 24, 15))},
        {**annotation(11, [30, 2, 9, 8], iscrowd=0), "segmentation": compressed(mask(2, 30, 10, 39))},
        {**annotation(13, [2, 2, 30, 30], iscrowd=1), "segmentation": masks.run_lengths(mask(2, 2, 32, 32))},
        annotation(13, [4, 4, 10, 20], iscrowd=1),  # A crowd as polygons.
        {**annotation(13, [0, 0, 9, 9], iscrowd=0), "segmentation": [compressed(mask(0, 0, 9, 9))]},  # In a list.
        {**annotation(13, [0, 0, 9, 9], iscrowd=0), "segmentation": compressed(mask(0, 0, 0, 0))},  # Without pixels.
    ]
    annotations[0]["segmentation"].append([1, 2, 3, 4])  # No polygon.
    content = dict(
        images=[dict(id=i, file_name=f"{i}.png", height=HEIGHT, width=WIDTH) for i in (11, 12, 13)],
        annotations=[dict(id=i // 2, **row) for i, row in enumerate(annotations)],  # From 0, and twice each.
        categories=[dict(id=3, name="1e3"), dict(id=7, name="tree")],
    )
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        for i in (11, 12, 13):
            pixels = np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{i}.png")
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return tmp_path


def decoded(path, include_mask=True):
    decoder = tf_example_decoder.TfExampleDecoder(include_mask=include_mask)
    rows = [decoder.decode(record) for record in tf.data.TFRecordDataset(str(path))]
    return {int(row["source_id"].numpy()): {key: value.numpy() for key, value in row.items()} for row in rows}


def test_what_is_written_is_what_the_pipeline_reads(folder, tmp_path):
    prepared = coco.prepare(tmp_path / "records", folder)
    rows = decoded(tmp_path / "records" / "train.tfrecord")
    assert sorted(rows) == [11, 12, 13]
    full, empty, crowd = (rows[i] for i in (11, 12, 13))
    boxes = full["groundtruth_boxes"] * [HEIGHT, WIDTH, HEIGHT, WIDTH]  # top, left, bottom, right
    expected = [[4, 5, 14, 25], [30, 50.5, 40, 60], [20, 10, 24, 15], [2, 30, 10, 39]]
    np.testing.assert_allclose(boxes, expected, atol=1e-4)
    assert full["groundtruth_classes"].tolist() == [3, 7, 3, 3]
    assert full["groundtruth_instance_masks"].shape == (4, HEIGHT, WIDTH)
    np.testing.assert_array_equal(full["groundtruth_instance_masks"][2] > 0, mask(20, 10, 24, 15))
    np.testing.assert_array_equal(full["groundtruth_instance_masks"][3] > 0, mask(2, 30, 10, 39))
    np.testing.assert_array_equal(full["image"], np.asarray(Image.open(folder / "train2017/11.png")))
    assert len(empty["groundtruth_boxes"]) == len(empty["groundtruth_instance_masks"]) == 0
    assert crowd["groundtruth_is_crowd"].tolist() == [True, True, False]
    for actual, expected in zip(crowd["groundtruth_instance_masks"], ((2, 2, 32, 32), (4, 4, 24, 14), (0, 0, 9, 9))):
        np.testing.assert_array_equal(actual > 0, mask(*expected))
    count = prepared.counts["train"]
    assert (count.images, count.without_boxes, count.objects, count.crowds, count.degenerate) == (3, 1, 7, 2, 5)
    assert (count.given_images, count.given_objects, count.images_left_out) == (3, 12, {})
    assert count.objects_left_out == {
        "empty box": 2,
        "box outside of the image": 1,
        "no segmentation": 1,
        "empty mask": 1,
    }


def test_the_config_and_the_annotations_fit_the_records(folder, tmp_path):
    prepared = coco.prepare(tmp_path / "records", folder, shards=2)
    task = experiment_files.read(prepared.config_file)["task"]
    assert task["model"]["num_classes"] == 8  # The largest identifier is 7.
    assert task["class_names"] == ["", "", "", "1e3", "", "", "", "tree"]
    assert len(tf.io.gfile.glob(task["train_data"]["input_path"])) == 2
    annotations = COCO(task["annotation_file"])
    # An evaluation overlooks 0, and one of two that are equal. The last two have no mask, and are none to be found.
    assert sorted(annotations.anns) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert len(annotations.imgs) == 3
    assert [number for number, row in annotations.anns.items() if row["iscrowd"]] == [5, 6, 8, 9]
    np.testing.assert_array_equal(annotations.annToMask(annotations.anns[3]), mask(20, 10, 24, 15))


def test_perfect_detections_have_an_ap_of_1(folder, tmp_path):
    prepared = coco.prepare(tmp_path / "records", folder)
    annotations = COCO(str(Path(prepared.directory) / "annotations_validation.json"))
    found = [
        dict(row, score=0.9) for row in json.loads(json.dumps(annotations.dataset["annotations"])) if not row["iscrowd"]
    ]
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(annotations, annotations.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[1] == pytest.approx(1)  # AP50


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (200, 0.0)])
def test_a_detector_that_finds_every_box_has_an_ap_of_1(folder, tmp_path, shift, expected):
    """By the evaluation of a task that reads the records; its network sees images of 40 x 60 as 171 x 256."""
    prepared = coco.prepare(tmp_path / "records", folder)
    params = exp_factory.get_exp_config("retinanet_asvit_coco")
    experiment_files.override(params, experiment_files.read(prepared.config_file), "data.yaml")
    params.task.model.input_size = [256, 256, 3]
    params.task.validation_data.override({"global_batch_size": 3, "dtype": "float32"})
    task = task_factory.get_task(params.task)
    task.build_metrics(training=False)
    (labels,) = (labels for _, labels in task.build_inputs(params.task.validation_data))
    top_left_bottom_right = {
        11: [[4, 5, 14, 25], [30, 50.5, 40, 60], [20, 10, 24, 15], [2, 30, 10, 39]],
        12: [],
        13: [[0, 0, 9, 9]],  # The other two are crowds.
    }
    classes = {11: [3, 7, 3, 3], 12: [], 13: [3]}
    numbers = [int(number) for number in labels["groundtruths"]["source_id"].numpy()]
    boxes, found = np.zeros((3, 4, 4), np.float32), np.zeros((3, 4), np.int32)
    for i, number in enumerate(numbers):
        count = len(classes[number])
        found[i, :count] = classes[number]
        boxes[i, :count] = np.reshape(top_left_bottom_right[number], (-1, 4)) * ([171 / 40, 256 / 60] * 2) + shift
    answer = dict(
        detection_boxes=tf.constant(boxes),
        detection_classes=tf.constant(found),
        detection_scores=tf.fill((3, 4), 0.9),
        num_detections=tf.constant([len(classes[number]) for number in numbers]),
        source_id=labels["groundtruths"]["source_id"],
        image_info=labels["image_info"],
    )
    task.coco_metric.update_state(labels["groundtruths"], answer)
    assert task.coco_metric.result()["AP"] == pytest.approx(expected, abs=1e-6)


def test_boxes_alone_need_no_masks(folder, tmp_path):
    path = folder / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        del row["segmentation"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"no object of train2017 is left: .*; --no-masks writes boxes alone"):
        coco.prepare(tmp_path / "masks", folder)
    prepared = coco.prepare(tmp_path / "records", folder, include_masks=False)
    assert prepared.counts["train"].objects == 9  # Two more: what has a box but no mask counts.
    assert len(decoded(tmp_path / "records/train.tfrecord", include_mask=False)) == 3


def test_the_configs_give_the_experiments_that_json_gives(folder, tmp_path):
    """By the Model Garden's reader, which takes 1e3 for a number where it is not quoted; JSON quotes every text."""
    prepared = coco.prepare(tmp_path / "records", folder, shards=2, semantic=True)
    paths = {
        f"{split}_data": dict(input_path=str(tmp_path / f"records/{split}-*-of-00002.tfrecord"))
        for split in ("train", "validation")
    }
    names = ["", "", "", "1e3", "", "", "", "tree"]
    annotations = str(tmp_path / "records/annotations_validation.json")
    boxes = dict(annotation_file=annotations, class_names=names, model=dict(num_classes=8), **paths)
    pixels = dict(class_names=["background", "1e3", "tree"], model=dict(num_classes=3), **paths)
    for experiment, file, task in (
        ("retinanet_asvit_coco", prepared.config_file, boxes),
        ("segmentation_asvit_coco", prepared.semantic_config_file, pixels),
    ):
        (tmp_path / "expected.yaml").write_text(json.dumps(dict(task=task)))
        read = exp_factory.get_exp_config(experiment)
        experiment_files.override(read, experiment_files.read(file), file)
        read = read.as_dict()
        expected = hyperparams.override_params_dict(
            exp_factory.get_exp_config(experiment), str(tmp_path / "expected.yaml"), is_strict=True
        ).as_dict()
        assert read == expected
        assert read["task"]["class_names"] == task["class_names"]
        assert Path(file).read_text().startswith("# Written by asvit prepare-coco; ")


def changed(**changes):
    """A change of one entry: list name, position, field, value."""
    return lambda content: content[changes["of"]][changes["at"]].update(changes["to"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("categories"), "is not a COCO annotation file: categories is not there"),
        (changed(of="categories", at=0, to=dict(id=4)), "the categories of train2017 and val2017 are not the same"),
        (lambda content: content["categories"][0].pop("name"), "has no id or no name"),
        (changed(of="categories", at=0, to=dict(name="\udce9")), "is no text in UTF-8"),
        (changed(of="categories", at=0, to=dict(id=7)), "two categories of train2017 have the same identifier"),
        (changed(of="images", at=1, to=dict(id=11)), "2 images have the identifier of another image"),
        (changed(of="images", at=1, to=dict(width=61)), "12.png.*is 60 x 40, but its annotation says 61 x 40"),
        (changed(of="images", at=1, to=dict(width=40, height=60)), "width and height exchanged.*no EXIF"),
        (changed(of="images", at=1, to=dict(width=60.5)), "no whole number from 1.*60.5"),
        (changed(of="images", at=1, to=dict(file_name="11.png")), "name the file of another image"),
        (changed(of="images", at=1, to=dict(file_name="gone.png")), "1 of 3 images are missing.*--skip-missing"),
        (changed(of="annotations", at=0, to=dict(image_id=99)), "name no image that is listed.*99"),
        (changed(of="annotations", at=0, to=dict(category_id=5)), "have a category that is not listed.*5"),
        (changed(of="annotations", at=0, to=dict(bbox=[1, 2, float("nan"), 4])), "not four finite numbers.*nan"),
        (changed(of="annotations", at=0, to=dict(bbox=[1, 2, 3])), "not four finite numbers"),
        (changed(of="annotations", at=0, to=dict(iscrowd=2)), "have an iscrowd that is not 0 or 1"),
        (changed(of="annotations", at=0, to=dict(bbox=None, segmentation=None)), "neither a box nor a segmentation"),
        (changed(of="annotations", at=0, to=dict(segmentation=[[1, 2, 3, 4, 5, 6, 7]])), "not of pairs of numbers"),
        (changed(of="annotations", at=6, to=dict(segmentation=masks.run_lengths(np.ones((2, 3))))), "of another size"),
        (lambda content: content.update(images=["a.jpg"]), "1 image.* are no objects of JSON.*a.jpg.*12 annotations"),
        (lambda content: content.update(images={}), "images is a dict; it must be a list"),
        (lambda content: content.update(images=[], annotations=[]), "name no images"),
    ],
)
def test_contradictions_have_one_line_and_leave_nothing(folder, tmp_path, capsys, change, message):
    path = folder / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert cli.main(["prepare-coco", str(folder), "--output", str(tmp_path / "records")]) == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.strip() and "image/s" not in line)
    assert re.search(message, error)
    assert not list(tmp_path.glob("records*"))


def test_missing_images_can_be_left_out(folder, tmp_path, capsys):
    (folder / "train2017/11.png").unlink()
    whole = (folder / "train2017/12.png").read_bytes()
    (folder / "train2017/12.png").write_bytes(whole[: len(whole) // 2])
    arguments = ["prepare-coco", str(folder), "--output", str(tmp_path / "records"), "--skip-missing"]
    assert cli.main([*arguments, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    prepared = coco.Prepared("", (), {split: coco.SplitCount(**count) for split, count in counts.items()})
    assert prepared.left_out[0] == "train: 2 images left out: missing or damaged"
    assert "train: 8 objects left out: belong to an image that is left out" in prepared.left_out
    assert counts["train"]["images_left_out"] == {"missing or damaged": 2}
    assert counts["train"]["objects_left_out"] == {"belong to an image that is left out": 8, "empty mask": 1}
    del counts["train"]["images_left_out"], counts["train"]["objects_left_out"]
    assert counts["train"] == dict(
        **dict(images=1, without_boxes=0, objects=3, crowds=2, degenerate=1, missing=2),
        **dict(given_images=3, given_objects=12, notes={}),
    )
    assert counts["validation"]["missing"] == 0
    assert list(decoded(tmp_path / "records/train.tfrecord")) == [13]


def test_missing_files_and_splits(folder, tmp_path, capsys):
    arguments = ["prepare-coco", str(folder), "--output", str(tmp_path / "records")]
    assert cli.main([*arguments, "--train", "train2014"]) == 2
    assert "should hold one annotations/instances_train2014.json" in capsys.readouterr().err
    (folder / "annotations" / "instances_val2017.json").rename(folder / "annotations" / "other.json")
    assert cli.main(arguments) == 2
    assert (
        "should hold one annotations/instances_val*.json, or val*/_annotations.coco.json; found "
        "annotations/instances_train2017.json, annotations/other.json; name the split with --validation"
    ) in " ".join(capsys.readouterr().err.split())
