"""What is cropped of training images, measured: each picture says by its colours where its pixels are."""

import numpy as np
import pytest
import tensorflow as tf
from official.core import task_factory
from official.vision.ops import preprocess_ops

from asvit_tf import Topology
from asvit_tf.dataloaders.classification import Dataset
from asvit_tf.tasks import plans

SIDE = 64


def areas(path, jpeg_only, area_range):
    """Shares of the picture's area that crops of it have."""
    ramp = np.linspace(40, 215, SIDE)
    picture = np.stack([*np.meshgrid(ramp, ramp), np.full((SIDE, SIDE), 128)], axis=-1).astype(np.uint8)
    encoded = tf.io.encode_jpeg(picture, quality=100).numpy()
    bytes_of = lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))  # noqa: E731
    label = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
    features = tf.train.Features(feature={"image/encoded": bytes_of(encoded), "image/class/label": label})
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(64):
            writer.write(tf.train.Example(features=features).SerializeToString())
    plan = plans.Plan((SIDE, SIDE), seed=1, epochs=3, batch_size=64, recipe="photographs", flip=False)
    params = plans.classifier(
        plan, Dataset("data", ("a", "b"), 64, 64), Topology.parse("4,2,2,1|2,2,2,1|2,1,2,1|2,1,2,1|8,16")
    )
    params.task.train_data.override(dict(input_path=str(path), decode_jpeg_only=jpeg_only, crop_area_range=area_range))
    images, _ = next(iter(task_factory.get_task(params.task).build_inputs(params.task.train_data)))
    spans = []
    for image in images.numpy():
        # Red grows along a row, green along a column; in a resized crop more slowly, by as much as it is smaller.
        lines = image[..., 0].mean(axis=0), image[..., 1].mean(axis=1)
        slopes = [np.polyfit(np.arange(SIDE), line, 1)[0] for line in lines]
        spans.append(np.prod(np.array(slopes) * preprocess_ops.STDDEV_RGB[:2] / (ramp[1] - ramp[0])))
    return np.array(spans)


@pytest.mark.parametrize("jpeg_only", [False, True])
def test_crops_are_of_the_size_that_the_recipe_says(tmp_path, jpeg_only):
    shares = areas(tmp_path / "large.tfrecord", jpeg_only, [0.65, 1.0])
    assert 0.6 < shares.min() < 0.75  # As the Model Garden's task has it, they begin at 0.08.
    assert areas(tmp_path / "small.tfrecord", jpeg_only, [0.08, 0.3]).max() < 0.35
