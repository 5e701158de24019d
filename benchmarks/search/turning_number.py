"""When a network is linear along the circle, curvature and length distortion are the same information.

    python benchmarks/search/turning_number.py

Forty random topologies of the search space, 64 x 64, 10 points, one draw of weights and one circle each, in three
settings: as released (norms off, weights N(0, 0.02)), LeCun weights (norms off), and norms kept (weights N(0, 0.02)).
Rows go to benchmarks/results/turning_number.jsonl, the figure to docs/figures/turning_number.png; the table of
docs/method.md is printed.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import scipy.stats
import tqdm

from asvit_tf.measures import complexity
from asvit_tf.modeling import initialization
from search.scoring.settings import ScoringSettings
from search.scoring.training_free import Probe
from search.strategy.space import PUBLISHED

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "turning_number.jsonl"
FIGURE = ROOT.parent / "docs" / "figures" / "turning_number.png"
TOPOLOGIES, SIDE = 40, 64
# Normalization and initialization; settings of the same normalization share one traced network.
SETTINGS = {
    "released": ("identity", "released"),
    "LeCun weights": ("identity", "lecun"),
    "norms kept": ("layer", "released"),
}


def rows():
    """One row for each topology and setting."""
    generator = np.random.default_rng(0)
    for index in tqdm.trange(TOPOLOGIES):
        topology = PUBLISHED.topology_at(
            [int(generator.integers(len(options))) for options in PUBLISHED.choices.values()]
        )
        circle = complexity.Circle.random((SIDE, SIDE), 10, np.random.default_rng([1, index]))
        probes = {}
        for name, (normalization, scheme) in SETTINGS.items():
            draws = np.random.default_rng([2, index])
            if normalization not in probes:
                settings = ScoringSettings((SIDE, SIDE), normalization=normalization, measures=("curvature",))
                probes[normalization] = Probe(topology, settings, draws)
            probe = probes[normalization]
            initialization.draw_stem(probe.backbone, draws)
            initialization.draw_linear(probe.backbone, draws, scheme)
            measured = probe.measure_circle(circle)
            yield dict(
                topology=str(topology),
                setting=name,
                length_distortion=measured.length_distortion,
                curvature=measured.curvature,
                turning_number=complexity.turning_number(measured.length_distortion_with_curvature),
                product_of_kernel_sizes=int(np.prod([stage.kernel_size for stage in topology.stages])),
            )


def column(measured, setting, name):
    return np.array([row[name] for row in measured if row["setting"] == setting])


def table(measured):
    """The table of docs/method.md."""
    yield "| setting | turning number: least, median, most | tau(curvature, length) | tau(length, product of kernels) |"
    yield "|---|---|---|---|"
    for name in SETTINGS:
        turning, length, curvature, product = (
            column(measured, name, key)
            for key in ("turning_number", "length_distortion", "curvature", "product_of_kernel_sizes")
        )
        taus = [scipy.stats.kendalltau(*pair).statistic for pair in ((curvature, length), (length, product))]
        spread = ", ".join(f"{value:.4f}" for value in (turning.min(), np.median(turning), turning.max()))
        yield f"| {name} | {spread} | {taus[0]:.2f} | {taus[1]:.2f} |"


def draw(measured):
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for axis, name in zip(axes, SETTINGS):
        length, curvature, turning = (
            column(measured, name, key) for key in ("length_distortion", "curvature", "turning_number")
        )
        points = axis.scatter(length, curvature, c=turning, cmap="viridis", vmin=1, vmax=3.2, s=22)
        line = np.geomspace(length.min(), length.max(), 50)
        # A circle that is scaled and stays a circle has curvature 2 pi / (radius length_distortion).
        axis.plot(line, 2 * np.pi / (np.sqrt(3) * SIDE * line), color="grey", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", yscale="log", title=name, xlabel="length distortion", ylabel="curvature")
        for line_of_ticks in (axis.xaxis, axis.yaxis):  # Less than a decade: powers of ten alone would leave no labels.
            line_of_ticks.set_major_locator(matplotlib.ticker.MaxNLocator(4))
            line_of_ticks.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
            line_of_ticks.set_minor_locator(matplotlib.ticker.NullLocator())
    figure.colorbar(points, ax=axes, label="turning number")
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=130)


def main():
    if not RESULTS.exists():
        measured = list(rows())
        RESULTS.write_text("".join(json.dumps(row) + "\n" for row in measured))
    measured = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    draw(measured)
    print("\n".join(table(measured)))


if __name__ == "__main__":
    main()
