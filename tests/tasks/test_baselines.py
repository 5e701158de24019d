"""Guessing, and what counts as better: closed forms, and labels that know nothing of the predictions."""

import dataclasses
import math

import numpy as np
import pytest
from sklearn import metrics

from asvit_tf.errors import NotLearnedError
from asvit_tf.tasks import baselines


def confusion_of(recalls, images):
    """Counts, where every class has this recall and its other images are spread over the other classes."""
    confusion = np.zeros((len(images), len(images)))
    for true, (recall, count) in enumerate(zip(recalls, images)):
        hits = round(recall * count)
        confusion[true, true] = hits
        for lost in range(count - hits):
            confusion[true, (true + 1 + lost % (len(images) - 1)) % len(images)] += 1
    return confusion


@pytest.mark.parametrize(
    ("shares", "smoothing", "expected"),
    [
        ([0.1] * 10, 0.0, math.log(10)),
        ([0.1] * 10, 0.3, math.log(10)),
        ([1.0, 0.0], 0.0, 0.0),
        ([0.9, 0.1, 0.0], 0.0, -0.9 * math.log(0.9) - 0.1 * math.log(0.1)),
        ([1.0, 0.0], 0.2, -0.9 * math.log(0.9) - 0.1 * math.log(0.1)),
        ([0.25, 0.75], 1.0, math.log(2)),
    ],
)
def test_the_loss_of_guessing(shares, smoothing, expected):
    assert baselines.guessing_loss(shares, smoothing) == pytest.approx(expected)


def test_no_constant_prediction_has_a_smaller_loss():
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(5))
    others = [-shares @ np.log(other) for other in generator.dirichlet(100 * shares, size=1000)]
    assert baselines.guessing_loss(shares) < min(others) < baselines.guessing_loss(shares) + 0.01


def test_numbers_of_a_verdict_are_those_of_scikit_learn():
    """Also where a class has no images, or is never named."""
    generator = np.random.default_rng(1)
    truth = generator.choice([0, 1, 3, 4], p=[0.6, 0.2, 0.1, 0.1], size=300)
    named = np.where(generator.random(300) < 0.6, truth, generator.choice([0, 1, 2, 3], size=300))
    verdict = baselines.judge(metrics.confusion_matrix(truth, named, labels=range(5)))
    with np.errstate(all="ignore"):
        assert verdict.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth, named))
    assert verdict.accuracy == pytest.approx(metrics.accuracy_score(truth, named))
    assert verdict.majority_share == pytest.approx(np.bincount(truth).max() / 300)
    assert (verdict.chance, verdict.examples, verdict.learned) == (0.25, 300, True)


@pytest.mark.parametrize("images", [[50, 50], [95, 5], [30, 0, 30], [1, 1, 1], [7], [7, 0]])
def test_naming_one_class_always_is_never_learned(images):
    for named in range(len(images)):
        confusion = np.zeros((len(images), len(images)))
        confusion[:, named] = images
        assert not baselines.judge(confusion).learned


def test_a_single_class_is_never_learned_and_the_reason_says_so():
    verdict = baselines.judge(np.diag([1000, 0]))
    assert (verdict.accuracy, verdict.chance, verdict.learned) == (1, 1, False)
    assert "all held-out images are of one class" in verdict.reason


def test_no_images_are_no_verdict():
    verdict = baselines.judge(np.zeros((3, 3)))
    assert (verdict.examples, verdict.learned) == (0, False)
    assert all(map(math.isnan, (verdict.accuracy, verdict.majority_share, verdict.balanced_accuracy, verdict.chance)))


@pytest.mark.parametrize(("hits", "learned"), [(33, False), (34, True)])
def test_three_standard_errors_and_one_image(hits, learned):
    """Two classes of fifty: chance 0.5, its standard error 0.05, one image 0.01."""
    assert baselines.judge([[hits, 50 - hits], [50 - hits, hits]]).learned is learned


@pytest.mark.parametrize(
    ("images", "too_few"), [([6, 6], True), ([7, 7], False), ([1, 1], True), ([1000], False), ([0, 1000], False)]
)
def test_too_few_images_are_no_failure(images, too_few):
    """Whatever the network says of them; where there is one class only, it is not the number that is to blame."""
    for confusion in (np.diag(images), np.roll(np.diag(images), 1, axis=1)):
        verdict = baselines.judge(confusion)
        metrics = dataclasses.asdict(verdict)
        assert verdict.too_few_examples is too_few
        assert baselines.is_failure(metrics) == (not too_few and not verdict.learned)
        assert ("are too few to show whether anything was learned" in verdict.reason) == too_few


