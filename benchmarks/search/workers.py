"""Growth candidates scored by one and by two worker processes, and by one process with all threads.

    python benchmarks/search/workers.py

Sixteen candidates of the published seed topology's growth at 224 x 224 (proxies of width 20), length distortion and
NTK, two repeats. All arms are warm: their processes have scored one topology before. The measures of the arms with one
thread a worker must be equal bit for bit. Rows go to benchmarks/results/workers.jsonl.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from asvit_tf import Topology
from search.runs.search_settings import WorkerSettings
from search.runs.workers import ParallelScorer, Pool
from search.scoring.settings import ScoringSettings
from search.scoring.training_free import TrainingFreeScorer
from search.strategy import growth as grow
from search.strategy.limits import Limits
from search.strategy.settings import GrowthSettings

RESULTS = Path(__file__).parents[1] / "results" / "workers.jsonl"
SETTINGS = ScoringSettings(repeats=2)
# Workers, and threads of each; None is this process with all threads.
ARMS = {"1 worker, 1 thread": (1, 1), "2 workers, 1 thread each": (2, 1), "1 process, all threads": None}


def tried():
    # Four different widths: 1.05, 1.1, 1.15 and 1.2 times 20 are not rounded together.
    options = GrowthSettings(width=80)
    start = options.start(Topology.named("seed"))
    return [options.proxy(candidate) for candidate in grow.candidates(start, options, Limits())]


def run(name):
    """Scores all candidates in the arm `name`; prints a row."""
    images = np.random.default_rng(0).standard_normal((16, 224, 224, 3)).astype(np.float32)
    arm = ARMS[name]
    scorer = TrainingFreeScorer(SETTINGS, images)
    if arm is not None:
        scorer = ParallelScorer(SETTINGS, images, Pool(WorkerSettings(*arm)))
    topologies = tried()
    list(scorer([Topology.parse("4,2,2|2,1,2|2,1,2|2,1,2|16,8")] * (arm[0] if arm else 1)))  # Warms up.
    start = time.perf_counter()
    measures = [score.measures for score in scorer(topologies)]
    print(
        json.dumps(dict(arm=name, candidates=len(topologies), seconds=time.perf_counter() - start, measures=measures))
    )


def main():
    if len(sys.argv) == 2:
        run(sys.argv[1])
        return
    rows = []
    for name in ARMS:
        finished = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        rows.append(json.loads(finished.stdout.splitlines()[-1]))
        print(f"{name:<26}{rows[-1]['candidates']} candidates in {rows[-1]['seconds']:.1f} s", flush=True)
    print("bit-identical:", rows[0]["measures"] == rows[1]["measures"])
    print(f"2 workers against 1: {rows[0]['seconds'] / rows[1]['seconds']:.2f} times faster")
    print(f"2 workers against all threads: {rows[2]['seconds'] / rows[1]['seconds']:.2f} times faster")
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
