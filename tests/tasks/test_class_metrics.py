"""Metrics against guessing: on one device and two, and as a task builds them."""

import math

import numpy as np
import pytest
import tensorflow as tf
from helpers import two_devices
from official.core import task_factory
from official.vision.configs import common
from sklearn import metrics as expected_metrics

from asvit_tf.tasks import class_metrics, classification
from asvit_tf.tasks.class_metrics import REPORTED, GuessingLoss

CLASSES, BATCH = 4, 6
STRATEGIES = {"one device": lambda: tf.distribute.OneDeviceStrategy("CPU:0"), "two devices": two_devices}


def task(**overrides):
    config = classification.ClassificationTask()
    config.override({"model": {"num_classes": CLASSES}, "evaluation": {"top_k": 2}, **overrides})
    return task_factory.get_task(config)


@pytest.fixture(scope="module")
def answers():
    """True classes, [50], and logits, [50, 4]; class 3 has no images."""
    generator = np.random.default_rng(0)
    labels = generator.choice(3, p=[0.6, 0.3, 0.1], size=50).astype(np.int32)
    logits = generator.normal(size=(50, CLASSES)) + 2 * np.eye(CLASSES)[labels]
    return labels, logits.astype(np.float32)


def fed(strategy, build, labels, logits):
    """The metrics, with all images in batches over the devices; the last batch leaves one device without any."""
    with strategy.scope():
        metrics = build()
    dataset = tf.data.Dataset.from_tensor_slices((labels, logits)).batch(BATCH)
    traced = []

    @tf.function
    def step(batch):
        traced.append(1)
        strategy.run(lambda batch: [metric.update_state(*batch) for metric in metrics], args=(batch,))

    for batch in strategy.experimental_distribute_dataset(dataset):
        step(batch)
    return metrics, traced


def results(metrics):
    return {metric.name: float(metric.result()) for metric in metrics}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
@pytest.mark.parametrize("form", ["numbers", "one-hot", "soft"])
def test_an_evaluation_reports_the_numbers_of_scikit_learn(answers, strategy, form):
    labels, logits = answers
    given = {
        "numbers": labels,
        "one-hot": np.eye(CLASSES, dtype=np.float32)[labels],
        "soft": np.eye(CLASSES, dtype=np.float32)[labels] * 0.9 + 0.025,
    }[form]
    metrics, _ = fed(strategy(), lambda: class_metrics.build(task().task_config, training=False), given, logits)
    named = logits.argmax(1)
    np.testing.assert_array_equal(
        metrics[0].confusion, expected_metrics.confusion_matrix(labels, named, labels=range(CLASSES))
    )
    assert tuple(results(metrics)) == REPORTED
    assert results(metrics) == pytest.approx(
        {
            "balanced_accuracy": expected_metrics.balanced_accuracy_score(labels, named),
            "majority_share": np.bincount(labels).max() / 50,
            "learned": 1.0,
            "too_few_examples": 0.0,
        }
    )
    for metric in metrics:
        metric.reset_states()
    assert not np.any(metrics[0].confusion)


def smoothed(counts, label_smoothing):
    return (1 - label_smoothing) * counts / counts.sum() + label_smoothing / CLASSES


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_the_loss_of_guessing_on_the_labels_since_the_reset(answers, strategy):
    """The guess is the shares of all labels, and five images of each class."""
    labels, logits = answers
    counts = np.bincount(labels, minlength=CLASSES)
    build = lambda: [GuessingLoss(CLASSES, label_smoothing=0.2, loss_weight=2.0)]  # noqa: E731
    metrics, traced = fed(strategy(), build, labels, logits)
    expected = -2 * smoothed(counts, 0.2) @ np.log(smoothed(counts + 5, 0.2))
    assert results(metrics) == {"guessing_loss": pytest.approx(expected)}
    assert len(traced) <= 2  # Once for the last batch, which is smaller.


def test_after_a_reset_the_guess_still_knows_all_labels(answers):
    labels, _ = answers
    counts, own = np.bincount(labels, minlength=CLASSES), np.array([0, 2, 0, 1])
    metric = GuessingLoss(CLASSES, label_smoothing=0.2)
    metric.update_state(tf.constant(labels), None)
    metric.reset_state()
    metric.update_state(tf.constant([1, 1, 3]), None)
    expected = -smoothed(own, 0.2) @ np.log(smoothed(counts + own + 5, 0.2))
    assert float(metric.result()) == pytest.approx(expected)


def test_before_the_first_batch_there_is_no_loss_of_guessing():
    assert math.isnan(GuessingLoss(CLASSES).result())


LOSSES = {
    "sparse": dict(losses={"one_hot": False}),
    "one-hot, smoothed": dict(losses={"one_hot": True, "label_smoothing": 0.1, "loss_weight": 0.5}),
    "soft": dict(losses={"one_hot": False, "soft_labels": True, "label_smoothing": 0.1}),
}


@pytest.mark.parametrize("overrides", LOSSES.values(), ids=LOSSES.keys())
def test_the_loss_of_guessing_is_that_of_a_constant_prediction(answers, overrides):
    """By the task's own loss, as a training with that setting hands its labels over."""
    labels, _ = answers
    built = task(**overrides)
    hard = np.eye(CLASSES, dtype=np.float32)[labels]
    given = {"sparse": labels, "one-hot, smoothed": hard, "soft": hard * 0.6 + 0.1}[
        next(name for name, other in LOSSES.items() if other is overrides)
    ]
    metrics = {metric.name: metric for metric in built.build_metrics(training=True)}
    smoothing = 0.1 if built.task_config.losses.one_hot else 0.0
    counts = np.sum(hard if given is labels else given, axis=0) + 5
    constant = np.log(smoothed(counts, smoothing)).astype(np.float32)
    logits = tf.repeat(constant[None], len(labels), 0)
    given = tf.constant(given)
    built.process_metrics(list(metrics.values()), given, logits)
    loss = built.build_losses(given, logits)
    assert float(metrics["guessing_loss"].result()) == pytest.approx(float(loss), rel=1e-5)


def names(built, training):
    return {metric.name for metric in built.build_metrics(training)}


def test_which_tasks_have_which_metrics():
    mixup = {"mixup_and_cutmix": common.MixupAndCutmix().as_dict()}
    for overrides in (*LOSSES.values(), dict(train_data=mixup, losses={"one_hot": False, "soft_labels": True})):
        assert names(task(**overrides), True) == {"accuracy", "top_2_accuracy", "guessing_loss"}
        assert names(task(**overrides), False) == {"accuracy", "top_2_accuracy", *REPORTED}
    binary = task(losses={"use_binary_cross_entropy": True})
    assert names(binary, True) == {"accuracy", "top_2_accuracy"}
    assert names(binary, False) == {"accuracy", "top_2_accuracy", *REPORTED}
    several = task(train_data={"is_multilabel": True})
    assert not names(several, True)
    assert not names(several, False) & set(REPORTED)
