"""IoU at the pictures' own size, counted in whole numbers: against a formula in NumPy, picture by picture."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import two_devices
from official.core import exp_factory, task_factory
from PIL import Image

from asvit_tf import (
    UserError,
    registry_imports,  # noqa: F401
)
from asvit_tf.dataloaders.labels import prepare
from asvit_tf.dataloaders.masks import IGNORED
from asvit_tf.tasks import checks, experiment_files, segmentation

NETWORK = (64, 64)
SIZES = ((90, 50), (30, 100), (41, 41))
CLASSES = 5  # Of which the last is never there.


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def truth_of(number):
    """Stripes of classes 0 to 2 and ignored pixels; class 3 only where it is answered."""
    rows, columns = SIZES[number]
    classes = np.add.outer(np.arange(rows) // 9, np.arange(columns) // 7) % 4
    return np.where(classes == 3, IGNORED, classes).astype(np.uint8)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """YAML of records whose pictures, those of both splits, are larger and smaller than the network's input."""
    root = tmp_path_factory.mktemp("pictures")
    for split in ("train", "val"):
        for number, size in enumerate(SIZES):
            image = np.random.default_rng(number).integers(0, 255, (*size, 3), np.uint8)
            save(root / f"images/{split}/{number}.png", image)
            save(root / f"masks/{split}/{number}.png", truth_of(number))
    (root / "classes.txt").write_text("a\nb\nc\nd\nnever\n")
    return prepare.prepare(root / "records", root / "images", root / "masks", root / "classes.txt").config_file


def experiment(config, **validation):
    params = exp_factory.get_exp_config("segmentation_asvit_coco")
    experiment_files.override(params, experiment_files.read(config), config)
    params.task.model.input_size = [*NETWORK, 3]
    params.task.train_data.output_size = params.task.validation_data.output_size = list(NETWORK)
    params.task.validation_data.override({"global_batch_size": 2, "dtype": "float32", **validation})
    return params


def check(params):
    checks.check(params)
    checks.check_data(params, "validation_data")


def answers(images):
    """Logits [B, 16, 16, CLASSES] as a network answers that knows nothing; the last class is never likeliest."""
    seed = int(np.abs(images.numpy()).sum()) % 1000
    logits = np.random.default_rng(seed).normal(size=(len(images), 16, 16, CLASSES)).astype(np.float32)
    logits[..., 0] += 0.5
    logits[..., -1] = -9
    return tf.constant(logits)


class Answering:
    """A network that answers the same whatever it sees."""

    losses = ()

    def __init__(self, logits):
        self._logits = logits

    def __call__(self, images, training):
        return {"logits": self._logits}


def confusion_by_hand(logits, truth):
    """[CLASSES, CLASSES]: logits to the network's input, cut to the picture, to its own size; each bilinearly."""
    rows, columns = truth.shape
    scale = min(NETWORK[0] / rows, NETWORK[1] / columns)
    inside = tf.image.resize(logits, NETWORK)[: round(rows * scale), : round(columns * scale)]
    answered = tf.image.resize(inside, truth.shape).numpy().argmax(-1)
    counts = np.zeros((CLASSES, CLASSES), int)
    for there, said in zip(truth.ravel(), answered.ravel()):
        if there != IGNORED:
            counts[there, said] += 1
    return counts


def test_the_evaluation_is_that_of_pictures_at_their_own_size(config):
    """A task reads three pictures in two batches, the truth padded to 90 x 100."""
    params = experiment(config)
    check(params)
    task = task_factory.get_task(params.task)
    task.build_metrics(training=False)
    expected, seen, state = np.zeros((CLASSES, CLASSES), int), [], None
    by_size = {size: truth_of(number) for number, size in enumerate(SIZES)}
    for images, labels in task.build_inputs(params.task.validation_data):
        assert labels["masks"].shape[1:] == (90, 100, 1)
        logits = answers(images)
        step = task.validation_step((images, labels), Answering(logits))
        state = task.aggregate_logs(state, {task.loss: step[task.loss]})
        for i, info in enumerate(labels["image_info"].numpy()):
            size = tuple(int(side) for side in info[0])
            seen.append(size)
            truth = labels["masks"][i, ..., 0].numpy()
            np.testing.assert_array_equal(truth[: size[0], : size[1]], by_size[size])
            assert (truth[size[0] :] == IGNORED).all()
            assert (truth[:, size[1] :] == IGNORED).all()
            expected += confusion_by_hand(logits[i], by_size[size])
    assert sorted(seen) == sorted(SIZES)
    found = task.iou_metric.counts.numpy()
    assert found.sum() == expected.sum() == sum((truth_of(i) != IGNORED).sum() for i in range(3))
    assert np.abs(found - expected).sum() <= 4  # Of equal logits rounding chooses.
    logs = task.reduce_aggregated_logs(state)
    union = expected.sum(0) + expected.sum(1) - np.diag(expected)
    ious = np.diag(expected)[:4] / union[:4]
    assert ious[3] == 0
    for i, value in enumerate(ious):
        assert logs[f"iou/{i}"] == pytest.approx(value, abs=1e-3)
    assert "iou/4" not in logs  # Neither there nor answered.
    assert logs["mean_iou"] == pytest.approx(ious.mean(), abs=1e-3)
    assert not task.iou_metric.counts.numpy().any()


