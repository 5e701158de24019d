"""Ridge regression of accuracy on logarithms of measures: how a study learns its predictor. No TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import RidgeCV

from search.scoring.predictor import Columns, Line
from search.study.statistics import ROUNDING

MOST = 0.8  # The share of topologies that a measure must be defined for.
_PENALTIES = (1.0, 10.0, 100.0, 1000.0)


def usable(columns: Columns, names: Sequence[str], among: np.ndarray) -> tuple[str, ...]:
    """The names whose columns have a logarithm for most of the given topologies, and differ among these.

    What differs by the rounding of float32 networks only is as good as constant.
    """

    def good(column: np.ndarray) -> bool:
        known = column[among][_positive(column[among])]
        return len(known) >= max(2, MOST * len(among)) and np.ptp(np.log(known)) > ROUNDING

    return tuple(name for name in names if name in columns and good(columns[name]))


def _positive(column: np.ndarray) -> np.ndarray:
    return np.isfinite(column) & (column > 0)


def fit(columns: Columns, names: tuple[str, ...], accuracy: np.ndarray) -> tuple[Line, np.ndarray]:
    """Ridge regression of accuracy on logarithms, each scaled to unit deviation; leaving one out chooses the penalty.

    Args:
      columns: [n] each, positive, none constant.
      names: Names of the measures to use, at least one.
      accuracy: [n].

    Returns:
      The line; and a prediction of each from the others, less the mean accuracy. That mean is of all topologies: were
      it left out with a topology too, predictions would fall where accuracies rise, for no other reason.
    """
    logarithms = np.log(np.stack([columns[name] for name in names], axis=1))
    centres, scales = logarithms.mean(axis=0), logarithms.std(axis=0)
    features, mean = (logarithms - centres) / scales, accuracy.mean()
    # With a scoring of its own, scikit-learn keeps the predictions that leaving one out gives, not squared errors.
    ridge = RidgeCV(_PENALTIES, fit_intercept=False, scoring="neg_mean_squared_error", store_cv_results=True)
    ridge.fit(features, accuracy - mean)
    left_out = ridge.cv_results_[:, _PENALTIES.index(ridge.alpha_)]
    slopes = ridge.coef_ / scales
    return Line(names, tuple(map(float, slopes)), float(mean - centres @ slopes)), left_out


def fit_usable(
    columns: Columns, names: Sequence[str], accuracy: np.ndarray, among: np.ndarray
) -> tuple[Line, np.ndarray, np.ndarray] | None:
    """`fit` of the usable ones of these names, on those of the given topologies that have them all.

    Args:
      columns: [n] each.
      names: Candidates.
      accuracy: [n].
      among: Indices of topologies.

    Returns:
      The line, the predictions of each from the others, and the indices of the topologies it was fitted on; None if no
      name is usable, or too few topologies have all that are.
    """
    chosen = usable(columns, names, among)
    if not chosen:
        return None
    inside = among[np.all([_positive(columns[name][among]) for name in chosen], axis=0)]
    if len(inside) < MOST * len(among):
        return None
    return *fit({name: columns[name][inside] for name in chosen}, chosen, accuracy[inside]), inside
