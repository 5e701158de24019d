"""Memory of a process over 100 scored topologies.

    python benchmarks/search/scoring_memory.py

Random topologies of the search space at 32 x 32, length distortion and NTK, one repeat. The resident size after each is
kept in benchmarks/results/scoring_memory.jsonl.
"""

import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tqdm

from search.scoring.settings import ScoringSettings
from search.scoring.training_free import TrainingFreeScorer
from search.strategy.space import PUBLISHED

RESULTS = Path(__file__).parents[1] / "results" / "scoring_memory.jsonl"
TOPOLOGIES, WARM_UP = 100, 10


def resident_mib():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024


def main():
    generator = np.random.default_rng(0)
    images = generator.standard_normal((16, 32, 32, 3)).astype(np.float32)
    scorer = TrainingFreeScorer(ScoringSettings(image_size=(32, 32), repeats=1), images)
    sizes = []
    for _ in tqdm.trange(TOPOLOGIES):
        indices = [int(generator.integers(len(options))) for options in PUBLISHED.choices.values()]
        scorer.score(PUBLISHED.topology_at(indices))
        sizes.append(resident_mib())
    RESULTS.write_text("".join(json.dumps(dict(topologies=i + 1, mib=mib)) + "\n" for i, mib in enumerate(sizes)))
    first, last = statistics.fmean(sizes[WARM_UP : WARM_UP + 10]), statistics.fmean(sizes[-10:])
    print(f"first ten after {WARM_UP}: {first:.0f} MiB; last ten: {last:.0f} MiB ({last / first - 1:+.1%})")


if __name__ == "__main__":
    main()
