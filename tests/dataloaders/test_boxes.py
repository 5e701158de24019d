"""Boxes of detection records, against the scenes that they were written from."""

import json

import numpy as np
import pytest

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
    assert coco.holds_masks(folder / "scenes")