def test_the_loss_is_that_of_the_truth_as_the_network_sees_it(config):
    """Mean cross-entropy of the pixels that are not ignored, the truth resized to the nearest."""
    params = experiment(config, global_batch_size=3)
    task = task_factory.get_task(params.task)
    task.build_metrics(training=False)
    ((images, labels),) = task.build_inputs(params.task.validation_data)
    logits = answers(images)
    found = task.validation_step((images, labels), Answering(logits))[task.loss]
    surprises, by_size = [], {size: truth_of(number) for number, size in enumerate(SIZES)}
    for info, its in zip(labels["image_info"].numpy(), tf.nn.log_softmax(tf.image.resize(logits, NETWORK)).numpy()):
        truth = by_size[tuple(int(side) for side in info[0])]
        scale = min(NETWORK[0] / truth.shape[0], NETWORK[1] / truth.shape[1])
        rows, columns = round(truth.shape[0] * scale), round(truth.shape[1] * scale)
        for i in range(rows):
            for j in range(columns):
                there = truth[int((i + 0.5) * truth.shape[0] / rows), int((j + 0.5) * truth.shape[1] / columns)]
                if there != IGNORED:
                    surprises.append(-its[i, j, there])
    assert float(found) == pytest.approx(np.mean(surprises), rel=1e-5)


def batch_of(truth, logits, own=None):
    """A batch of one picture whose truth has the size of the network's input."""
    masks = tf.constant(truth[None, ..., None], tf.float32)
    info = tf.constant([[own or truth.shape, NETWORK, (1, 1), (0, 0)]], tf.float32)
    labels = dict(masks=masks, valid_masks=masks != IGNORED, image_info=info)
    return labels, tf.constant(logits[None], tf.float32)


def test_pixels_are_counted_by_each_replica_of_a_tpu(monkeypatch):
    """Where Keras would have its weights summed at every update, which a TPU cannot do with 64 bits."""
    monkeypatch.setattr("tf_keras.src.backend.is_tpu_strategy", lambda strategy: True)
    with two_devices().scope():
        counts = segmentation.ClassIoU(CLASSES, NETWORK, at_own_size=False).counts
    assert counts.synchronization is tf.VariableSynchronization.ON_READ
    assert counts.aggregation is tf.VariableAggregation.SUM
    assert counts.dtype == tf.int64


def test_an_absent_class_says_nothing():
    truth = np.zeros(NETWORK, int)
    truth[:, 32:] = 2
    truth[:16] = IGNORED
    logits = np.zeros((*NETWORK, CLASSES))
    logits[:, :48, 0] = logits[:, 48:, 3] = 1
    metric = segmentation.ClassIoU(CLASSES, NETWORK, at_own_size=False)
    for _ in range(2):
        metric.update_state(*batch_of(truth, logits))
    # 48 rows count. Class 0: 32 columns right, 16 of class 2 taken for it. Class 2 is never answered, 3 never there.
    np.testing.assert_allclose(metric.result(), [32 / 48, np.nan, 0, 0, np.nan], rtol=1e-6)
    assert int(metric.counts[0, 0]) == 2 * 48 * 32


def test_more_pixels_than_float32_counts():
    """2^24 + 2^22 of one kind in one picture, one of another: float32 stays at 2^24."""
    truth = np.zeros((5 << 11, 1 << 11), np.uint8)
    truth[0, 0] = 1
    logits = np.zeros((*truth.shape, 2), np.float32)
    logits[..., 0] = 1
    metric = segmentation.ClassIoU(2, truth.shape, at_own_size=False)
    metric.update_state(*batch_of(truth, logits))
    assert metric.counts.numpy().tolist() == [[truth.size - 1, 0], [1, 0]]


def test_in_a_graph_with_xla_it_counts_the_same(config):
    """As on a TPU, which knows static shapes only."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (50, 70))
    logits = rng.normal(size=(16, 16, CLASSES))
    metrics = [segmentation.ClassIoU(CLASSES, NETWORK, at_own_size=True) for _ in range(2)]
    labels, answer = batch_of(truth, logits)
    labels["image_info"] = tf.constant([[[50, 70], NETWORK, (46 / 50, 64 / 70), (0, 0)]], tf.float32)
    metrics[0].update_state(labels, answer)

    @tf.function(jit_compile=True)
    def update(labels, answer):
        metrics[1].update_state(labels, answer)

    update(labels, answer)
    assert np.abs(metrics[0].counts.numpy() - metrics[1].counts.numpy()).sum() <= 4
    assert int(tf.reduce_sum(metrics[1].counts)) == 50 * 70


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ({"centered_crop": True}, "then centered_crop must be false and preserve_aspect_ratio true"),
        ({"preserve_aspect_ratio": False}, "then centered_crop must be false and preserve_aspect_ratio true"),
        (
            {"groundtruth_padded_size": [90, 99]},
            r"an image of 30 x 100; .* is \[90, 99\], and every image has to fit in",
        ),
        ({"groundtruth_padded_size": [89, 100]}, "an image of 90 x 50"),
    ],
)
def test_settings_that_contradict_the_own_size_are_refused(config, validation, message):
    params = experiment(config, **validation)
    with pytest.raises(UserError, match=message):
        check(params)
