"""`asvit run` on blood cells without any other flag, one run for each seed: does every one learn, and keep it?

    python benchmarks/training/front_door.py --cells CELLS --save_dir DIR [--seeds 20] [--workers 2]

`CELLS` is what benchmarks/training/blood_cells.py wrote. Each run is the command in a process of its own, with one
thread for each worker; it lies in DIR/SEED, and started again it continues. Rows go to
benchmarks/results/front_door.jsonl (or --results), with the losses of all epochs; `returned` counts those at the loss
of guessing after one below 0.9 of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import joblib
import tqdm
from stability import returned

RESULTS = Path(__file__).parents[1] / "results" / "front_door.jsonl"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def run(cells: Path, directory: Path, seed: int) -> dict:
    """The row of one run."""
    command = ["-m", "asvit_tf.cli", "run", "--output", directory, "--data_path", cells, "--seed", seed, "--json"]
    done = subprocess.run(
        [sys.executable, *map(str, command)], env={**os.environ, **_ONE_THREAD}, capture_output=True, text=True
    )
    return {**row_of(directory, seed), "status": done.returncode, "said": done.stderr.strip().splitlines()[-1:]}


def row_of(directory: Path, seed: int) -> dict:
    """What a run left in its directory."""
    from asvit_tf.design import savings

    written = directory / "result.json"
    result = json.loads(written.read_text()) if written.exists() else {}
    blocks = savings.parse_blocks((directory / "train" / "blocks.jsonl").read_text())
    epochs: dict[int, list[dict]] = {}
    steps = max(block["steps"] for block in blocks)
    for block in blocks:
        epochs.setdefault(-(-block["step"] // steps), []).append(block)
    losses = [
        sum(block["steps"] * block["training_loss"] for block in epoch) / sum(block["steps"] for block in epoch)
        for epoch in epochs.values()
    ]
    guessing = next((block["guessing_loss"] for block in reversed(blocks) if "guessing_loss" in block), None)
    names = ("topology", "grown", "accuracy", "balanced_accuracy", "majority_share", "learned", "rollbacks", "seconds")
    return dict(
        seed=seed,
        **{name: result.get(name) for name in names},
        losses=[round(loss, 4) for loss in losses],
        guessing_loss=guessing,
        returned=None if guessing is None else returned([loss / guessing for loss in losses]),
    )


@click.command()
@click.option("--cells", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--save_dir", required=True, type=click.Path(path_type=Path))
@click.option("--seeds", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
def main(cells: Path, save_dir: Path, seeds: int, workers: int, results: Path) -> None:
    from asvit_tf.journals import Journal

    journal = Journal(results)
    done = {row["seed"] for row in journal.rows}
    tasks = [joblib.delayed(run)(cells, save_dir / str(seed), seed) for seed in range(seeds) if seed not in done]
    pool = joblib.Parallel(n_jobs=workers, prefer="threads", return_as="generator")
    for row in tqdm.tqdm(pool(tasks), total=len(tasks)):
        journal.append(row)
    kept = [row for row in journal.rows if row["returned"] == 0]
    balanced = [row["balanced_accuracy"] for row in journal.rows if row["balanced_accuracy"] is not None]
    print(f"{len(kept)} of {len(journal.rows)} never returned to guessing")
    if balanced:
        print(f"balanced accuracy: mean {sum(balanced) / len(balanced):.4f}, least {min(balanced):.4f}")


if __name__ == "__main__":
    main()
