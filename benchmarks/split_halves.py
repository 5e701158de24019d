"""How well a regression orders networks that it was not fitted on: random halves, each by the other, again and again.

Tau is taken within a half, and the mean of it over halves. Where accuracies are noise, it is 0 on average. Of
predictions of each network from all others it would be far below 0 where columns say nothing: without a network whose
accuracy is high, a line predicts less there. For 60 networks whose accuracies do not correlate with the columns at all
that is -0.7; within halves it is -0.1. A study still chooses between regressions by leaving one out, so that published
tables stay what they are (search/study/selection.py); its judging half is judged by lines of the other half only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from search.study import regression
from search.study.statistics import resampled_taus

SEED, SPLITS = 0, 50


def halves(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Whom to fit on, and whom to judge: both halves of `SPLITS` random splits in turn, the same for every column."""
    for number in range(SPLITS):
        order = np.random.default_rng([SEED, number]).permutation(count)
        one, other = order[: count // 2], order[count // 2 :]
        yield from ((one, other), (other, one))


def predicted_by(names: Sequence[str], columns: Mapping[str, np.ndarray], accuracy: np.ndarray) -> list[np.ndarray]:
    """Predictions of each half of `halves` by a regression that was fitted on the other half, [n] each; NaN elsewhere.

    Args:
      names: Columns to use.
      columns: [n] each.
      accuracy: [n], NaN where there is none.
    """
    parts = []
    for fit, judged in halves(len(accuracy)):
        fitted = regression.fit_usable(columns, names, accuracy, fit[np.isfinite(accuracy[fit])])
        part = np.full(len(accuracy), np.nan)
        if fitted is not None:
            part[judged] = fitted[0](columns)[judged]
        parts.append(part)
    return parts


def paired(scores: np.ndarray, parts: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The scores [n] in every part, and the parts, both NaN where one of the two is."""
    both = [np.isfinite(scores) & np.isfinite(part) for part in parts]
    pairs = [(np.where(known, scores, np.nan), np.where(known, part, np.nan)) for known, part in zip(both, parts)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def taus_within(parts: Sequence[np.ndarray], accuracy: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over the parts of Kendall's tau-b within each, for each bootstrap sample; lines are not fitted again.

    Args:
      parts: Scores, [n] each; NaN for networks of other parts.
      accuracy: [n].
      weights: [draws, n], from `statistics.resamples`; a row of ones gives the mean tau itself.

    Returns:
      [draws]; NaN where no part has a tau.
    """
    taus = np.stack([resampled_taus(part, accuracy, weights) for part in parts])
    known = np.isfinite(taus)
    with np.errstate(invalid="ignore"):
        return np.where(known, taus, 0.0).sum(axis=0) / known.sum(axis=0)
