"""Figures of what a classifier says to held-out images: confusions, calibration, its surest mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

from asvit_tf.tasks.calibration import Reliability
from search.report import fonts
from search.report.figures import COLOURS, WIDTH, tidy

MOST_COUNTED = 20  # Classes up to which every cell of a confusion holds its number,
_MOST_NAMED = 50  # and up to which its rows and columns have names.
_MAP = LinearSegmentedColormap.from_list("shares", ["white", "#7fb3c4", COLOURS["first"], "#0c3442"])
_LONGEST_NAME = 18  # Characters.
_COLUMNS = 4  # Pictures side by side.


def short(name: str, longest: int = _LONGEST_NAME) -> str:
    """A name, cut where it is long; dollars are no formulas here."""
    cut = name if len(name) <= longest else name[: longest - 1] + "\u2026"
    return fonts.legible(cut).replace("$", r"\$")


def confusion_figure(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    """A confusion as a map: in each row the shares of one true class, from white, 0, to dark, 1.

    Colours follow the root of the share, so that a few mistakes among many images are seen. Up to 20 classes every cell
    holds its number of images, up to 50 rows and columns are named; beyond, they are numbered by label.

    Args:
      counts: [K, K], a row for each true class.
      class_names: By label.
    """
    classes = len(class_names)
    side = min(WIDTH - 0.7, 1.7 + 0.42 * classes)
    figure = Figure(figsize=(min(WIDTH, side + 1.3), side), layout="constrained")
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(shares, cmap=_MAP, norm=PowerNorm(0.5, 0, 1))
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    _name_sides(axis, class_names)
    if classes <= MOST_COUNTED:
        size = 9 if classes <= 10 else 6
        for truth, predicted in np.argwhere(counts):
            colour = "white" if shares[truth, predicted] > 0.3 else "black"
            number = f"{counts[truth, predicted]}"
            axis.text(predicted, truth, number, ha="center", va="center", fontsize=size, color=colour)
        axis.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="#e4e4e4", linewidth=0.6)
        axis.tick_params(which="minor", length=0)
    bar = figure.colorbar(image, ax=axis, shrink=0.7, ticks=[0, 0.05, 0.2, 0.5, 1])
    bar.set_label("share of the true class", fontsize=8)
    bar.ax.set_yticklabels(["0 %", "5 %", "20 %", "50 %", "100 %"], fontsize=8)
    bar.outline.set_visible(False)
    return figure


def _name_sides(axis: Axes, class_names: Sequence[str]) -> None:
    """Names where they can be read; else numbers of classes, ten apart."""
    classes = len(class_names)
    if classes > _MOST_NAMED:
        axis.set_xticks(range(0, classes, 10))
        axis.set_yticks(range(0, classes, 10))
        return
    names = [short(name) for name in class_names]
    size = 8 if classes <= MOST_COUNTED else 5.5
    upright = max(map(len, names)) <= 3 and classes <= MOST_COUNTED
    axis.set_xticks(range(classes), names, fontsize=size, rotation=0 if upright else 90)
    axis.set_yticks(range(classes), names, fontsize=size)


def reliability_figure(found: Reliability) -> Figure:
    """Accuracy by bin of confidence, with its distance to the mean confidence; below, the images in each bin.

    On the dashed line both are equal.
    """
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    axis, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    left, width = found.edges[:-1], np.diff(found.edges)
    filled = found.counts > 0
    tops, middles = found.accuracy[filled], found.confidence[filled]
    axis.bar(left[filled], tops, width[filled], align="edge", color="#a9cbd7", edgecolor="white", label="accuracy")
    axis.vlines(middles, tops, middles, color=COLOURS["second"], linewidth=1.2)
    axis.plot(middles, middles, "o", color=COLOURS["second"], markersize=3.5, label="mean confidence")
    axis.plot([0, 1], [0, 1], "--", color=COLOURS["quiet"], linewidth=1)
    axis.set_ylabel("accuracy")
    axis.set_ylim(0, 1.04)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    counts.bar(left, found.counts, width, align="edge", color=COLOURS["quiet"], edgecolor="white")
    counts.set_ylabel("images")
    counts.set_xlabel("confidence: probability of the predicted class")
    counts.set_xlim(0, 1)
    for each in (axis, counts):
        tidy(each)
    return figure


def mistakes_figure(
    pictures: np.ndarray,
    truths: Sequence[str],
    predictions: Sequence[str],
    confidences: Sequence[float],
    sources: Sequence[str],
) -> Figure:
    """Mistakes as pictures, four in a row, each with its true class, the predicted one, confidence and file.

    Args:
      pictures: [M, H, W, 3], uint8, M >= 1.
      truths, predictions: Names of classes, [M].
      confidences: Probabilities of the predicted classes, [M].
      sources: File names, [M]; "" for none.
    """
    rows = math.ceil(len(pictures) / _COLUMNS)
    figure = Figure(figsize=(WIDTH, 2.2 * rows), layout="constrained")
    axes = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    for axis, picture, truth, predicted, confidence, source in zip(
        axes, pictures, truths, predictions, confidences, sources
    ):
        axis.imshow(picture, interpolation="nearest")
        title = f"{confidence:.0%} sure: {short(predicted, 15)}\ntrue: {short(truth, 20)}"
        axis.set_title(title, fontsize=7.5, color=COLOURS["text"])
        if source:
            shown = fonts.legible(source if len(source) <= 26 else "\u2026" + source[-25:])
            axis.text(
                *(0.5, -0.04, shown.replace("$", r"\$")),
                transform=axis.transAxes,
                ha="center",
                va="top",
                fontsize=6.5,
                color="#6a6a6a",
            )
    return figure
