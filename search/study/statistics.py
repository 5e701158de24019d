"""How well one column of numbers orders another: Kendall's tau with intervals, regret, and the highest tau possible.

Resampling is over topologies and the same for every measure, so that differences are paired. No TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

MIN_RANKED = 3  # Topologies that a correlation needs.
ROUNDING = 1e-4  # Of the size of a mean over float32 networks; measures that say something differ by percents.
_PERCENTILES = (2.5, 97.5)
Interval = tuple[float, float]


def relative_range(column: np.ndarray) -> float | None:
    """Largest less smallest of the finite numbers, over their mean size; None without a size."""
    known = column[np.isfinite(column)]
    size = np.abs(known).mean() if len(known) else 0.0
    return float(np.ptp(known) / size) if size > 0 else None


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Rank correlation of a measure with the accuracy.

    Attributes:
      tau: Kendall's tau-b; None where there is none.
      spearman: Rank correlation likewise.
      interval: Bootstrap interval of tau, 95 %.
      reason: Why there is none.
      ranked: Topologies that it is over: those with both numbers.
    """

    tau: float | None
    spearman: float | None
    interval: Interval | None
    reason: str | None
    ranked: int


def correlation(values: np.ndarray, accuracy: np.ndarray, weights: np.ndarray) -> Correlation:
    """Kendall's tau-b and Spearman's rho over the topologies where both numbers are finite.

    Args:
      values, accuracy: [n]; NaN where undefined.
      weights: From `resamples`, for the interval.
    """
    both = np.isfinite(values) & np.isfinite(accuracy)
    ranked = int(both.sum())
    reason = None
    if ranked < MIN_RANKED:
        reason = f"{ranked} topologies have both numbers, {MIN_RANKED} are needed"
    elif np.ptp(values[both]) == 0:
        reason = "the measure is the same for all topologies"
    elif np.ptp(accuracy[both]) == 0:
        reason = "the accuracy is the same for all topologies"
    if reason is not None:
        return Correlation(None, None, None, reason, ranked)
    return Correlation(
        float(scipy.stats.kendalltau(values[both], accuracy[both], variant="b").statistic),
        float(scipy.stats.spearmanr(values[both], accuracy[both]).statistic),
        percentiles(resampled_taus(values, accuracy, weights)),
        None,
        ranked,
    )


def resamples(count: int, draws: int, seed: int) -> np.ndarray:
    """How often each of `count` topologies is in each of `draws` bootstrap samples: [draws, count]."""
    chosen = np.random.default_rng([seed, count]).integers(count, size=(draws, count))
    return np.stack([np.bincount(row, minlength=count) for row in chosen]).astype(np.float64)


