"""REINFORCE, regularised evolution and chance with as many proposals, ten seeds each: how good is what they find?

    python benchmarks/search/strategies.py --images CIFAR10 --save_dir DIR [--scores 100] [--seeds 10] [--pool 200]

Searches by the released reward (length distortion and the condition number of the NTK) in the space that fits images of
32 x 32. What was found is placed among topologies drawn at random beforehand, which no search sees: the share of them
that it beats, by each measure and by their rank sum. The seed is that of the search; images, circles and weights are
always the same, so no topology is measured twice: of as many proposals, a strategy that proposes the same again has
fewer different topologies scored, which the table tells. Rows go to benchmarks/results/strategies.jsonl (or --results);
started again with the same images, pool and settings, it continues. What was found is trained by
search_against_chance.py --data_path CIFAR10 --arch TOPOLOGY.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np

RESULTS = Path(__file__).parents[1] / "results" / "strategies.jsonl"
SIZE, WIDTH, BATCH, CLASSES = (32, 32), 32, 16, 10
POOL_SEED = 99


def shares_beaten(found: dict[str, float | None], pool: list[dict[str, float | None]]) -> dict[str, float]:
    """Share of a pool that a topology beats, by each measure and by their rank sum, half of those that it ties with."""
    from asvit_tf.choices import DIRECTIONS, SEARCHED

    def position(value: float, others: np.ndarray) -> float:
        return float(np.mean(value > others) + 0.5 * np.mean(value == others))

    known = [scores for scores in pool if None not in scores.values()]
    shares, sums, own = {}, np.zeros(len(known)), 0.0
    for name in SEARCHED:
        others = DIRECTIONS[name] * np.array([scores[name] for scores in known], np.float64)
        value = found[name]
        # REINFORCE may end on a topology that was never scored; one that cannot be beats nothing.
        shares[name] = 0.0 if value is None else position(DIRECTIONS[name] * value, others)
        sums += [position(other, others) for other in others]
        own += shares[name]
    return {**shares, "rank_sum": position(own, sums)}


def hashed(content: Any) -> str:
    """Of images, or of what JSON holds."""
    written = content.tobytes() if isinstance(content, np.ndarray) else json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(written).hexdigest()[:16]


def table(rows: list[dict[str, Any]], strategies: tuple[str, ...]) -> Iterator[str]:
    """Markdown: means over the searches of each strategy, and the least by the rank sum."""
    names = list(rows[0]["beaten"])
    yield "| strategy | searches | different topologies scored | " + " | ".join(names) + " | least by rank_sum |"
    yield "|---" * (4 + len(names)) + "|"
    for strategy in strategies:
        of_strategy = [row for row in rows if row["strategy"] == strategy]
        beaten = {name: [row["beaten"][name] for row in of_strategy] for name in names}
        yield (
            f"| {strategy} | {len(of_strategy)} | {np.mean([row['distinct'] for row in of_strategy]):.1f} | "
            + " | ".join(f"{np.mean(shares):.1%}" for shares in beaten.values())
            + f" | {min(beaten['rank_sum']):.1%} |"
        )


def draw(path: Path, rows: list[dict[str, Any]], scores: int) -> None:
    """A point for every search."""
    from matplotlib.figure import Figure

    from asvit_tf.choices import SEARCH_STRATEGIES
    from search.report.figures import save, tidy

    figure = Figure(figsize=(6.5, 2.8), layout="constrained")
    names = list(rows[0]["beaten"])
    for axis, name in zip(figure.subplots(1, len(names), sharey=True), names):
        tidy(axis)
        for place, strategy in enumerate(SEARCH_STRATEGIES):
            values = [100 * row["beaten"][name] for row in rows if row["strategy"] == strategy]
            axis.plot([place] * len(values), values, "o", alpha=0.5)
            axis.plot([place - 0.2, place + 0.2], [np.mean(values)] * 2, "k-")
        axis.set_xticks(range(len(SEARCH_STRATEGIES)), SEARCH_STRATEGIES, fontsize=8)
        axis.set_title(name.replace("_", " "), fontsize=9)
    figure.axes[0].set_ylabel(f"beats % of chance ({scores} proposals)", fontsize=8)
    save(path, figure)


@click.command()
@click.option("--images", required=True, type=click.Path(exists=True), help="Folder of images, at any depth.")
@click.option("--save_dir", required=True, type=click.Path(path_type=Path))
@click.option("--scores", default=100, show_default=True, type=click.IntRange(min=10), help="Proposals of a search.")
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(min=1))
@click.option("--pool", "pool_size", default=200, show_default=True, type=click.IntRange(min=10))
@click.option("--figure", type=click.Path(path_type=Path), help="Where to draw.")
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
def main(
    images: str, save_dir: Path, scores: int, seeds: int, pool_size: int, figure: Path | None, results: Path
) -> None:
    from asvit_tf.choices import SEARCH_STRATEGIES
    from asvit_tf.dataloaders.images import Source, sample
    from asvit_tf.design import grids
    from asvit_tf.design.topology import Topology
    from asvit_tf.journals import Journal, rows_in, workspace
    from search.scoring.score import Remembered
    from search.scoring.settings import ScoringSettings
    from search.scoring.training_free import TrainingFreeScorer
    from search.strategy import loop, space
    from search.strategy.limits import Limits
    from search.strategy.settings import LEAST_HEAD_DIM, SearchSettings
    from search.study.run import sample as drawn

    stride = grids.base_stride(SIZE)
    fitting = space.fitting(SIZE, stride, WIDTH, LEAST_HEAD_DIM)
    settings = ScoringSettings(image_size=SIZE, base_stride=stride)
    taken, _ = sample(Source(data_path=images), BATCH, SIZE, settings.seed)
    identity = dict(images=hashed(taken), **dataclasses.asdict(settings))
    key = dict(scores=scores, settings=hashed(dict(identity, pool=pool_size, pool_seed=POOL_SEED, width=WIDTH)))
    with workspace(save_dir, identity) as directory:
        scorer = Remembered(TrainingFreeScorer(settings, taken), directory / "scores.jsonl")
        pool = [score.measures for score in scorer(drawn(fitting, pool_size, POOL_SEED))]
        journal = Journal(results)
        done = {(row["strategy"], row["seed"], row["scores"], row.get("settings")) for row in journal.rows}
        for seed in range(seeds):
            for strategy in SEARCH_STRATEGIES:
                if (strategy, seed, *key.values()) in done:
                    continue
                place = directory / f"{strategy}_{seed}_{scores}"
                place.mkdir(exist_ok=True)
                options = SearchSettings(total_steps=scores, seed=seed, strategy=strategy)
                limits = Limits(None, None, SIZE, CLASSES, stride)
                topology = loop.search(place, options, scorer, limits, fitting, progress=True)["topology"]
                (score,) = scorer([Topology.parse(topology)])
                journal.append(
                    dict(
                        strategy=strategy,
                        seed=seed,
                        **key,
                        distinct=len({row["topology"] for row in rows_in(place / "trace.jsonl")}),
                        topology=topology,
                        measures=score.measures,
                        beaten=shares_beaten(score.measures, pool),
                    )
                )
    rows = [row for row in journal.rows if {name: row.get(name) for name in key} == key]
    print("\n".join(table(rows, SEARCH_STRATEGIES)))
    if figure is not None:
        draw(figure, rows, scores)


if __name__ == "__main__":
    main()
