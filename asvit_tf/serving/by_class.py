"""What a classifier does class by class: who is taken for whom, and of what it is sure though it is wrong.

No TensorFlow. Confusions are counts [K, K] of K classes: a row for each true class, a column for each predicted one.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from asvit_tf.tasks import baselines


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """One class on held-out images.

    Attributes:
      label: Its number.
      images: Images of it.
      recognized: Those of them that are named so.
      named: Images of any class that are named so.
      interval: Wilson's 95 % interval of `recall`; None without images.
      taken_for: The class that its mistakes are named most often, the first of several; None without mistakes.
    """

    label: int
    images: int
    recognized: int
    named: int
    interval: tuple[float, float] | None
    taken_for: int | None

    @property
    def recall(self) -> float | None:
        """Share of its images that are recognized, the accuracy within the class; None without images."""
        return self.recognized / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """Share of the images named so that are of the class; None where no image is."""
        return self.recognized / self.named if self.named else None


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """Images of one class that are named another.

    Attributes:
      truth, predicted: Numbers of the classes.
      images: How many.
      share: Their share of all images of the true class.
    """

    truth: int
    predicted: int
    images: int
    share: float


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts [K, K], int64.

    Args:
      labels: True classes, [N], from 0 to K - 1.
      predicted: Predicted classes, [N], likewise.
      num_classes: K.
    """
    pairs = np.asarray(labels, np.int64) * num_classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def results(counts: np.ndarray) -> list[ClassResult]:
    """Every class, by label.

    Args:
      counts: A confusion, [K, K].
    """
    named = counts.sum(axis=0)
    found = []
    for label, row in enumerate(counts):
        images, recognized = int(row.sum()), int(row[label])
        mistakes = row.copy()
        mistakes[label] = 0
        found.append(
            ClassResult(
                label=label,
                images=images,
                recognized=recognized,
                named=int(named[label]),
                interval=baselines.interval(recognized / images, images) if images else None,
                taken_for=int(mistakes.argmax()) if mistakes.any() else None,
            )
        )
    return found


def most_confused(counts: np.ndarray, most: int = 15) -> list[ConfusedPair]:
    """The pairs of classes with the most mistakes: by number, then by share of the true class, then by label.

    Args:
      counts: A confusion, [K, K].
      most: Pairs that are returned at most.
    """
    images = counts.sum(axis=1)
    pairs = [
        ConfusedPair(int(truth), int(predicted), int(counts[truth, predicted]), float(counts[truth, predicted] / total))
        for truth, predicted in np.argwhere(counts)
        if truth != predicted and (total := images[truth])
    ]
    return sorted(pairs, key=lambda pair: (-pair.images, -pair.share, pair.truth, pair.predicted))[:most]


def most_confident_mistakes(labels: np.ndarray, probabilities: np.ndarray, most: int) -> np.ndarray:
    """Places of the mistakes that the network is surest of, the surest first; of equals, the earlier one first.

    Args:
      labels: True classes, [N].
      probabilities: [N, K].
      most: Places that are returned at most.

    Returns:
      [M], int64, M <= `most`.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:most]
