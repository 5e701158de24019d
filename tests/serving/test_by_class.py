"""Classes one by one, against scikit-learn and numbers by hand."""

import numpy as np
import pytest
from sklearn import metrics

from asvit_tf.serving import by_class


@pytest.fixture(scope="module")
def guesses():
    """Labels and predictions of 7 classes; class 5 has no image, class 6 is never named."""
    generator = np.random.default_rng(4)
    labels = generator.choice([0, 1, 2, 3, 4, 6], 400)
    predicted = np.where(generator.random(400) < 0.6, labels, generator.integers(0, 6, 400))
    predicted[predicted == 6] = 0
    return labels, predicted


def test_counts_and_shares_are_those_of_scikit_learn(guesses):
    labels, predicted = guesses
    counts = by_class.confusion(labels, predicted, 7)
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(labels, predicted, labels=range(7)))
    precision, recall, _, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(7), zero_division=np.nan
    )
    rows = by_class.results(counts)
    assert [row.images for row in rows] == support.tolist()
    for row in rows:
        assert row.recall == (None if np.isnan(recall[row.label]) else pytest.approx(recall[row.label]))
        assert row.precision == (None if np.isnan(precision[row.label]) else pytest.approx(precision[row.label]))
    assert (rows[5].recall, rows[5].interval, rows[6].precision) == (None, None, None)


def test_by_hand():
    """Wilson's interval of 8 of 10 is (0.490, 0.943): Wilson 1927, as tables of it print it."""
    counts = np.array([[8, 2, 0], [0, 0, 0], [1, 1, 4]])
    first, second, third = by_class.results(counts)
    assert first.interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert (first.recall, first.precision, first.taken_for) == (0.8, 8 / 9, 1)
    assert (second.recall, second.precision, second.taken_for) == (None, 0.0, None)
    assert (third.recall, third.precision, third.taken_for) == (4 / 6, 1.0, 0)
    assert by_class.most_confused(counts) == [
        by_class.ConfusedPair(0, 1, 2, 0.2),
        by_class.ConfusedPair(2, 0, 1, 1 / 6),
        by_class.ConfusedPair(2, 1, 1, 1 / 6),
    ]
    assert by_class.most_confused(counts, most=1) == [by_class.ConfusedPair(0, 1, 2, 0.2)]
    # One image of two comes before one of ten.
    assert [pair.truth for pair in by_class.most_confused(np.array([[9, 1], [1, 1]]))] == [1, 0]
    assert by_class.most_confused(np.diag([3, 4])) == []


def test_the_surest_mistakes_come_first():
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.05, 0.95], [0.8, 0.2], [0.3, 0.7]])
    labels = np.array([1, 0, 1, 0, 0])
    assert by_class.most_confident_mistakes(labels, probabilities, 10).tolist() == [0, 1, 4]
    assert by_class.most_confident_mistakes(labels, probabilities, 2).tolist() == [0, 1]
    assert by_class.most_confident_mistakes(probabilities.argmax(1), probabilities, 2).tolist() == []
