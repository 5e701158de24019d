"""Boxes of detection records, against the scenes that they were written from."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from asvit_tf.dataloaders import boxes, coco, shapes


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    shapes.write(folder / "scenes", train=12, validation=3, seed=2)
    return folder, coco.prepare(folder / "records", folder / "scenes", include_masks=True)


def test_boxes_are_those_of_the_annotations(prepared):
    folder, records = prepared
    found = boxes.read(f"{records.directory}/train.tfrecord")
    content = json.loads(next((folder / "scenes" / "annotations").glob("*train*")).read_text())
    expected = sorted((row["bbox"][3], row["bbox"][2], row["category_id"]) for row in content["annotations"])
    assert sorted((*sides, category) for sides, category in zip(found.sides.round(3).tolist(), found.categories)) == (
        [pytest.approx(row, abs=1e-3) for row in expected]
    )
    assert found.images.tolist() == [[128, 128]] * 12
    assert found.with_masks is True
    by_image = [sum(row["image_id"] == image["id"] for row in content["annotations"]) for image in content["images"]]
    assert found.most_in_an_image == max(by_image)


def test_boxes_are_scaled_as_the_input_pipeline_resizes():
    found = boxes.Boxes(
        np.array([[100.0, 200.0], [50.0, 50.0]]),
        np.array([0, 0, 1]),
        np.array([[10.0, 20.0], [5, 5], [10, 10]]),
        np.array([1, 1, 1]),
        True,
    )
    # 100 x 200 fits into 64 x 64 by its width, at 0.32; 50 x 50 is enlarged by 1.28.
    np.testing.assert_allclose(found.scaled(64, 64), [[3.2, 6.4], [1.6, 1.6], [12.8, 12.8]])


def test_records_without_masks(prepared):
    folder, _ = prepared
    bare = coco.prepare(folder / "bare", folder / "scenes", include_masks=False)
    assert not boxes.read(f"{bare.directory}/validation.tfrecord").with_masks
    whole = coco.prepare(folder / "whole", folder / "scenes", include_masks=None)
    assert boxes.read(f"{whole.directory}/train.tfrecord").with_masks
    path = next((folder / "scenes" / "annotations").glob("*val*"))
    content = json.loads(path.read_text())
    shutil.copytree(folder / "scenes", folder / "half")
    for row in content["annotations"]:
        del row["segmentation"]
    (folder / "half" / "annotations" / path.name).write_text(json.dumps(content))
    half = coco.prepare(folder / "half records", folder / "half", include_masks=None)
    assert not boxes.read(f"{half.directory}/train.tfrecord").with_masks  # There would be nothing to judge.


def test_sizes_are_those_of_the_images(prepared):
    _, records = prepared
    assert boxes.image_sizes(f"{records.directory}/train.tfrecord").tolist() == [[128, 128]] * 12


def test_boxes_thinner_than_float32_are_none(tmp_path):
    """640 - 1e-5 of 640 pixels is the right edge itself."""
    features = {"image/height": [480], "image/width": [640], "image/object/class/label": [1, 2]}
    example = tf.train.Example()
    for name, values in features.items():
        example.features.feature[name].int64_list.value.extend(values)
    for side, values in dict(ymin=[0.1, 0.1], xmin=[0.1, 1 - 1e-9], ymax=[0.2, 0.2], xmax=[0.2, 1.0]).items():
        example.features.feature[f"image/object/bbox/{side}"].float_list.value.extend(values)
    with tf.io.TFRecordWriter(str(tmp_path / "train.tfrecord")) as writer:
        writer.write(example.SerializeToString())
    found = boxes.read(str(tmp_path / "train.tfrecord"))
    assert found.categories.tolist() == [1]
    np.testing.assert_allclose(found.sides, [[48, 64]], rtol=1e-5)
