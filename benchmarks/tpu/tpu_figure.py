"""Draws docs/figures/tpu.png from the compilations kept in benchmarks/results/tpu.jsonl.

asvit tpu-check small --batch 64 --json      # each line there is what such a command printed, under its name
python benchmarks/tpu/tpu_figure.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "tpu.jsonl"
FIGURE = HERE.parent / "docs" / "figures" / "tpu.png"
SHOWN = ("Small", "Base", "Large", "ViT-S/16", "ViT-B/16")
COLOURS = {16: "tab:green", 8: "tab:orange", 4: "tab:blue", None: "tab:gray"}


def main() -> None:
    rows = {row["name"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    ticks = []
    position = 0.0
    for name in SHOWN:
        start = position
        for phase in rows[name]["phases"]:
            colour = COLOURS[phase["stride"]]
            label = f"stride {phase['stride']}" if phase["stride"] else "all tokens"
            axes[0].bar(position, phase["images_per_second"], color=colour, label=label)
            memory = phase["hbm_bytes"] / rows[name]["batch"] / 2**20
            axes[1].bar(position, memory, color=colour, label=label)
            position += 1
        ticks.append(((start + position - 1) / 2, name))
        position += 1
    for axis, title in zip(axes, ("images a second and chip, as the compiler estimates", "MiB of HBM for an image")):
        axis.set_yscale("log")
        axis.set_title(title, fontsize=10)
        axis.set_ylim(bottom=10 if axis is axes[1] else 100)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.set_xticks(*zip(*ticks), fontsize=8)
        handles = dict(zip(*reversed(axis.get_legend_handles_labels())))
        axis.legend(handles.values(), handles.keys(), fontsize=8)
    figure.savefig(FIGURE, dpi=130)


if __name__ == "__main__":
    main()
