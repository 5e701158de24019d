"""Classes at a picture's own size: against the resizing of TensorFlow, and bilinear sums by hand."""

import numpy as np
import pytest
import tensorflow as tf

from asvit_tf.modeling import own_size


def bilinear(values, rows, columns):
    """[h, w, K] at another size, pixel by pixel: centres at (i + 0.5) h / rows - 0.5, the border repeated."""
    height, width = values.shape[:2]
    found = np.empty((rows, columns, values.shape[2]))
    for i in range(rows):
        y = min(max((i + 0.5) * height / rows - 0.5, 0), height - 1)
        top = int(y)
        for j in range(columns):
            x = min(max((j + 0.5) * width / columns - 0.5, 0), width - 1)
            left = int(x)
            below, beside = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = values[top, left] * (left + 1 - x) + values[top, beside] * (x - left)
            lower = values[below, left] * (left + 1 - x) + values[below, beside] * (x - left)
            found[i, j] = upper * (top + 1 - y) + lower * (y - top)
    return found


@pytest.mark.parametrize("numbers", [1, 97, own_size._NUMBERS], ids=["a row", "rows", "at once"])
@pytest.mark.parametrize(
    ("part", "own", "size"),
    [
        ((16, 11), (37, 25), (40, 31)),
        ((16, 24), (7, 10), (7, 10)),
        ((3, 24), (1, 8), (2, 8)),
        ((16, 24), (16, 24), (16, 24)),
    ],
    ids=["larger", "smaller", "flat", "the same"],
)
def test_only_the_part_that_shows_the_picture_is_resized(monkeypatch, part, own, size, numbers):
    monkeypatch.setattr(own_size, "_NUMBERS", numbers)
    logits = np.random.default_rng(0).normal(size=(16, 24, 4)).astype(np.float32)
    logits[part[0] :] = logits[:, part[1] :] = 1e6 * np.array([0, 0, 0, 1])  # Padding, which may not be seen.
    found = own_size.likeliest(tf.constant(logits), tf.constant(part), tf.constant(own), size).numpy()
    expected = bilinear(logits[: part[0], : part[1]].astype(float), *own).argmax(-1)
    assert found.shape == size
    assert (found[: own[0], : own[1]] != expected).mean() < 0.01  # Of equal logits rounding chooses.
    resized = tf.image.resize(logits[: part[0], : part[1]], own).numpy().argmax(-1)
    assert (found[: own[0], : own[1]] != resized).mean() < 0.01
    assert (found < 4).all()


def test_the_part_follows_from_the_info():
    """A picture of 61 x 90 in 32 x 32: the factor is 32 / 90, 21.69 rows are rounded to 22."""
    info = tf.constant([[61, 90], [32, 32], [22 / 61, 32 / 90], [0, 0]], tf.float32)
    part, own = own_size.part_of(info)
    assert (part.numpy().tolist(), own.numpy().tolist()) == ([22, 32], [61, 90])


def test_the_truth_is_resized_to_the_nearest():
    """As TensorFlow does with each picture alone; sizes of which a product in float32 is just below a whole number."""
    sizes, network = ((443, 428), (221, 109), (166, 138), (20, 700)), (64, 64)
    rng = np.random.default_rng(0)
    padded, infos, expected = np.full((4, 443, 700, 1), 99, np.float32), [], np.full((4, *network, 1), 7)
    for number, (rows, columns) in enumerate(sizes):
        scale = min(network[0] / rows, network[1] / columns)
        part = (round(rows * scale), round(columns * scale))
        padded[number, :rows, :columns] = rng.integers(0, 5, (rows, columns, 1))
        picture = padded[number, :rows, :columns]
        expected[number, : part[0], : part[1]] = tf.image.resize(picture, part, method="nearest")
        infos.append([(rows, columns), network, (part[0] / rows, part[1] / columns), (0, 0)])
    found = own_size.shrunk(tf.constant(padded), tf.constant(infos, tf.float32), network, 7)
    np.testing.assert_array_equal(found, expected)
