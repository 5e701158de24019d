"""A study with one and with two workers of one thread each, and one that is killed: the same rows, and how much faster.

    python benchmarks/search/study_workers.py [--topologies 8] [--epochs 3]

Each arm is a study of its own in a process of its own. A finished study that is started again only imports, draws and
writes; its seconds are taken off each arm's, so that those left are of measuring and training. The killed arm has two
workers; it gets SIGKILL up to twice, at moments drawn from a seed, and is started again at once; `killed_at` has the
seconds and the rows of each. Rows go to benchmarks/results/study_workers.jsonl.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from asvit_tf.journals import rows_in

RESULTS = Path(__file__).parents[1] / "results" / "study_workers.jsonl"
KILLS = 2


def start(directory, workers, topologies, epochs):
    command = [sys.executable, "-m", "asvit_tf.cli", "study", "--save_dir", str(directory), "--json"]
    command += ["--topologies", str(topologies), "--epochs", str(epochs), "--draws", "100"]
    command += ["--repeated_topologies", "1", "--seed_repeats", "2"]
    command += ["--workers", str(workers), "--worker_threads", "1"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(*arguments):
    """Seconds until it ended well."""
    begun = time.perf_counter()
    if start(*arguments).wait():
        raise SystemExit(f"asvit study failed in {arguments[0]}")
    return time.perf_counter() - begun


def rows(directory):
    """Everything but seconds."""
    kept = [row for name in ("topologies", "repeats") for row in rows_in(directory / f"{name}.jsonl")]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in kept]


@click.command()
@click.option("--topologies", default=8, show_default=True, type=click.IntRange(min=3))
@click.option("--epochs", default=3, show_default=True, type=click.IntRange(min=1))
def main(topologies, epochs):
    root = Path(tempfile.mkdtemp())
    seconds = {}
    for workers in (1, 2):
        arguments = (root / str(workers), workers, topologies, epochs)
        whole, again = finish(*arguments), finish(*arguments)
        seconds[workers] = whole - again
        print(f"workers {workers}: {whole:.0f} s, of which start and end {again:.0f} s", flush=True)
    moments, killed, at = random.Random(0), root / "killed", []
    while len(at) < KILLS:
        process = start(killed, 2, topologies, epochs)
        moment = moments.uniform(0.4, 0.8) * seconds[2]
        try:
            process.wait(moment)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            at.append((round(moment), len(rows(killed))))
    finish(killed, 2, topologies, epochs)
    expected = rows(root / "1")
    result = dict(
        topologies=topologies,
        epochs=epochs,
        seconds=seconds,
        times_faster=seconds[1] / seconds[2],
        same_rows=rows(root / "2") == expected,
        killed_at=at,
        same_rows_killed=rows(killed) == expected,
        cores=os.cpu_count(),
    )
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "a") as file:
        file.write(json.dumps(result) + "\n")
    print(f"2 workers against 1: {result['times_faster']:.2f} times faster, the same rows: {result['same_rows']}")
    print(f"killed after (seconds, rows kept) {at}; the same rows: {result['same_rows_killed']}")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