def resampled_taus(values: np.ndarray, accuracy: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each bootstrap sample.

    With s_ij and r_ij the signs of the differences of both columns and w_i how often topology i was drawn,
    tau-b = sum w_i w_j s_ij r_ij / sqrt(sum w_i w_j s_ij^2  sum w_i w_j r_ij^2): a topology and its copy are a tie in
    both columns. Pairs with an undefined number count nowhere.

    Args:
      values, accuracy: [n].
      weights: [draws, n]; a row of ones gives tau-b itself.

    Returns:
      [draws]; NaN for a sample in which a column is constant.
    """
    both = np.isfinite(values) & np.isfinite(accuracy)
    weights = weights[:, both]

    def signs(column: np.ndarray) -> np.ndarray:
        return np.sign(column[both][:, None] - column[both][None, :])

    def total(pairs: np.ndarray) -> np.ndarray:
        return np.einsum("di,di->d", weights @ pairs, weights)

    one, other = signs(np.asarray(values, np.float64)), signs(np.asarray(accuracy, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return total(one * other) / np.sqrt(total(one**2) * total(other**2))


def tau_b(values: np.ndarray, accuracy: np.ndarray) -> float:
    """Kendall's tau-b of columns without undefined numbers; NaN if one is constant."""
    return float(resampled_taus(values, accuracy, np.ones((1, len(values))))[0])


def percentiles(draws: np.ndarray) -> Interval | None:
    """The 95 % percentile interval of the draws that are numbers; None if there are none."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return None
    low, high = np.percentile(finite, _PERCENTILES)
    return float(low), float(high)


def regret(values: np.ndarray, accuracy: np.ndarray, direction: int, top: int = 5) -> float | None:
    """Best accuracy of all minus the best among the `top` topologies by the measure; the mean over ways to break ties.

    Args:
      values, accuracy: [n]; NaN where undefined. A topology without a measure is not among the top, but may be the
        best.
      direction: +1 if larger is better, -1 if smaller is.

    Returns:
      >= 0, in accuracy; None if fewer than `top` topologies have both numbers.
    """
    both = np.isfinite(values) & np.isfinite(accuracy)
    if both.sum() < top:
        return None
    score, reached = direction * values[both], accuracy[both]
    cut = np.sort(score)[-top]
    sure, tied = reached[score > cut], np.sort(reached[score == cut])
    places = top - len(sure)
    floor = sure.max() if len(sure) else -math.inf
    # Of `places` drawn from the tied, the best is the k-th smallest in comb(k, places - 1) of comb(len, places) ways.
    ways = math.comb(len(tied), places)
    expected = sum(math.comb(k, places - 1) / ways * max(floor, best) for k, best in enumerate(tied))
    return float(np.nanmax(accuracy) - expected)


def highest_tau(reliability: float) -> float:
    """The tau that a perfect measure reaches: 2 / pi asin(sqrt(reliability)).

    Accuracy is its own mean over seeds plus noise of the seed. A measure that orders topologies as those means do
    correlates with one noisy accuracy by sqrt(reliability); for two normal variables of correlation r, tau is
    2 / pi asin(r) (Greiner's relation).

    Args:
      reliability: Variance over topologies of the means, over the variance of one seed's accuracies; 0 to 1.
    """
    return 2 / math.pi * math.asin(math.sqrt(reliability))


@dataclasses.dataclass(frozen=True)
class Noise:
    """What is topology, and what is chance, in the accuracies; deviations in accuracy, from 0 to 1.

    Attributes:
      over_topologies: Deviation of the accuracies with one seed.
      over_seeds: Deviation over seeds of the same topology: the root of the mean variance.
      repeated, seeds: Topologies trained with several seeds, and seeds of each.
      reliability: Share of the variance over topologies that is not the seeds'; None without repeats.
      highest_tau: See there.
      interval: Bootstrap interval of it.
    """

    over_topologies: float
    over_seeds: float | None
    repeated: int
    seeds: int
    reliability: float | None
    highest_tau: float | None
    interval: Interval | None


def noise(accuracy: np.ndarray, repeats: Sequence[Sequence[float]], draws: int, seed: int) -> Noise:
    """Splits the variance of accuracies.

    Args:
      accuracy: [n], one seed; NaN where a training failed; two numbers at least.
      repeats: Accuracies of the same topology with several seeds, for some topologies; two or more each.
      draws, seed: Samples and seed of the bootstrap, over all topologies and over the repeated ones.
    """
    known = accuracy[np.isfinite(accuracy)]
    deviation = float(np.std(known, ddof=1))
    if not repeats or deviation == 0:
        return Noise(deviation, None, len(repeats), max(map(len, repeats), default=1), None, None, None)
    within = np.array([np.var(row, ddof=1) for row in repeats])

    def reliability(total: float, chance: float) -> float:
        return float(np.clip(1 - chance / total, 0, 1)) if total > 0 else math.nan

    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        total = float(np.var(generator.choice(known, len(known)), ddof=1))
        drawn.append(reliability(total, generator.choice(within, len(within)).mean()))
    share = reliability(deviation**2, within.mean())
    return Noise(
        deviation,
        float(np.sqrt(within.mean())),
        len(repeats),
        max(map(len, repeats)),
        share,
        highest_tau(share),
        percentiles(np.array([math.nan if math.isnan(draw) else highest_tau(draw) for draw in drawn])),
    )
