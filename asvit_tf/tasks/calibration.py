"""Whether a classifier is as often right as it is sure. No TensorFlow."""

from __future__ import annotations

import dataclasses

import numpy as np

BINS = 15


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Held-out images in bins of equal width by confidence, the probability of the predicted class.

    Bin m of M holds the confidences in ((m - 1) / M, m / M]; the first also holds 0.

    Attributes:
      edges: Of the bins, [M + 1], from 0 to 1.
      counts: Images in each bin, [M].
      confidence: Mean confidence in each bin, [M]; NaN where it is empty.
      accuracy: Share of them that are recognized, [M], likewise.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, from 0 to 1; NaN without images.

        ECE = sum over bins m of |B_m| / n * |accuracy(B_m) - confidence(B_m)|, with |B_m| of n images in bin m.
        Source: Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, equation 3.

        With few images in a bin its accuracy differs from its confidence by chance, so that even a network without any
        error has an ECE above 0.
        """
        total = self.counts.sum()
        if not total:
            return float("nan")
        filled = self.counts > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(np.sum(self.counts[filled] / total * gaps))

    @property
    def mean_confidence(self) -> float:
        """Over all images; NaN without any. Above the accuracy, the network is too sure; below, not sure enough."""
        filled, total = self.counts > 0, self.counts.sum()
        return float(np.sum(self.counts[filled] * self.confidence[filled]) / total) if total else float("nan")


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Reliability:
    """Sorts held-out images into bins by confidence.

    Args:
      labels: True classes, [N].
      probabilities: [N, K], from 0 to 1; rounding beyond 1 is taken for 1.
      bins: M, at least 1.
    """
    probabilities = np.asarray(probabilities, np.float64)
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == np.asarray(labels)
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):  # Empty bins are 0 / 0.
        return Reliability(
            edges=edges,
            counts=counts,
            confidence=np.bincount(places, confidence, bins) / counts,
            accuracy=np.bincount(places, is_right, bins) / counts,
        )
