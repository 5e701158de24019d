"""Photographs reduced before they are stored, against TensorFlow's resizing without aliasing."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from asvit_tf.dataloaders import classification
from asvit_tf.dataloaders.imagefiles.reduced import nearest, reduced, size_of, size_within, within


def encoded(pixels, kind):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return file.getvalue()


def photograph(rows, columns, seed=0):
    """Waves of several lengths, the shortest of three pixels."""
    y, x = np.mgrid[:rows, :columns]
    waves = [np.sin(x / length + seed) + np.cos(y / length) + np.sin((x + 2 * y) * 1.9) for length in (90, 30, 15)]
    return np.uint8(np.clip(128 + 30 * np.stack(waves, axis=-1), 0, 255))


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((400, 300), 100, (133, 100)),
        ((300, 401), 100, (100, 134)),
        ((100, 900), 100, (100, 900)),  # Short enough already.
        ((99, 50), 100, (99, 50)),
        ((70_000, 100), 1, (700, 1)),
    ],
)
def test_the_shorter_side(size, side, expected):
    assert size_of(size, side) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("size", "side"), [((300, 401), 100), ((1600, 1200), 64)])
def test_every_pixel_counts_as_tensorflow_has_it(size, side, kind):
    content = encoded(photograph(*size), kind)
    small = reduced(content, side)
    assert small.startswith(content[:2])
    result = tf.io.decode_image(small).numpy().astype(float)
    whole = tf.io.decode_image(content)
    expected = tf.image.resize(whole, result.shape[:2], antialias=True).numpy()
    assert np.abs(result - expected).max() < (1 if kind == "PNG" else 15)  # What a JPEG costs.
    assert np.abs(result - expected).mean() < (0.5 if kind == "PNG" else 2)
    interpolated = tf.image.resize(whole, result.shape[:2]).numpy()
    assert np.abs(interpolated - expected).mean() > 8


def test_small_images_stay_as_they_are():
    for kind in ("JPEG", "PNG"):
        content = encoded(photograph(64, 90), kind)
        assert reduced(content, 64) is content


def test_records_hold_what_was_reduced(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "images" / name / f"{i}.jpg").write_bytes(encoded(photograph(200, 150, i), "JPEG"))
    for side, shape in ((None, (200, 150, 3)), (60, (80, 60, 3))):
        data = classification.prepare(tmp_path / str(side), tmp_path / "images", stored_side=side)
        record = next(iter(tf.data.TFRecordDataset(data.train_path)))
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        assert tf.io.decode_image(feature["image/encoded"].bytes_list.value[0]).shape == shape
        assert classification.Dataset.load(tmp_path / str(side)).stored_side == side


def test_pixels_are_bounded():
    assert size_within((480, 640), 480 * 640) == (480, 640)  # As it is.
    for size in ((3000, 4000), (4000, 3000), (4160, 3121), (9000, 40), (2, 500_000)):
        rows, columns = size_within(size, 4 * 256 * 320)
        assert 0.9 * 4 * 256 * 320 < rows * columns <= 4 * 256 * 320 or 1 in (rows, columns)
        assert abs(rows / size[0] - columns / size[1]) < 1 / min(rows, columns)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_checkerboard_becomes_grey(kind):
    """Alone among the pixels of a board, interpolation would see black or white."""
    y, x = np.mgrid[:1500, :2000]
    board = np.uint8(255 * ((x + y) % 2))
    content = encoded(np.stack([board] * 3, axis=-1), kind)
    small = within(content, 24_576)
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (181, 135)
        assert image.format == kind
        pixels = np.asarray(image).astype(float)
    assert abs(pixels - 127.5).max() < 6
    interpolated = tf.image.resize(tf.io.decode_image(content), (135, 181)).numpy()
    assert interpolated.std() > 40
    assert within(small, 24_576) is small


def test_labels_are_never_mixed():
    labels = np.repeat(np.repeat(np.uint8([[0, 7, 255], [3, 3, 9]]), 100, axis=0), 100, axis=1)
    np.testing.assert_array_equal(nearest(labels, (20, 30)), labels[5::10, 5::10])
    assert nearest(labels, labels.shape) is labels
    noise = np.random.default_rng(0).integers(0, 4, (101, 67), np.uint8) * 60
    with Image.fromarray(noise) as image:  # Pillow takes the middle, too.
        np.testing.assert_array_equal(nearest(noise, (23, 17)), np.asarray(image.resize((17, 23), 0)))


def test_no_label_is_lost():
    labels = np.zeros((1000, 1000), np.uint8)
    labels[401, 899], labels[0, 0], labels[:, 3] = 5, 6, 7
    small = nearest(labels, (10, 20))
    assert small[4, 17] == 5
    assert small[0, 0] == 6
    assert np.bincount(small.ravel()).tolist() == [197, 0, 0, 0, 0, 1, 1, 1]
