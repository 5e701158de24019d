"""Draws docs/figures/demo.png from a finished run: `python benchmarks/training/demo_figure.py demo`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from asvit_tf.journals import rows_in
from asvit_tf.serving import export
from asvit_tf.tasks import schedules
from asvit_tf.training import run as train
from asvit_tf.training import step_log
from search.report import figures as report


def main():
    run = Path(sys.argv[1])
    trace = rows_in(run / "search" / "trace.jsonl")
    family = json.loads((run / "grow" / "result.json").read_text())["family"]
    schedule = schedules.schedule_of(export.read_params(str(run / "train")))

    layout = [["length_distortion", "growth", "training"], ["ntk_condition_number", "growth", "training"]]
    figure, axes = plt.subplot_mosaic(layout, figsize=(13, 3.8), layout="constrained", width_ratios=(1, 1, 1.4))
    for axis in axes.values():
        report.tidy(axis)
    for name in ("length_distortion", "ntk_condition_number"):
        report.draw_measure(axes[name], trace, name)
    axes["ntk_condition_number"].set_xlabel("search step")
    report.draw_growth(axes["growth"], family)
    report.draw_accuracy(
        axes["training"], step_log.read_blocks(run / "train"), train.read_evaluations(run / "train"), schedule
    )
    target = Path(__file__).parents[2] / "docs" / "figures" / "demo.png"
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
