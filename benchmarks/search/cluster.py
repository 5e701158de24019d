"""Search, growth and study on two workers of a Dask cluster, against one process of one thread.

    python benchmarks/search/cluster.py --save_dir DIR [--works search,grow,study]

Each work is a public command, run to its end by `--workers 1 --worker-threads 1`, then by `--cluster local:2`, then by
a scheduler with two workers that were started by hand. Seconds are those of the whole command, start of processes
included, but for workers started by hand, which are there before. The rows that the commands leave must be the same,
but for their seconds. Rows are added to benchmarks/results/cluster.jsonl.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

RESULTS = Path(__file__).parents[1] / "results" / "cluster.jsonl"
SCORING = ("--dataset", "noise", "--image_size", "224", "--repeat", "2")
WORKS = {
    # Sixteen samples, two a step: no more than two workers can be busy.
    "search": ("search", *SCORING, "--total_steps", "16", "--samples_per_step", "2"),
    # At a width of 80 the first step has 16 candidates, all of them above what ends the growth.
    "grow": ("grow", *SCORING, "--arch", "seed", "--width", "80", "--stop_parameters", "14.5"),
    "study": ("study", "--dataset", "digits", "--topologies", "6", "--epochs", "2"),
}
ONE = ("--workers", "1", "--worker-threads", "1")
BY_HAND = "scheduler by hand"
ARMS = {"one process, one thread": ONE, "local:2": ("--cluster", "local:2"), BY_HAND: ()}
VARYING = ("seconds", "split", "training_seconds", "score_seconds")


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen]:
    """A process for the length of a `with` block."""
    variables = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.DEVNULL) as started:
        try:
            yield started
        finally:
            started.terminate()


@contextlib.contextmanager
def by_hand() -> Iterator[tuple[str, ...]]:
    """A scheduler and two workers of one thread; their option."""
    from distributed import Client

    address, dask = "tcp://127.0.0.1:8797", (sys.executable, "-m", "dask")
    with contextlib.ExitStack() as stack:
        stack.enter_context(process(*dask, "scheduler", "--host", "127.0.0.1", "--port", "8797", "--no-dashboard"))
        time.sleep(5)
        for _ in range(2):
            options = ("--nthreads", "1", "--memory-limit", "0", "--no-dashboard")
            stack.enter_context(process(*dask, "worker", address, *options))
        with Client(address) as client:
            client.wait_for_workers(2, timeout=60)
        yield ("--cluster", address)


def left(directory: Path) -> list[dict]:
    """What a command leaves, without seconds."""
    rows = [json.loads(line) for path in sorted(directory.rglob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted((_without(row) for row in rows), key=lambda row: json.dumps(row, sort_keys=True))


def _without(value):
    if isinstance(value, dict):
        return {name: _without(each) for name, each in value.items() if name not in VARYING}
    return [_without(each) for each in value] if isinstance(value, list) else value


@click.command()
@click.option("--save_dir", "save_dir", required=True, type=click.Path(path_type=Path))
@click.option("--works", default=",".join(WORKS), show_default=True)
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
def main(save_dir: Path, works: str, results: Path) -> None:
    for work in works.split(","):
        first = None
        for arm, options in ARMS.items():
            directory = save_dir / work / arm.replace(" ", "_").replace(":", "_")
            shutil.rmtree(directory, ignore_errors=True)
            with by_hand() if arm == BY_HAND else contextlib.nullcontext(options) as options:
                command = [sys.executable, "-m", "asvit_tf.cli", *WORKS[work], "--save_dir", str(directory), *options]
                start = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                seconds = time.perf_counter() - start
            first = first or (seconds, left(directory))
            row = dict(
                work=work, arm=arm, seconds=seconds, faster=first[0] / seconds, equal=left(directory) == first[1]
            )
            print(json.dumps(row), flush=True)
            with results.open("a") as lines:
                lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
