"""A tiny training on the digits over three phases, and what its tests look at."""

import numpy as np
import tensorflow as tf
from helpers import digits_experiment
from official.core import task_factory
from official.vision.dataloaders import classification_input
from tensorboard.backend.event_processing import event_accumulator

STEPS, BLOCK = 12, 2
PHASES = ((4, 16, 5), (8, 8, 2), (None, 4, 1))
# Sections of a task, for tests that need no more: every phase is traced.
ONE_PHASE = {"retokenization": {"phases": [dict(stride=4)]}}
TWO_PHASES = {"retokenization": {"phases": [dict(until_step=8, stride=8), dict(stride=4)]}}


def experiment(digits, **overrides):
    phases = [dict(until_step=end, stride=stride, dilation=dilation) for end, stride, dilation in PHASES]
    task = {"retokenization": {"phases": phases}}
    trainer = {"max_to_keep": STEPS, "validation_steps": 1, "validation_interval": 6}
    return digits_experiment(digits, STEPS, BLOCK, {"task": task, "trainer": trainer}, overrides)


def accuracy_of(digits, path):
    """Share of the first 180 held-out digits that a checkpoint classifies rightly at all tokens."""
    params = experiment(digits)
    model = task_factory.get_task(params.task).build_model()
    tf.train.Checkpoint(model=model).read(path).assert_existing_objects_matched().expect_partial()
    parser = classification_input.Parser(
        [32, 32], 10, decode_jpeg_only=False, aug_crop=params.task.validation_data.aug_crop
    ).parse_fn(is_training=False)
    features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    features["image/class/label"] = tf.io.FixedLenFeature([], tf.int64)
    records = tf.data.TFRecordDataset(digits.validation_path).take(180)
    rows = [parser(tf.io.parse_single_example(record, features)) for record in records]
    logits = model(tf.stack([image for image, _ in rows]), training=False).numpy()
    return np.mean(logits.argmax(1) == [int(label) for _, label in rows])


def scalars(directory, tag):
    """Values of a TensorBoard scalar by step."""
    events = event_accumulator.EventAccumulator(str(directory))
    events.Reload()
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}
