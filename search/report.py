"""Figures of a run, and one HTML page that holds them all."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from asvit_tf import counting
from asvit_tf.retokenization import Schedule, phase_macs, planned_saving
from asvit_tf.topology import Topology
from search.records import write_text

_COLOURS = dict(first="#1f6f8b", second="#d1603d", third="#3b7d4f", quiet="#9a9a9a")


def _axes(rows: int, height: float = 2.2):
    figure, axes = plt.subplots(rows, 1, figsize=(7.2, height * rows), sharex=True, layout="constrained", squeeze=False)
    for axis in axes[:, 0]:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:, 0]


def search_figure(trace: Sequence[Mapping]) -> plt.Figure:
    """Length distortion, NTK condition number, reward with its baseline, and policy entropy over the steps."""
    figure, (length, ntk, reward, entropy) = _axes(4, 1.7)
    steps = [row["step"] for row in trace]

    def column(name):
        return [float("nan") if row["scores"][name] is None else row["scores"][name] for row in trace]

    length.plot(steps, column("length_distortion"), ".-", color=_COLOURS["first"])
    length.set_ylabel("length\ndistortion")
    ntk.plot(steps, column("ntk_condition_number"), ".-", color=_COLOURS["second"])
    ntk.set_ylabel("NTK condition\nnumber")
    ntk.set_yscale("log")
    for name, colour in (("reward", _COLOURS["quiet"]), ("baseline", _COLOURS["third"])):
        reward.plot(
            steps, [float("nan") if row[name] is None else row[name] for row in trace], color=colour, label=name
        )
    reward.set_ylabel("reward")
    reward.legend(frameon=False, loc="lower right")
    entropy.plot(steps, [row["entropy"] for row in trace], color=_COLOURS["first"])
    entropy.set_ylabel("entropy (nats)")
    entropy.set_xlabel("step")
    return figure


def growth_figure(family: Sequence[Mapping]) -> plt.Figure:
    """Total depth against the sum of the stages' widths, every member labelled with its parameters."""
    figure, (axis,) = _axes(1, 3.4)
    topologies = [Topology.parse(member["topology"]) for member in family]
    widths = [sum(topology.widths) for topology in topologies]
    depths = [sum(topology.depths) for topology in topologies]
    axis.plot(widths, depths, "o-", color=_COLOURS["first"])
    for x, y, member in zip(widths, depths, family):
        axis.annotate(f" {member['parameters'] / 1e6:.2f} M", (x, y), va="top", fontsize=9)
    axis.set_xlabel("total width (sum over stages)")
    axis.set_ylabel("total depth (blocks)")
    axis.margins(0.12)
    return figure


def training_figure(
    blocks: Sequence[Mapping], evaluations: Sequence[tuple[int, float]], schedule: Schedule
) -> plt.Figure:
    """Training loss, and accuracy in training and on held-out images, with the phases marked."""
    figure, (loss, accuracy) = _axes(2)
    steps = [block["step"] for block in blocks]
    loss.plot(steps, [block["training_loss"] for block in blocks], color=_COLOURS["first"])
    loss.set_ylabel("training loss")
    accuracy.plot(
        steps, [block["accuracy"] for block in blocks], color=_COLOURS["quiet"], label="training, phase's tokens"
    )
    if evaluations:
        accuracy.plot(*zip(*evaluations), "o-", color=_COLOURS["second"], label="held out, all tokens")
    accuracy.set_ylabel("accuracy")
    accuracy.set_xlabel("step")
    accuracy.legend(frameon=False, loc="lower right")
    starts = [0, *schedule.boundaries]
    for axis in (loss, accuracy):
        for start in starts[1:]:
            axis.axvline(start, color="black", linewidth=0.8, linestyle=":")
    for start, phase in zip(starts, schedule.phases):
        label = f" stride {phase.tokenization.stride}, dilation {phase.tokenization.dilation}"
        loss.annotate(label, (start, 1.02), xycoords=("data", "axes fraction"), fontsize=9)
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
        seconds = ("", "") if time is None else (f"{time['warm_seconds']:.1f} s", f"{time['trace_seconds']:.1f} s")
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
