"""Parts of the pages of detectors and segmenters: precision and recall, truth beside found, the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from search.report import costs, pages
from search.report.figures import COLOURS, WIDTH, tidy
from search.report.held_out_figures import short

_MOST_CURVES = 8
_COLOURS = ("#1f6f8b", "#d1603d", "#3b7d4f", "#8a5a9e", "#b08a2e", "#4a4a8a", "#a03a5a", "#5a7a7a")


def precision_figure(precision: np.ndarray, names: Sequence[str], average: Sequence[float]) -> Figure:
    """Precision over recall at IoU 0.5, a line for each class; of many classes, for the eight with most objects.

    Args:
      precision: [101, K], for recalls of 0, 0.01, ... 1; the classes in the order in which they are drawn.
      names: [K].
      average: [K], AP50 of the classes.
    """
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axis = figure.subplots()
    recall = np.linspace(0, 1, len(precision))
    for column in range(min(len(names), _MOST_CURVES)):
        label = f"{short(names[column])}: {average[column]:.2f}"
        axis.plot(recall, precision[:, column], color=_COLOURS[column], label=label)
    axis.set_xlabel("recall")
    axis.set_ylabel("precision")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.legend(frameon=False, fontsize=8, loc="lower left", title="AP50", title_fontsize=8)
    tidy(axis)
    return figure


def training_figure(blocks: Sequence[Mapping], evaluations: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """The training loss by block of steps; below, what the evaluations found.

    Args:
      blocks: As `step_log.read_blocks` returns them.
      evaluations: Steps and values, by the name of a measure.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    loss, quality = figure.subplots(2, 1, sharex=True)
    steps = [block["step"] for block in blocks]
    values = [block.get("training_loss") for block in blocks]
    loss.plot(steps, [math.nan if value is None else value for value in values], color=COLOURS["quiet"])
    loss.set_ylabel("training loss")
    for colour, (name, found) in zip(("first", "second", "third"), evaluations.items()):
        quality.plot(*zip(*found), "o-", color=COLOURS[colour], markersize=3.5, label=name)
    quality.set_ylabel("on held-out images")
    quality.set_xlabel("step")
    if evaluations:
        quality.legend(frameon=False, fontsize=8, loc="lower right")
    for axis in (loss, quality):
        tidy(axis)
    return figure


def beside_figure(pairs: Sequence[tuple[Image.Image, Image.Image]], titles: Sequence[str]) -> Figure:
    """Pairs of pictures, truth on the left and found on the right, two pairs in a row.

    Args:
      pairs: The pictures.
      titles: One above each pair.
    """
    rows = math.ceil(len(pairs) / 2)
    tallest = max(picture.height / picture.width for pair in pairs for picture in pair)
    figure = Figure(figsize=(WIDTH, rows * (WIDTH / 4 * tallest + 0.25)), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for place, (pair, title) in enumerate(zip(pairs, titles)):
        for side, (picture, which) in enumerate(zip(pair, ("truth", "found"))):
            axis = axes[place // 2, 2 * (place % 2) + side]
            axis.imshow(picture)
            axis.set_title(f"{which}, {title}" if title else which, fontsize=6.5, color=COLOURS["text"])
    return figure


def of_the_run(
    result: Mapping[str, Any],
    choices: Sequence[str],
    blocks: Sequence[Mapping],
    evaluations: Mapping[str, Sequence[tuple[int, float]]],
) -> dict[str, list[str]]:
    """The last sections of a page, by heading: what was chosen, the training, its time, what was not done.

    Args:
      result: Of the run.
      choices: Lines about what was chosen by the data.
      blocks, evaluations: As `training_figure` takes them.
    """
    not_done = [
        "The backbone's topology was not searched for these images: it is the default, the given one, or that of the "
        "network it started from.",
        f"One training, seed {result['seed']}: another seed gives other numbers.",
        "The weights are those of the last step, which no held-out image chose.",
        *([] if result["init_checkpoint"] else ["The backbone began with random weights: no classifier came before."]),
    ]
    caption = f"Training loss of every epoch; {' and '.join(evaluations)} of the evaluations."
    return {
        "Chosen by the data": [pages.items(choices)],
        "Training": [pages.embedded(training_figure(blocks, evaluations), caption)],
        "Time": costs.seconds_parts(result["seconds"]),
        "What was not done": [pages.items(not_done)],
    }
