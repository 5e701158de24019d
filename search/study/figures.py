"""A study as scatter plots: accuracy against each measure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from asvit_tf.choices import SIZE_MEASURES
from search.report.figures import tidy
from search.scoring.names import RANK_SUM, in_words, measure_names, name_of

_PUBLISHED = ("curvature", "length_distortion", "length_distortion_with_curvature")
_DRAWN = (*_PUBLISHED, "ntk_condition_number")
_OTHERS = (*SIZE_MEASURES, RANK_SUM)
_ACROSS = 4  # Plots in a row.


def published(
    columns: Mapping[str, np.ndarray], accuracy: np.ndarray, measures: Mapping[str, Mapping[str, Any]]
) -> Figure:
    """The three measures with a published correlation, as released, and parameters.

    Args:
      columns: Every measure and baseline, [n] each, NaN where undefined.
      accuracy: [n].
      measures: Measures of the result, with tau.
    """
    released = [name_of(measure, "released", "identity") for measure in _PUBLISHED]
    return _scatter([*released, "parameters"], columns, accuracy, measures)


def all_measures(
    columns: Mapping[str, np.ndarray], accuracy: np.ndarray, measures: Mapping[str, Mapping[str, Any]]
) -> Figure:
    """The measures of a search in all variants, and the baselines; arguments as `published`."""
    return _scatter([*measure_names(_DRAWN), *_OTHERS], columns, accuracy, measures)


def _scatter(
    names: Sequence[str],
    columns: Mapping[str, np.ndarray],
    accuracy: np.ndarray,
    measures: Mapping[str, Mapping[str, Any]],
) -> Figure:
    """Accuracy against each measure, with tau and its interval above."""
    down = math.ceil(len(names) / _ACROSS)
    figure = Figure(figsize=(3.3 * _ACROSS, 2.9 * down), layout="constrained")
    axes = figure.subplots(down, _ACROSS, sharey=True, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names):
        tidy(axis)
        axis.scatter(columns[name], 100 * accuracy, s=12, color="#1f6f8b", alpha=0.7)
        known = columns[name][np.isfinite(columns[name])]
        if len(known) and known.min() > 0 and known.max() > 5 * known.min():
            axis.set_xscale("log")
        axis.set_title(tau_in_words(measures[name]), fontsize=9)
        label, _, variant = in_words(name).partition(", ")
        axis.set_xlabel(f"{label}\n{variant}".strip(), fontsize=8)
        axis.tick_params(which="both", labelsize=7)
        axis.xaxis.get_offset_text().set_fontsize(6)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy (%)", fontsize=8)
    return figure


def tau_in_words(measure: Mapping[str, Any]) -> str:
    """Tau with its interval, or why there is none."""
    if measure["tau"] is None:
        return f"no τ: {measure['reason']}"
    if measure["interval"] is None:
        return f"τ = {measure['tau']:+.2f}"
    low, high = measure["interval"]
    return f"τ = {measure['tau']:+.2f} [{low:+.2f}, {high:+.2f}]"
