"""IoU at the pictures' own size: the Model Garden's metric and ours against a count in NumPy.

    python benchmarks/detection/own_size_metric.py

Logits are smooth random numbers at a quarter of the network's input, the truth is random. The count in NumPy resizes
the logits to the network's input, cuts them to the picture, and resizes these to its own size with TensorFlow. Seconds
are of one picture, the second update of a traced program. The last rows count one picture with 20,971,519 pixels of
one class and one of another. Rows go to benchmarks/results/own_size_metric.jsonl.
"""

import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from official.vision.evaluation import segmentation_metrics

from asvit_tf.tasks.segmentation import ClassIoU

RESULTS = Path(__file__).parents[1] / "results" / "own_size_metric.jsonl"
# Of the picture, of the network, classes.
CASES = (((360, 480), (384, 512), 11), ((1024, 2048), (512, 1024), 19), ((61, 90), (128, 128), 5))
LARGE = (10240, 2048)


def metrics(classes, network, at_own_size):
    """Each metric and what it has counted."""
    theirs = segmentation_metrics.PerClassIoU(
        classes, rescale_predictions=at_own_size, name="per_class_iou", dtype=tf.float32
    )
    ours = ClassIoU(classes, network, at_own_size)
    yield "Model Garden", theirs, lambda: theirs.total_cm.numpy()
    yield "asvit", ours, lambda: ours.counts.numpy()


def labels_of(truth, network, part):
    info = [truth.shape, network, (part[0] / truth.shape[0], part[1] / truth.shape[1]), (0, 0)]
    masks = tf.constant(truth[None, ..., None], tf.float32)
    return dict(masks=masks, valid_masks=tf.ones_like(masks, tf.bool), image_info=tf.constant([info], tf.float32))


def compare(own, network, classes):
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(1, network[0] // 32, network[1] // 32, classes)).astype(np.float32)
    logits = tf.image.resize(coarse, (network[0] // 4, network[1] // 4), method="bicubic")
    scale = min(network[0] / own[0], network[1] / own[1])
    part = (round(own[0] * scale), round(own[1] * scale))
    truth = rng.integers(0, classes, own)
    inside = tf.image.resize(logits[0], network)[: part[0], : part[1]]
    answered = tf.image.resize(inside, own).numpy().argmax(-1)
    expected = np.bincount((truth * classes + answered).ravel(), minlength=classes**2).reshape(classes, classes)
    labels = labels_of(truth, network, part)
    for name, metric, counted in metrics(classes, network, True):

        @tf.function
        def update(labels, logits, metric=metric):
            metric.update_state(labels, logits)

        update(labels, logits)
        moved = int(np.abs(counted() - expected).sum()) // 2
        start = time.perf_counter()
        update(labels, logits)
        seconds = time.perf_counter() - start
        yield dict(picture=own, network=network, classes=classes, metric=name, moved_pixels=moved, seconds=seconds)


def count_many():
    truth = np.zeros(LARGE, int)
    truth[0, 0] = 1
    logits = np.zeros((1, *LARGE, 2), np.float32)
    logits[..., 0] = 1
    for name, metric, counted in metrics(2, LARGE, False):
        metric.update_state(labels_of(truth, LARGE, LARGE), tf.constant(logits))
        yield dict(picture=LARGE, metric=name, pixels_of_class_0=truth.size - 1, counted=int(counted()[0, 0]))


def main():
    rows = [row for case in CASES for row in compare(*case)]
    rows += count_many()
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
