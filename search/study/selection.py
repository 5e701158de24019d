"""Is there a better measure than length distortion, parameters and MACs? One half chooses, the other half judges.

The candidates are fixed here, before any accuracy is known: every measure alone; the rank sum of two measures of the
same variant, and that of a search; and ridge regressions of accuracy on the logarithms of all measures (but those that
others published, of which some are negative), without and with the sizes. Which way is better is learned on the
choosing half, for the baselines too. No TensorFlow.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from asvit_tf.choices import INITIALIZATIONS, NORMALIZATIONS, SIZE_MEASURES
from search.scoring import predictor
from search.scoring.names import RANK_SUM, SEARCHED_VARIANTS, SIZES, column_names, measure_names, name_of
from search.study import regression
from search.study.statistics import ROUNDING, percentiles, relative_range, resampled_taus, resamples, tau_b

AGAINST = (SEARCHED_VARIANTS[0], "parameters", "macs", "product_of_kernel_sizes", RANK_SUM, SIZES)
MIN_PER_HALF = 8  # Topologies in each half.
_PAIRED = (
    *("length_distortion", "curvature", "turning_number"),
    *("ntk_condition_number", "ntk_trace", "ntk_effective_rank"),
)
RIDGES: dict[str, tuple[str, ...]] = {
    "ridge": (),
    "ridge with sizes": SIZE_MEASURES,
}  # And what they have beside measures.
_OTHER_SPLITS = 100

Columns = Mapping[str, np.ndarray]
Halves = tuple[np.ndarray, np.ndarray]


def rank_sum(columns: Columns, names: tuple[str, ...], signs: tuple[int, ...]) -> np.ndarray:
    """Sum of dense ranks from 0, the best first; a topology without one of the measures has none.

    Args:
      columns: [n] each.
      names: Names of the measures.
      signs: +1 if larger is better, -1 if smaller is.
    """
    known = np.all([np.isfinite(columns[name]) for name in names], axis=0)
    ranks = [scipy.stats.rankdata(-sign * columns[name][known], method="dense") - 1 for name, sign in zip(names, signs)]
    total = np.full(len(known), np.nan)
    total[known] = np.sum(ranks, axis=0)
    return total


def held_out(columns: Columns, accuracy: np.ndarray, seed: int, draws: int) -> dict[str, Any] | None:
    """Chooses on one half of the topologies and judges on the other.

    Args:
      columns: Measures and baselines of all topologies, [n] each, NaN where undefined.
      accuracy: [n], NaN where training failed.
      seed: Seed of the split and the bootstrap.
      draws: Samples of the bootstrap.

    Returns:
      `chosen`, `candidates` (how many), `choosing` and `judging` (topologies in each half), `tau_choosing` and
      `tau_judging` of the chosen; `kinds`: the best of each kind of candidate with its tau in both halves; `against`:
      for each baseline its tau on the judging half, the difference of the chosen to it, and the difference's 95 %
      interval from a paired bootstrap over the judging half; `other_splits`: over other random splits, the mean `tau`
      of the chosen on the judging half, and the same differences, their mean and the share above 0. None where there
      are too few topologies, the accuracies of a half are all the same, or no measure is defined for most topologies of
      both halves.
    """
    trained = np.flatnonzero(np.isfinite(accuracy))
    if len(trained) < 2 * MIN_PER_HALF:
        return None
    columns = {name: column[trained] for name, column in columns.items()}
    accuracy = accuracy[trained]
    halves = _halves(len(accuracy), seed, 0)
    if not _differ(accuracy, halves):
        return None
    first = _Split(columns, accuracy, halves)
    best = first.best
    if best is None:
        return None
    weights = resamples(len(first.judging), draws, seed)
    against = {}
    for name, rival in first.against.items():
        one, other, true = (part[first.judging] for part in (best.scores, rival, accuracy))
        both = np.isfinite(one) & np.isfinite(other)
        if min(np.ptp(part[both]) if both.any() else 0 for part in (one, other)) == 0:
            continue
        chosen, baseline = (np.where(both, part, np.nan) for part in (one, other))
        difference = resampled_taus(chosen, true, weights) - resampled_taus(baseline, true, weights)
        against[name] = dict(
            tau=tau_b(other[both], true[both]),
            tau_chosen=tau_b(one[both], true[both]),
            difference=tau_b(one[both], true[both]) - tau_b(other[both], true[both]),
            interval=percentiles(difference),
            ranked=int(both.sum()),
        )
    return dict(
        chosen=best.name,
        tau_choosing=best.tau,
        tau_judging=first.tau_of(best.scores),
        candidates=len(first.candidates),
        choosing=len(first.choosing),
        judging=len(first.judging),
        kinds={
            kind: dict(name=found.name, tau_choosing=found.tau, tau_judging=first.tau_of(found.scores))
            for kind, found in first.kinds().items()
        },
        against=against,
        other_splits=_other_splits(columns, accuracy, seed),
    )


def _halves(count: int, seed: int, number: int) -> Halves:
    """Indices of the choosing and of the judging half, each rising, of the split of that number."""
    order = np.random.default_rng([seed, number]).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def _differ(accuracy: np.ndarray, halves: Halves) -> bool:
    return all(np.ptp(accuracy[half]) > 0 for half in halves)


class _Candidate:
    """A way to order topologies, oriented by the choosing half.

    Attributes:
      name, kind: Its name and kind.
      scores: [n], larger is better.
      tau: On the choosing half; for a fitted one by leaving out each topology in turn, which is below 0 where it says
        nothing.
    """

    def __init__(self, name: str, kind: str, scores: np.ndarray, tau: float):
        self.name, self.kind, self.scores, self.tau = name, kind, scores, tau


class _Split:
    """One split: all candidates, and the best, if there are any. Accuracies are finite, and differ in both halves."""

    def __init__(self, columns: Columns, accuracy: np.ndarray, halves: Halves):
        self.choosing, self.judging = halves
        self._accuracy = accuracy
        usable = {name: column for name, column in columns.items() if self._usable(column)}
        signs = {name: self._sign(column) for name, column in usable.items()}
        self.candidates: list[_Candidate] = []
        for name in column_names():
            if name in usable and not name.startswith(
                "length_distortion_with_curvature"
            ):  # The turning number's order.
                self._add(name, "measure", signs[name] * usable[name])
        for names in _pairs():
            if all(name in usable for name in names):
                ranks = rank_sum(usable, names, tuple(signs[name] for name in names))
                self._add(" + ".join(names), "rank sum", -ranks)
        for kind, extra in RIDGES.items():
            fitted = self._fitted(usable, [*measure_names(), *extra])
            if fitted is not None and fitted[0].measures():
                self.candidates.append(_Candidate(kind, kind, *fitted[1:]))
        self.best = max(self.candidates, key=lambda candidate: candidate.tau, default=None)
        self.against = {name: signs[name] * usable[name] for name in AGAINST if name in usable}
        # What measuring adds to counting: the same regression without any measure.
        counted = self._fitted(usable, SIZE_MEASURES)
        if counted is not None:
            self.against[SIZES] = counted[1]

    def kinds(self) -> dict[str, _Candidate]:
        """The best candidate of each kind."""
        kinds = dict.fromkeys(candidate.kind for candidate in self.candidates)
        return {kind: max((c for c in self.candidates if c.kind == kind), key=lambda c: c.tau) for kind in kinds}

    def tau_of(self, scores: np.ndarray, half: np.ndarray | None = None) -> float:
        """On the judging half, or another one, over the topologies with a score."""
        half = self.judging if half is None else half
        known = half[np.isfinite(scores[half])]
        return tau_b(scores[known], self._accuracy[known])

    def _fitted(self, columns: Columns, names: Sequence[str]) -> tuple[predictor.Line, np.ndarray, float] | None:
        """The line, predictions of a regression on what is usable of these, and tau of those of topologies left out."""
        fitted = regression.fit_usable(columns, names, self._accuracy, self.choosing)
        if fitted is None:
            return None
        line, left_out, inside = fitted
        return line, line(columns), tau_b(left_out, self._accuracy[inside])

    def _usable(self, column: np.ndarray) -> bool:
        """Whether a column says something about most topologies of both halves; accuracies are not looked at."""
        for half in (self.choosing, self.judging):
            known = column[half][np.isfinite(column[half])]
            if len(known) < max(3, regression.MOST * len(half)) or (relative_range(known) or 0) <= ROUNDING:
                return False
        return True

    def _sign(self, column: np.ndarray) -> int:
        return 1 if self.tau_of(column, self.choosing) >= 0 else -1

    def _add(self, name: str, kind: str, scores: np.ndarray) -> None:
        if self._usable(scores):
            self.candidates.append(_Candidate(name, kind, scores, self.tau_of(scores, self.choosing)))


def _pairs() -> list[tuple[str, str]]:
    return [
        (name_of(one, scheme, norms), name_of(other, scheme, norms))
        for scheme in INITIALIZATIONS
        for norms in NORMALIZATIONS
        for one, other in itertools.combinations(_PAIRED, 2)
    ] + [SEARCHED_VARIANTS]


def _other_splits(columns: Columns, accuracy: np.ndarray, seed: int) -> dict[str, Any]:
    """Differences of the chosen to each baseline over many splits; these overlap, so there is no interval."""
    differences: dict[str, list[float]] = {}
    taus: list[float] = []
    chosen: dict[str, int] = {}
    for number in range(1, _OTHER_SPLITS + 1):
        halves = _halves(len(accuracy), seed, number)
        if not _differ(accuracy, halves):
            continue
        split = _Split(columns, accuracy, halves)
        if split.best is None:
            continue
        chosen[split.best.name] = chosen.get(split.best.name, 0) + 1
        taus.append(split.tau_of(split.best.scores))
        for name, scores in split.against.items():
            differences.setdefault(name, []).append(taus[-1] - split.tau_of(scores))
    return dict(
        splits=len(taus),
        tau=float(np.mean(taus)) if taus else None,
        chosen=dict(sorted(chosen.items(), key=lambda item: -item[1])[:5]),
        differences={
            name: dict(mean=float(np.mean(values)), above_zero=float(np.mean(np.array(values) > 0)))
            for name, values in differences.items()
        },
    )
