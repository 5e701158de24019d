"""Inputs as nobody would write them, by the thousand: what the tests draw a few of (tests/fuzzing).

    python benchmarks/data/fuzz.py annotations --examples 2000
    python benchmarks/data/fuzz.py images --examples 2000
    python benchmarks/data/fuzz.py paths --examples 1000
    python benchmarks/data/fuzz.py yaml --examples 500

Prints how many were read and how many refused with one line, the seconds, and the peak memory of the process; a row
goes to benchmarks/results/fuzz.jsonl. Anything else - a traceback, an entry lost without a count, a record that
training cannot read - ends it with the smallest such input.
"""

from __future__ import annotations

import collections
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import click
import fuzzing
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

RESULTS = Path(__file__).parents[1] / "results" / "fuzz.jsonl"


def _cases(kind: str, root: Path):
    """What is drawn for a kind, and the function that runs it."""
    if kind == "annotations":
        folder = fuzzing.annotated(root / "data")
        drawn = st.tuples(fuzzing.mutations(), st.booleans(), st.booleans())
        return drawn, lambda case: fuzzing.annotations_case(folder, *case)
    if kind == "images":
        names = st.sampled_from(["x.png", "x.JPG", "x.tif", "x"])
        return st.tuples(fuzzing.image_files(), names), lambda case: fuzzing.images_case(root, *case)
    if kind == "paths":
        drawn = st.tuples(fuzzing.NAMES, st.sampled_from([1, 2]))
        return drawn, lambda case: fuzzing.paths_case(root / "paths", *case)
    drawn = st.tuples(fuzzing.experiments(), fuzzing.TOPOLOGIES)
    return drawn, lambda case: (fuzzing.yaml_case(root, case[0]), fuzzing.topology_case(case[1]))[0]


@click.command()
@click.argument("kind", type=click.Choice(["annotations", "images", "paths", "yaml"]))
@click.option("--examples", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", "number", default=0, show_default=True, help="Which ones.")
def main(kind: str, examples: int, number: int) -> None:
    counts: collections.Counter[str] = collections.Counter()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        drawn, run_case = _cases(kind, Path(root))

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(drawn)
        def run(case):
            counts[run_case(case)] += 1

        run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = dict(kind=kind, seed=number, **counts, seconds=round(time.perf_counter() - start), peak_gib=round(peak, 2))
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
