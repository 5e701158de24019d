"""How the hours of a search and of a growth fall with the workers of a cluster: simulated, with durations that were
measured.

    python benchmarks/search/scaling.py [--figure docs/images/scaling.png]

Every task is given to the first worker that is free, in the order of the calls, as Dask and joblib do. Durations are
drawn, with a fixed seed, from those of the 60 topologies of benchmarks/results/search_224.jsonl (224 x 224, five
repeats, two cores), so a worker is such a machine; those of a growth likewise, whatever the candidate. A task costs the
scheduler `--overhead` seconds in addition, one task after another. Nothing else takes time: no start of workers, no
failures. A search of 500 topologies updates its policy behind every `samples` of them, and no topology of the next
update is known before; growth has the 16 or fewer candidates of each of its recorded steps. `one queue` is what no
order could be faster than: all topologies known at once, as in random search or a study. Rows go to
benchmarks/results/scaling.jsonl (or --results).
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

FOLDER = Path(__file__).parents[1] / "results"
WORKERS = tuple(2**power for power in range(10))
TOPOLOGIES = 500


def makespan(durations: Sequence[float], workers: int, overhead: float) -> float:
    """Seconds until the last of some tasks is done."""
    free = [0.0] * workers
    for number, seconds in enumerate(durations):
        given = max(heapq.heappop(free), (number + 1) * overhead)
        heapq.heappush(free, given + seconds)
    return max(free)


def in_rounds(sizes: Sequence[int], durations: Sequence[float], workers: int, overhead: float) -> float:
    """Seconds of rounds of so many tasks each, of which one begins when the one before has ended."""
    left = iter(durations)
    return sum(makespan(list(itertools.islice(left, size)), workers, overhead) for size in sizes)


def works(candidates: Sequence[int]) -> dict[str, list[int]]:
    """Tasks of every round, by kind of work."""
    searches = {
        f"search, {samples} a step": [min(samples, TOPOLOGIES - done) for done in range(0, TOPOLOGIES, samples)]
        for samples in (1, 16, 64)
    }
    return {**searches, "one queue": [TOPOLOGIES], "growth": list(candidates)}


@click.command()
@click.option("--overhead", default=0.01, show_default=True, help="Seconds of the scheduler for a task.")
@click.option("--seed", default=0, show_default=True)
@click.option("--figure", type=click.Path(path_type=Path))
@click.option("--results", default=FOLDER / "scaling.jsonl", show_default=True, type=click.Path(path_type=Path))
def main(overhead: float, seed: int, figure: Path | None, results: Path) -> None:
    measured = [json.loads(line)["seconds"] for line in (FOLDER / "search_224.jsonl").read_text().splitlines()]
    growth = [len(json.loads(line)["candidates"]) for line in (FOLDER / "growth.jsonl").read_text().splitlines()]
    rows = []
    for work, sizes in works(growth).items():
        durations = np.random.default_rng(seed).choice(measured, sum(sizes))
        for workers in WORKERS:
            hours = in_rounds(sizes, durations, workers, overhead) / 3600
            rows.append(dict(work=work, tasks=sum(sizes), workers=workers, hours=hours))
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for work in works(growth):
        hours = {row["workers"]: row["hours"] for row in rows if row["work"] == work}
        print(f"{work:20}" + "".join(f"{hours[workers]:9.4f}" for workers in WORKERS))
    if figure is not None:
        draw(rows, figure)


def draw(rows: Sequence[dict], path: Path) -> None:
    """Hours against workers."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.4, 4), layout="constrained")
    axis = drawn.subplots()
    for work in dict.fromkeys(row["work"] for row in rows):
        part = [row for row in rows if row["work"] == work]
        axis.loglog([row["workers"] for row in part], [row["hours"] for row in part], marker=".", label=work)
    axis.set_xlabel("workers")
    axis.set_ylabel("hours (simulated)")
    axis.set_xticks(WORKERS, list(map(str, WORKERS)))
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    drawn.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
