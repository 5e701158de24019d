"""Training records of large photographs: picture, boxes, masks and classes are reduced alike, the held-out ones not."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
import yaml
from official.vision.dataloaders import tf_example_decoder
from PIL import Image

from asvit_tf.dataloaders import boxes, coco
from asvit_tf.dataloaders.labels import prepare
from search.dense import sizes

ROWS, COLUMNS, PIXELS = 1500, 2000, 24_576
SMALL = (135, 181)  # Of the same shape, with at most so many pixels.
LARGE, TINY = (600.5, 300.25, 800, 900), (1990, 10, 3, 2)  # x, y, width, height.


def photograph():
    """A board of black and white pixels, which is grey from afar; the large object is red, with a white board in it."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    pixels = np.repeat(np.uint8(255 * ((x + y) % 2))[..., None], 3, axis=-1)
    inside = ((x - 1000.5) / 400) ** 2 + ((y - 750.25) / 450) ** 2 <= 1
    pixels[inside] = np.maximum(pixels[inside], np.uint8([255, 0, 0]))
    return pixels, inside


def row(identifier, image, box, polygon, **fields):
    return dict(
        id=identifier, image_id=image, category_id=1, bbox=box, area=box[2] * box[3], segmentation=[polygon], **fields
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of each split a large photograph, and a picture that is small enough."""
    root = tmp_path_factory.mktemp("photographs")
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    ellipse = np.stack([1001 + 400 * np.cos(turn), 750.75 + 450 * np.sin(turn)], axis=-1).ravel().tolist()
    left, top, width, height = TINY
    corner = [left, top, left + width, top, left + width, top + height, left, top + height]
    content = dict(
        images=[
            dict(id=1, file_name="large.jpg", height=ROWS, width=COLUMNS),
            dict(id=2, file_name="small.png", height=100, width=150),
        ],
        annotations=[
            row(1, 1, LARGE, ellipse, iscrowd=0),
            row(2, 1, TINY, corner, iscrowd=0),
            row(3, 1, LARGE, ellipse, iscrowd=1),
            row(4, 2, (10, 20, 30, 40), [10, 20, 40, 20, 40, 60, 10, 60], iscrowd=0),
        ],
        categories=[dict(id=1, name="thing")],
    )
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / split).mkdir()
        Image.fromarray(photograph()[0]).save(root / split / "large.jpg", quality=95, subsampling=0)
        Image.fromarray(photograph()[0][:100, :150]).save(root / split / "small.png")
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    return coco.prepare(tmp_path_factory.mktemp("records") / "r", folder, semantic=True, stored_pixels=PIXELS)


def decoded(prepared, split):
    """What the Model Garden's pipeline reads, and the record itself, by image."""
    decoder = tf_example_decoder.TfExampleDecoder(include_mask=True)
    found = {}
    for record in tf.data.TFRecordDataset(f"{prepared.directory}/{split}.tfrecord"):
        read = {name: value.numpy() for name, value in decoder.decode(record).items()}
        found[int(read["source_id"])] = read, tf.train.Example.FromString(record.numpy()).features.feature
    return found


def test_a_large_photograph_is_stored_without_aliasing(prepared):
    read, _ = decoded(prepared, "train")[1]
    assert (read["height"], read["width"]) == read["image"].shape[:2] == SMALL
    image = read["image"].astype(float)
    assert abs(image[:, :50] - 127.5).max() < 8  # JPEG.
    np.testing.assert_allclose(image[60:75, 80:100].mean((0, 1)), [255, 127.5, 127.5], atol=3)


def test_boxes_and_masks_agree_with_the_reduced_picture(prepared):
    read, feature = decoded(prepared, "train")[1]
    large = read["groundtruth_boxes"][0]
    x, y, width, height = LARGE
    expected = np.array([y / ROWS, x / COLUMNS, (y + height) / ROWS, (x + width) / COLUMNS])
    np.testing.assert_allclose(large, expected, rtol=1e-6)
    assert read["groundtruth_is_crowd"].tolist() == [False, False, True]
    masks = read["groundtruth_instance_masks"]
    assert masks.shape == (3, *SMALL)
    seen = read["image"][..., 0].astype(float) - read["image"][..., 1] > 64  # At least half of the pixel is red.
    for mask in (masks[0], masks[2]):
        assert (mask.astype(bool) ^ seen).sum() < 0.02 * seen.sum()
    rows, columns = np.nonzero(masks[0])
    edges = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    np.testing.assert_allclose(edges, large * (*SMALL, *SMALL), atol=1)
    assert masks[1].sum() == 1  # No object is lost.
    ((row, column),) = np.argwhere(masks[1])
    assert (row, column) == (0, 180)
    np.testing.assert_allclose(
        read["groundtruth_area"], np.array([720_000, 6, 720_000]) * 135 * 181 / (ROWS * COLUMNS), rtol=1e-5
    )
    with Image.open(io.BytesIO(feature["image/segmentation/class/encoded"].bytes_list.value[0])) as classes:
        found = np.asarray(classes)
    assert found.shape == SMALL
    assert set(np.unique(found)) == {0, 1, 255}  # The crowd lies over the large object.
    assert ((found == 255) ^ seen).sum() < 0.02 * seen.sum()


def test_held_out_photographs_and_small_ones_stay_as_they_are(folder, prepared):
    for split, place, images in (("validation", "val", {1: "large.jpg", 2: "small.png"}), ("train", "train", {2: ""})):
        found = decoded(prepared, split)
        for image in images:
            name = {1: "large.jpg", 2: "small.png"}[image]
            _, feature = found[image]
            assert feature["image/encoded"].bytes_list.value[0] == (folder / place / name).read_bytes()
            assert not [key for key in feature if key.startswith("image/own")]
    read, _ = decoded(prepared, "validation")[1]
    assert read["groundtruth_instance_masks"].shape == (3, ROWS, COLUMNS)
    np.testing.assert_allclose(read["groundtruth_area"], [720_000, 6, 720_000])


def test_what_was_stored_is_said_and_written(prepared):
    assert "train: 1 photographs are stored reduced, at most 24,576 pixels" in prepared.left_out
    for name in (prepared.config_file, prepared.semantic_config_file):
        with open(name) as file:
            assert yaml.safe_load(file)["task"]["stored_pixels"] == PIXELS


def test_the_choices_are_those_of_photographs_that_are_not_reduced(folder, prepared, tmp_path):
    whole = coco.prepare(tmp_path / "whole", folder)
    assert not any("reduced" in line for line in whole.left_out)
    with open(whole.config_file) as file:
        assert "stored_pixels" not in yaml.safe_load(file)["task"]
    patterns = [f"{each.directory}/train.tfrecord" for each in (prepared, whole)]
    reduced, own = map(boxes.read, patterns)
    for name in ("images", "of_image", "sides", "categories"):
        np.testing.assert_array_equal(getattr(reduced, name), getattr(own, name))
    assert own.images.max() == COLUMNS
    first, second = map(boxes.image_sizes, patterns)
    np.testing.assert_array_equal(first, second)
    assert sizes.input_size(first, PIXELS // 4) == sizes.input_size(second, PIXELS // 4)


def test_label_pictures_are_reduced_with_their_photographs(tmp_path):
    pixels, inside = photograph()
    labels = np.where(inside, 2, 4).astype(np.uint8)
    labels[1400, 30] = 3  # A class of one pixel.
    labels[:40] = 255
    for split in ("train", "val", "test"):
        for folder, array in (("images", pixels), ("masks", labels)):
            (tmp_path / folder / split).mkdir(parents=True)
            Image.fromarray(array).save(tmp_path / folder / split / "a.png")
            Image.fromarray(array[:90, :90]).save(tmp_path / folder / split / "b.png")
    found = prepare.prepare(tmp_path / "records", tmp_path / "images", tmp_path / "masks", stored_pixels=PIXELS)
    assert "train: 1 photographs are stored reduced, at most 24,576 pixels" in found.left_out
    written = json.loads((tmp_path / "records" / "dataset.json").read_text())
    assert written["stored_pixels"] == PIXELS
    with open(found.config_file) as file:
        assert yaml.safe_load(file)["task"]["stored_pixels"] == PIXELS
    for split in ("train", "validation", "test"):
        shapes = []
        for record in tf.data.TFRecordDataset(str(tmp_path / "records" / f"{split}.tfrecord")):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            image, classes = (
                tf.io.decode_image(feature[name].bytes_list.value[0]).numpy()
                for name in ("image/encoded", "image/segmentation/class/encoded")
            )
            size = tuple(feature[f"image/{side}"].int64_list.value[0] for side in ("height", "width"))
            assert image.shape[:2] == classes.shape[:2] == size
            shapes.append(size)
            if size == SMALL:
                assert set(np.unique(classes)) == {2, 3, 4, 255}
                assert (classes == 3).sum() == 1
                seen = image[..., 0].astype(float) - image[..., 1] > 64
                assert ((classes[..., 0] == 2) ^ seen).sum() < 0.02 * seen.sum()
                assert (classes[:3] == 255).all()
        assert sorted(shapes) == [(90, 90), SMALL if split == "train" else (ROWS, COLUMNS)]
    images = boxes.image_sizes(str(tmp_path / "records" / "train.tfrecord"))
    assert sorted(images.tolist()) == [[90, 90], [ROWS, COLUMNS]]
    assert found.counts["train"].images == 2
