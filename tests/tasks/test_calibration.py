"""The expected calibration error, against a slow form of its formula and by hand."""

import numpy as np
import pytest

from asvit_tf.tasks import calibration


def slow_error(labels, probabilities, bins):
    """Guo et al. 2017, section 2 and equation 3, one image and one bin at a time."""
    total, error = len(labels), 0.0
    for m in range(1, bins + 1):
        members = []
        for label, row in zip(labels, probabilities):
            confidence = max(row)
            if (m - 1) / bins < confidence <= m / bins:
                members.append((confidence, list(row).index(confidence) == label))
        if members:
            confidence = sum(member[0] for member in members) / len(members)
            accuracy = sum(member[1] for member in members) / len(members)
            error += len(members) / total * abs(accuracy - confidence)
    return error


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_error_is_that_of_the_slow_formula(classes, bins):
    generator = np.random.default_rng(classes)
    probabilities = generator.dirichlet(np.full(classes, 0.3), 500)
    labels = np.array([generator.choice(classes, p=row) for row in probabilities])
    found = calibration.reliability(labels, probabilities, bins)
    assert found.error == pytest.approx(slow_error(labels, probabilities, bins), abs=1e-12)
    assert found.counts.sum() == 500
    assert found.mean_confidence == pytest.approx(probabilities.max(1).mean())


def test_by_hand():
    """Four images of confidence 0.9, three right; one of 0.55, wrong: 4/5 * |0.75 - 0.9| + 1/5 * 0.55 = 0.23."""
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.45, 0.55]])
    found = calibration.reliability(np.array([0, 0, 0, 1, 0]), probabilities)
    assert found.error == pytest.approx(0.23)
    assert found.mean_confidence == pytest.approx(0.83)
    assert len(found.counts) == 15
    assert found.counts.nonzero()[0].tolist() == [8, 13]  # (8/15, 9/15] and (13/15, 14/15].
    assert found.accuracy[13] == 0.75
    assert np.isnan(found.accuracy[0])


def test_a_confidence_on_an_edge_is_in_the_bin_below_and_one_rounded_beyond_1_in_the_last():
    probabilities = np.array([[0.6, 0.4], [1.0000001, 0.0], [0.5, 0.5]])
    found = calibration.reliability(np.zeros(3, int), probabilities, bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1]


def test_without_images_nothing_is_known():
    found = calibration.reliability(np.zeros(0, int), np.zeros((0, 3)))
    assert np.isnan(found.error)
    assert np.isnan(found.mean_confidence)
