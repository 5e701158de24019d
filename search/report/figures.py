"""Figures of a run: drawn without pyplot, so that nothing global of matplotlib is touched."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from asvit_tf.choices import PREDICTED
from asvit_tf.design.retokenization import Schedule
from asvit_tf.design.topology import Topology
from search.report import fonts
from search.scoring.names import in_words

WIDTH = 6.4  # Inches; a page shows them at 125 pixels each, as wide as its text.
_DOTS_PER_INCH = 190  # Sharp on screens with two pixels for each of a page's.
COLOURS = dict(first="#1f6f8b", second="#d1603d", third="#3b7d4f", quiet="#9a9a9a", text="#222222")


def tidy(axis: Axes) -> None:
    """The common look of all drawings."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _figure(rows: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)
    for axis in axes[:, 0]:
        tidy(axis)
    return figure, list(axes[:, 0])


def _column(trace: Sequence[Mapping], *path: str) -> list[float]:
    """One number of every row, NaN where it is missing, so that a line breaks there."""
    column = []
    for row in trace:
        value: Any = row
        for name in path:
            value = value[name]
        column.append(float("nan") if value is None else value)
    return column


_LABELS = {
    "length_distortion": "length\ndistortion",
    "curvature": "curvature",
    "length_distortion_with_curvature": "length with\ncurvature",
    "ntk_condition_number": "NTK condition\nnumber",
    PREDICTED: "predicted\naccuracy",
}


def draw_measure(axis: Axes, trace: Sequence[Mapping], name: str) -> None:
    """One measure of the sampled topologies over the steps."""
    colour = COLOURS["first" if name == "length_distortion" else "second"]
    axis.plot(_column(trace, "step"), _column(trace, "scores", name), ".-", color=colour)
    axis.set_ylabel(_LABELS.get(name) or in_words(name))
    if name == "ntk_condition_number":
        axis.set_yscale("log")


def search_figure(trace: Sequence[Mapping]) -> Figure:
    """Every measure over the steps; of REINFORCE also the reward with its baseline, and the policy's entropy."""
    names = list(trace[0]["scores"])
    learned = "reward" in trace[0]
    figure, axes = _figure(len(names) + 2 * learned, 1.7)
    for axis, name in zip(axes, names):
        draw_measure(axis, trace, name)
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    if learned:
        _draw_policy(axes[-2], axes[-1], trace)
    return figure


def _draw_policy(reward: Axes, entropy: Axes, trace: Sequence[Mapping]) -> None:
    steps = _column(trace, "step")
    for name, colour in (("reward", COLOURS["quiet"]), ("baseline", COLOURS["third"])):
        reward.plot(steps, _column(trace, name), color=colour, label=name)
    reward.set_ylabel("reward")
    reward.legend(frameon=False, loc="lower right")
    entropy.plot(steps, _column(trace, "entropy"), color=COLOURS["first"])
    entropy.set_ylabel("entropy (nats)")


# Total depth and total width (over stages) of the networks that the published figure compares with: for ResNet the
# bottleneck blocks and their output channels. Source: their papers.
_OTHERS = {
    "ViT": ("s", [("S", 12, 384), ("B", 12, 768), ("L", 24, 1024)]),
    "Swin": ("^", [("T", 12, 1440), ("S", 24, 1440), ("B", 24, 1920), ("L", 24, 2880)]),
    "ResNet": ("D", [("50", 16, 3840), ("101", 33, 3840), ("152", 50, 3840)]),
}


def draw_growth(axis: Axes, family: Sequence[Mapping], others: bool = False) -> None:
    """Total depth against the sum of the stages' widths, every member labelled with its parameters."""
    topologies = [Topology.parse(member["topology"]) for member in family]
    widths = [sum(topology.widths) for topology in topologies]
    depths = [sum(topology.depths) for topology in topologies]
    axis.plot(widths, depths, "o-", color=COLOURS["first"], label="As-ViT, grown")
    labelled = 0.0
    for x, y, member in zip(widths, depths, family):
        millions = member["parameters"] / 1e6
        crowded = millions < 2 * labelled or 1.5 * millions > family[-1]["parameters"] / 1e6
        if others and crowded and member is not family[-1]:
            continue  # Neighbours would write over each other.
        labelled = millions
        axis.annotate(f" {millions:.2f} M", (x, y), va="top", fontsize=8)
    if others:
        for name, (marker, sizes) in _OTHERS.items():
            axis.plot(
                [size[2] for size in sizes],
                [size[1] for size in sizes],
                marker,
                color=COLOURS["quiet"],
                markersize=5,
                label=name,
            )
            for size, depth, width in sizes:
                axis.annotate(f" {size}", (width, depth), fontsize=8, color=COLOURS["quiet"])
        axis.legend(frameon=False)
    axis.set_xlabel("total width (sum over stages)")
    axis.set_ylabel("total depth (blocks)")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.margins(0.15)


def growth_figure(family: Sequence[Mapping], others: bool = False) -> Figure:
    """The family as a path, with other networks for comparison if asked, and its parameters over the steps."""
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    path, parameters = figure.subplots(2, 1, height_ratios=(2, 1))
    draw_growth(path, family, others)
    parameters.plot([member["parameters"] / 1e6 for member in family], "o-", color=COLOURS["third"])
    parameters.set_xlabel("growth step")
    parameters.xaxis.set_major_locator(MaxNLocator(integer=True))
    parameters.set_ylabel("parameters (M)")
    for axis in (path, parameters):
        tidy(axis)
    return figure


def png(figure: Figure) -> bytes:
    """A drawing as PNG."""
    buffer = io.BytesIO()
    with fonts.complete(figure):
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()


def save(path: Path, figure: Figure) -> str:
    """Writes a drawing as PNG; returns the path."""
    path.write_bytes(png(figure))
    return str(path)


def draw_accuracy(
    axis: Axes, blocks: Sequence[Mapping], evaluations: Sequence[tuple[int, float]], schedule: Schedule
) -> None:
    """Accuracy in training and on held-out images over the steps."""
    axis.plot(
        _column(blocks, "step"), _column(blocks, "accuracy"), color=COLOURS["quiet"], label="training, phase's tokens"
    )
    if evaluations:
        axis.plot(*zip(*evaluations), "o-", color=COLOURS["second"], label="held out, all tokens")
    axis.set_ylabel("accuracy")
    axis.set_xlabel("step")
    axis.legend(frameon=False, loc="lower right")
    mark_phases(axis, schedule)


def mark_phases(axis: Axes, schedule: Schedule) -> None:
    """Dotted lines where the tokenization changes, and what it is above each phase."""
    for start, phase in zip((0, *schedule.boundaries), schedule.phases):
        if start:
            axis.axvline(start, color="black", linewidth=0.8, linestyle=":")
        label = f" stride {phase.tokenization.stride}\n dilation {phase.tokenization.dilation}"
        axis.annotate(label, (start, 1.02), xycoords=("data", "axes fraction"), fontsize=8)


def training_figure(blocks: Sequence[Mapping], evaluations: Sequence[tuple[int, float]], schedule: Schedule) -> Figure:
    """Training loss and accuracies, with the phases marked."""
    figure, (loss, accuracy) = _figure(2, 2.4)
    loss.plot(_column(blocks, "step"), _column(blocks, "training_loss"), color=COLOURS["first"])
    loss.set_ylabel("training loss")
    mark_phases(loss, schedule)
    draw_accuracy(accuracy, blocks, evaluations, schedule)
    return figure
