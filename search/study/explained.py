"""Which choices of the space explain the accuracy at all: its variance by kernel sizes, splits, expansions, heads.

No TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from asvit_tf.design.topology import Topology
from search.strategy.space import Space
from search.study.statistics import tau_b

KINDS = ("kernel_size", "splits", "expansion_ratio", "num_heads")
TOGETHER = "all"
_SURE = 0.95
_RANK = 1e-9  # Of singular values, that rounding alone stays below.


def explained(
    space: Space, topologies: Sequence[str], accuracy: np.ndarray, draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The share of the variance of accuracy that the choices of a kind explain, each option with an effect of its own.

    A linear model has an indicator of every option of every free choice of the kind; its share is adjusted for their
    number, 1 - (1 - R^2) (n - 1) / (n - p - 1), so that choices without any effect have 0 on average and may fall below
    it. Choices are drawn independently, so shares of the kinds add up to that of all but for chance; what is left is
    noise of the seed and what choices do only together.

    Args:
      space: That the topologies are of.
      topologies: n strings.
      accuracy: [n]; NaN where training failed.
      draws, seed: Of the shuffles.

    Returns:
      By kind, and for all together: `share`; `by_chance`, what it stays below in 95 % of shuffles of the accuracies;
      both None where there are too few topologies for so many options; `taus`: Kendall's tau of accuracy with each
      free choice. A kind without a free choice is left out.
    """
    known = np.flatnonzero(np.isfinite(accuracy))
    chosen = np.array([space.indices_of(Topology.parse(topologies[int(i)])) for i in known]).reshape(len(known), -1)
    columns = dict(zip(space.choices, chosen.T, strict=True))
    generator = np.random.default_rng([seed, len(known)])
    # [1 + draws, n]; the first row is not shuffled.
    shuffled = np.stack([accuracy[known], *(generator.permutation(accuracy[known]) for _ in range(draws))])
    found = {}
    for kind in (*KINDS, TOGETHER):
        names = [name for name in space.free if kind == TOGETHER or name.startswith(kind)]
        if not names:
            continue
        design = np.concatenate([_indicators(columns[name], len(space.choices[name])) for name in names], axis=1)
        share, *others = _shares(design, shuffled)
        found[kind] = dict(
            share=None if np.isnan(share) else float(share),
            by_chance=None if np.isnan(share) else float(np.quantile(others, _SURE)),
            taus={name: _tau(columns[name], accuracy[known]) for name in names},
        )
    return found


def _indicators(indices: np.ndarray, options: int) -> np.ndarray:
    """[n, options - 1]; the first option is the one without an indicator."""
    return (indices[:, None] == np.arange(1, options)).astype(np.float64)


def _shares(design: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
    """Adjusted R^2 of least squares with a constant, for each row of accuracies; NaN where there are no more topologies
    than effects, all have the same options, or an accuracy is the same for all.

    Args:
      design: [n, p].
      accuracies: [m, n].
    """
    count = len(design)
    directions, sizes, _ = np.linalg.svd(design - design.mean(axis=0), full_matrices=False)
    basis = directions[:, sizes > _RANK * count]  # An option that no topology has is no effect.
    effects = basis.shape[1]
    centred = accuracies - accuracies.mean(axis=1, keepdims=True)
    total = np.sum(centred**2, axis=1)
    if not effects or count <= effects + 1 or not total.all():
        return np.full(len(accuracies), np.nan)
    explained_part = np.sum((centred @ basis) ** 2, axis=1)
    return 1 - (1 - explained_part / total) * (count - 1) / (count - effects - 1)


def _tau(indices: np.ndarray, accuracy: np.ndarray) -> float | None:
    if len(accuracy) < 2 or np.ptp(indices) == 0 or np.ptp(accuracy) == 0:
        return None
    return tau_b(indices, accuracy)
