"""Figures of a run, and one HTML page that holds them all."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker

from asvit_tf import counting
from asvit_tf.retokenization import Schedule, phase_macs, planned_saving
from asvit_tf.topology import Topology
from search.records import write_text

_COLOURS = dict(first="#1f6f8b", second="#d1603d", third="#3b7d4f", quiet="#9a9a9a")


def tidy(axis: plt.Axes) -> None:
    """The common look of all drawings."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _figure(rows: int, height: float) -> tuple[plt.Figure, Sequence[plt.Axes]]:
    figure, axes = plt.subplots(rows, 1, figsize=(7.2, height * rows), sharex=True, layout="constrained", squeeze=False)
    for axis in axes[:, 0]:
        tidy(axis)
    return figure, axes[:, 0]


def _column(trace: Sequence[Mapping], *path: str) -> list[float]:
    """One number of every row, NaN where it is missing, so that a line breaks there."""
    column = []
    for row in trace:
        value: Any = row
        for name in path:
            value = value[name]
        column.append(float("nan") if value is None else value)
    return column


def draw_measure(axis: plt.Axes, trace: Sequence[Mapping], name: str) -> None:
    """One measure of the sampled topologies over the steps."""
    colour = _COLOURS["first" if name == "length_distortion" else "second"]
    axis.plot(_column(trace, "step"), _column(trace, "scores", name), ".-", color=colour)
    axis.set_ylabel({"length_distortion": "length\ndistortion", "ntk_condition_number": "NTK condition\nnumber"}[name])
    if name == "ntk_condition_number":
        axis.set_yscale("log")


def search_figure(trace: Sequence[Mapping]) -> plt.Figure:
    """Length distortion, NTK condition number, reward with its baseline, and policy entropy over the steps."""
    figure, (length, ntk, reward, entropy) = _figure(4, 1.7)
    draw_measure(length, trace, "length_distortion")
    draw_measure(ntk, trace, "ntk_condition_number")
    steps = _column(trace, "step")
    for name, colour in (("reward", _COLOURS["quiet"]), ("baseline", _COLOURS["third"])):
        reward.plot(steps, _column(trace, name), color=colour, label=name)
    reward.set_ylabel("reward")
    reward.legend(frameon=False, loc="lower right")
    entropy.plot(steps, _column(trace, "entropy"), color=_COLOURS["first"])
    entropy.set_ylabel("entropy (nats)")
    entropy.set_xlabel("step")
    return figure


def draw_growth(axis: plt.Axes, family: Sequence[Mapping]) -> None:
    """Total depth against the sum of the stages' widths, every member labelled with its parameters."""
    topologies = [Topology.parse(member["topology"]) for member in family]
    widths = [sum(topology.widths) for topology in topologies]
    depths = [sum(topology.depths) for topology in topologies]
    axis.plot(widths, depths, "o-", color=_COLOURS["first"])
    for x, y, member in zip(widths, depths, family):
        axis.annotate(f" {member['parameters'] / 1e6:.2f} M", (x, y), va="top", fontsize=9)
    axis.set_xlabel("total width (sum over stages)")
    axis.set_ylabel("total depth (blocks)")
    axis.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.margins(0.15)


def growth_figure(family: Sequence[Mapping]) -> plt.Figure:
    """The family as a path."""
    figure, (axis,) = _figure(1, 3.4)
    draw_growth(axis, family)
    return figure


def draw_accuracy(
    axis: plt.Axes, blocks: Sequence[Mapping], evaluations: Sequence[tuple[int, float]], schedule: Schedule
) -> None:
    """Accuracy in training and on held-out images over the steps."""
    axis.plot(
        _column(blocks, "step"), _column(blocks, "accuracy"), color=_COLOURS["quiet"], label="training, phase's tokens"
    )
    if evaluations:
        axis.plot(*zip(*evaluations), "o-", color=_COLOURS["second"], label="held out, all tokens")
    axis.set_ylabel("accuracy")
    axis.set_xlabel("step")
    axis.legend(frameon=False, loc="lower right")
    mark_phases(axis, schedule)


def mark_phases(axis: plt.Axes, schedule: Schedule) -> None:
    """Dotted lines where the tokenization changes, and what it is above each phase."""
    for start, phase in zip((0, *schedule.boundaries), schedule.phases):
        if start:
            axis.axvline(start, color="black", linewidth=0.8, linestyle=":")
        label = f" stride {phase.tokenization.stride}\n dilation {phase.tokenization.dilation}"
        axis.annotate(label, (start, 1.02), xycoords=("data", "axes fraction"), fontsize=8)


def training_figure(
    blocks: Sequence[Mapping], evaluations: Sequence[tuple[int, float]], schedule: Schedule
) -> plt.Figure:
    """Training loss and accuracies, with the phases marked."""
    figure, (loss, accuracy) = _figure(2, 2.4)
    loss.plot(_column(blocks, "step"), _column(blocks, "training_loss"), color=_COLOURS["first"])
    loss.set_ylabel("training loss")
    mark_phases(loss, schedule)
    draw_accuracy(accuracy, blocks, evaluations, schedule)
    return figure


def embedded(figure: plt.Figure, caption: str) -> str:
    """An HTML figure with the drawing inside; closes the drawing."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table."""
    head = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; font-size: 14px }} th, td {{ padding: .3rem .7rem; text-align: left }}
tr {{ border-bottom: 1px solid #ddd }}
figure {{ margin: 1.5rem 0 }} img {{ max-width: 100% }} figcaption {{ font-size: 14px; color: #555 }}
code {{ overflow-wrap: anywhere }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Writes the page, whole."""
    write_text(path, _PAGE.format(title=html.escape(title), body="\n".join(parts)))


def family_table(family: Sequence[Mapping]) -> str:
    """Every member's topology and size."""
    rows = [(m["topology"], f"{m['parameters']:,}", f"{m['macs'] / 1e6:.2f} M") for m in family]
    return table(("topology", "parameters", "MACs"), rows)


def phase_table(
    topology: Topology,
    schedule: Schedule,
    total_steps: int,
    image_size: tuple[int, int],
    num_classes: int,
    times: Sequence[Mapping],
) -> str:
    """Tokens, cost and measured time of every phase, with the planned saving below."""
    macs = phase_macs(topology, schedule, image_size, num_classes)
    steps = schedule.steps_per_phase(total_steps)
    measured = {(time["stride"], time["dilation"]): time for time in times}
    rows = []
    for phase, count, phase_steps in zip(schedule.phases, macs, steps):
        tokenization = phase.tokenization
        grid = counting.count(topology, image_size, num_classes, stride=tokenization.stride).stages[0].token_grid
        time = measured.get((tokenization.stride, tokenization.dilation))
        seconds = ("", "")
        if time is not None and math.isfinite(time["warm_seconds"]):
            seconds = (f"{time['warm_seconds']:.1f} s", f"{time['trace_seconds']:.1f} s")
        rows.append(
            (
                tokenization.stride,
                tokenization.dilation,
                f"{grid[0]} x {grid[1]}",
                phase_steps,
                f"{count / 1e6:.2f} M",
                *seconds,
            )
        )
    header = ("stride", "dilation", "tokens", "steps", "MACs an image", "training", "tracing")
    saving = planned_saving(macs, steps)
    return table(header, rows) + f"<p>Training multiply-accumulates saved by re-tokenization: {saving:.1%}.</p>"
