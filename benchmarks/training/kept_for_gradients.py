"""What a training step keeps for its gradients: attention's scores or none, all blocks' insides or their inputs only.

    python benchmarks/training/kept_for_gradients.py [--size 224] [--batch 8]

As-ViT Small at its finest tokenization, float32, the Model Garden's classification task (forward, backward, AdamW) as
in `training_step.py`: each pair of `attention` (whole, chunked) and `recompute` (none, blocks) one program on the
same random batch, in turn in one process. Peak memory is that of a process that runs one arm only. Rows are added to
benchmarks/results/kept_for_gradients.jsonl.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np
import tensorflow as tf
import training_step
from official.core import exp_factory, task_factory

from asvit_tf import choices

RESULTS = Path(__file__).parents[1] / "results" / "kept_for_gradients.jsonl"
ARMS = tuple(itertools.product((choices.WHOLE, "chunked"), choices.RECOMPUTED))
ROUNDS = 7


def step_of(attention: str, recompute: str, size: int, batch: int):
    """A training step as a graph program, traced at its first call."""
    params = exp_factory.get_exp_config("asvit_imagenet")
    asvit = {"topology": "small", "attention": attention, "recompute": recompute}
    losses = {"one_hot": False, "soft_labels": True}
    model = {"num_classes": training_step.CLASSES, "input_size": [size, size, 3], "backbone": {"asvit": asvit}}
    params.override({"task": {"model": model, "losses": losses}})
    task = task_factory.get_task(params.task)
    model, optimizer = task.build_model(), task.create_optimizer(params.trainer.optimizer_config)
    generator = np.random.default_rng(0)
    images = tf.constant(generator.standard_normal((batch, size, size, 3)), tf.float32)
    labels = tf.one_hot(generator.integers(training_step.CLASSES, size=batch), training_step.CLASSES)
    return training_step.program(lambda: task.train_step((images, labels), model, optimizer), model, None)


@click.command()
@click.option("--size", default=224, show_default=True, help="Rows and columns of the images.")
@click.option("--batch", default=8, show_default=True)
@click.option("--peak-of", nargs=2, hidden=True)
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
def main(size: int, batch: int, peak_of: tuple[str, str] | None, results: Path) -> None:
    if peak_of:
        step = step_of(*peak_of, size, batch)
        for _ in range(3):
            step()
        print(training_step.peak_mib())
        return
    steps = {arm: step_of(*arm, size, batch) for arm in ARMS}
    for step in [*steps.values()] * 2:
        step()
    seconds: dict[tuple[str, str], list[float]] = {arm: [] for arm in steps}
    for _ in range(ROUNDS):
        for arm, step in steps.items():
            seconds[arm].append(training_step.timed(step))
    whole = statistics.median(seconds[ARMS[0]])
    for arm, values in seconds.items():
        command = [sys.executable, __file__, f"--size={size}", f"--batch={batch}", "--peak-of", *arm]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        median = statistics.median(values)
        row = dict(zip(("attention", "recompute"), arm), size=size, batch=batch, seconds=median, ratio=median / whole)
        row = {**row, "peak_mib": float(peak)}
        print(json.dumps(row), flush=True)
        with results.open("a") as lines:
            lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