def test_a_rare_class_that_is_recognized_counts():
    """95 and 5 % of 300 images: naming the large class always is as accurate as this network, all but."""
    verdict = baselines.judge(confusion_of((0.97, 0.9), (285, 15)))
    assert verdict.accuracy - verdict.majority_share < 3 * math.sqrt(0.95 * 0.05 / 300)
    assert verdict.learned
    assert "beats the majority class beyond chance: accuracy 0.967, majority class 0.950" in verdict.reason


SHARES = {
    "ten classes": ([36] * 10, [0.1] * 10),
    "fifty classes, an image each": ([1] * 50, [0.02] * 50),
    "five of a hundred": ([95, 5], [0.9, 0.1]),
    "one of a hundred": ([99, 1], [0.95, 0.05]),
    "three of unequal size": ([168, 66, 66], [0.6, 0.2, 0.2]),
    "a class without images": ([60, 40, 0], [0.4, 0.4, 0.2]),
    "four images": ([2, 2], [0.5, 0.5]),
}


@pytest.mark.parametrize(("hits", "images"), [(355, 359), (0, 10), (10, 10), (1, 2)])
def test_the_interval_against_wilsons_formula(hits, images):
    z, share = 1.959963984540054, hits / images
    centre = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    assert baselines.interval(share, images) == pytest.approx((centre - half, centre + half), abs=1e-12)


@pytest.mark.parametrize(("images", "named"), SHARES.values(), ids=SHARES.keys())
def test_permuted_labels_are_hardly_ever_learned(images, named):
    generator = np.random.default_rng(2)
    truth, classes, draws = np.repeat(np.arange(len(images)), images), len(images), 2000
    predicted = generator.choice(classes, p=named, size=(draws, len(truth)))
    found = 0
    for labels, predictions in zip(generator.permuted(np.tile(truth, (draws, 1)), axis=1), predicted):
        counts = np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)
        found += baselines.judge(counts).learned
    assert found / draws < 0.01


def test_only_what_was_learned_passes():
    baselines.require_learned({"AP50": 0.0})
    metrics = dict(accuracy=0.6, majority_share=0.5, balanced_accuracy=0.6)
    baselines.require_learned({**metrics, "learned": 1.0})
    with pytest.raises(
        NotLearnedError, match=r"accuracy 0\.600, majority class 0\.500, balanced accuracy 0\.600; check"
    ):
        baselines.require_learned({**metrics, "learned": 0.0})


def merit_of(recalls, images, loss=1.0):
    verdict = baselines.judge(confusion_of(recalls, images))
    fields = {name: float(value) for name, value in dataclasses.asdict(verdict).items()}
    return baselines.merit({**fields, "validation_loss": loss})


@pytest.mark.parametrize(
    ("better", "worse", "images"),
    [
        ((0.9, 0.9), (0.8, 0.9), (100, 100)),
        # The accuracy of naming the majority class always is higher, 0.95 to 0.93.
        ((0.95, 0.6), (1.0, 0.0), (190, 10)),
        # Two lucky images of a rare class: the balanced accuracy is higher, 0.8 to 0.77.
        ((0.9, 0.9, 0.5), (0.7, 0.7, 1.0), (100, 100, 2)),
        # It learned, though the mean of both is lower, 0.655 to 0.725.
        ((0.6, 0.8), (1.0, 0.0), (1900, 100)),
    ],
)
def test_the_better_network_has_more_merit(better, worse, images):
    assert merit_of(better, images) > merit_of(worse, images)


def test_merit_is_the_accuracy_where_classes_are_even():
    images = (50, 50, 50)
    assert merit_of((0.8, 0.6, 1.0), images)[1] == pytest.approx((40 + 30 + 50) / 150)
    assert merit_of((0.8, 0.6, 1.0), images, 0.5) > merit_of((0.8, 0.6, 1.0), images, 0.6)


def test_there_is_no_merit_in_what_is_not_a_number():
    assert merit_of((0.8, 0.6), (10, 10), math.nan) is None
    assert merit_of((0.8, 0.6), (10, 10), math.inf) is None
    assert baselines.merit({"accuracy": math.nan, "validation_loss": 1.0}) is None
    assert baselines.merit({"accuracy": 0.5, "validation_loss": 1.0}) == (1.0, 0.5, -1.0)  # Several labels an image.
