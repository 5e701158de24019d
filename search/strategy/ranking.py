"""Which of several networks is best by several measures: the sum of ranks. No TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asvit_tf.choices import DIRECTIONS


def dense_ranks(values: Sequence[float], direction: int) -> list[int]:
    """Ranks from 0, the best first; equal values share a rank, and the next value takes the next rank.

    Args:
      values: Finite.
      direction: +1 if larger is better, -1 if smaller is.
    """
    ranks = {value: rank for rank, value in enumerate(sorted(set(values), reverse=direction > 0))}
    return [ranks[value] for value in values]


def choose(measures: Sequence[Mapping[str, float]]) -> int:
    """Index of the candidate with the least sum of ranks, over all measures of the candidates.

    Of candidates that tie, the one that is better by the measure whose values spread more over all candidates, relative
    to their mean; then the first.
    """
    columns = {name: [row[name] for row in measures] for name in measures[0]}
    ranks = {name: dense_ranks(values, DIRECTIONS[name]) for name, values in columns.items()}
    spreads = {name: (max(values) - min(values)) / (abs(sum(values)) or 1.0) for name, values in columns.items()}
    decisive = max(spreads, key=spreads.__getitem__)
    return min(range(len(measures)), key=lambda i: (sum(rank[i] for rank in ranks.values()), ranks[decisive][i]))
