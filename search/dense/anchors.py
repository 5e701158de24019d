"""Anchors that fit the boxes of a data set: levels, sizes, aspect ratios, as the Model Garden's detectors take them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy.cluster import vq

_CLUSTERS = 6
_LEAST_RATIO_SPREAD = 1.15  # Below it one aspect ratio does for all boxes.
_RATIO_DIGITS = 3  # That count: poles have ratios of a hundredth.
_SIZES = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
_SCALES = (1, 2, 3)
_LOSS = 0.01  # Of the mean IoU, that fewer anchors may cost.
MOST_BOXES = 20_000  # Looked at; a sample of them where there are more.


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Anchors of a feature pyramid, `len(aspect_ratios) * num_scales` at each place of each level.

    Attributes:
      min_level, max_level: Levels; a place of level l is 2^l pixels wide.
      num_scales: Sizes on a level, the octave divided evenly.
      anchor_size: Side of the smallest square anchor, in places.
      aspect_ratios: Width over height.
      mean_iou: Over the boxes, of the best anchor at the same centre.
      recall: Share of the boxes whose best IoU at the same centre is at least 0.5.
    """

    min_level: int
    max_level: int
    num_scales: int
    anchor_size: float
    aspect_ratios: tuple[float, ...]
    mean_iou: float = float("nan")
    recall: float = float("nan")

    @property
    def sides(self) -> np.ndarray:
        """[A, 2], height and width of every anchor, in pixels of the input."""
        levels = range(self.min_level, self.max_level + 1)
        sizes = [
            self.anchor_size * 2 ** (level + scale / self.num_scales)
            for level, scale in itertools.product(levels, range(self.num_scales))
        ]
        return np.array([(size / ratio**0.5, size * ratio**0.5) for size in sizes for ratio in self.aspect_ratios])

    @property
    def per_place(self) -> int:
        """Anchors at each place."""
        return self.num_scales * len(self.aspect_ratios)


def best_iou(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Intersection over union of every box with the best anchor, both at the same centre.

    Args:
      boxes: [M, 2], height and width.
      anchors: [A, 2], likewise.

    Returns:
      [M].
    """
    shared = np.minimum(boxes[:, None], anchors).prod(axis=-1)
    return (shared / (boxes.prod(axis=-1)[:, None] + anchors.prod(axis=-1) - shared)).max(axis=1)


def clusters(boxes: np.ndarray, seed: int) -> np.ndarray:
    """Centres of boxes by k-means on the logarithms of their sides, from the smallest to the largest area.

    Args:
      boxes: [M, 2], height and width, above 0.
      seed: Of the first centres.

    Returns:
      [at most 6, 3]: height, width, share of the boxes.
    """
    logarithms = np.log(boxes)
    number = min(_CLUSTERS, len(np.unique(logarithms, axis=0)))
    centres, labels = vq.kmeans2(logarithms, number, minit="++", seed=seed)
    shares = np.bincount(labels, minlength=number) / len(boxes)
    found = np.concatenate([np.exp(centres), shares[:, None]], axis=1)[shares > 0]
    return found[np.argsort(found[:, 0] * found[:, 1])]


def ratios(centres: np.ndarray) -> tuple[float, ...]:
    """Aspect ratios for clusters of boxes: their mean, and one deviation to both sides where they differ."""
    logarithms, shares = np.log(centres[:, 1] / centres[:, 0]), centres[:, 2]
    mean = float(np.average(logarithms, weights=shares))
    deviation = float(np.average((logarithms - mean) ** 2, weights=shares) ** 0.5)
    spread = np.exp(deviation)
    steps = (0.0,) if spread < _LEAST_RATIO_SPREAD else (-deviation, 0.0, deviation)
    return tuple(float(f"{np.exp(mean + step):.{_RATIO_DIGITS}g}") for step in steps)


def fit(boxes: np.ndarray, levels: Sequence[tuple[int, int]], seed: int, scales: Sequence[int] = _SCALES) -> Anchors:
    """The anchors that meet the boxes best, and of those that are nearly as good the fewest.

    Args:
      boxes: [M, 2], height and width in pixels of the input, above 0, M >= 1.
      levels: Allowed pairs of first and last level.
      seed: Of k-means, and of the sample where there are many boxes.
      scales: Allowed numbers of scales; a Mask R-CNN's proposals need one.
    """
    if len(boxes) > MOST_BOXES:
        boxes = np.random.default_rng(seed).choice(boxes, MOST_BOXES, replace=False)
    shapes = ratios(clusters(boxes, seed))
    found = []
    for (first, last), number, size in itertools.product(levels, scales, _SIZES):
        for aspects in dict.fromkeys(((shapes[len(shapes) // 2],), shapes)):
            anchors = Anchors(first, last, number, size, aspects)
            overlaps = best_iou(boxes, anchors.sides)
            recall = float((overlaps >= 0.5).mean())
            found.append(dataclasses.replace(anchors, mean_iou=float(overlaps.mean()), recall=recall))
    best = max(each.mean_iou for each in found)
    # A place of a level has four times as many anchors as one of the next.
    cost = {
        each: sum(4.0**-level for level in range(each.min_level, each.max_level + 1)) * each.per_place for each in found
    }
    good = [each for each in found if each.mean_iou >= best - _LOSS]
    return min(good, key=lambda each: (cost[each], -each.mean_iou))
