"""Held-out accuracy on the digits with and without re-tokenization, same epochs, several seeds; training time of both.

    python benchmarks/training/digits_accuracy.py [--epochs 80] [--image-size 32] [--schedules published,none]
        [--seeds 0,1,2] [--power 0.5] [--learning-rate 0.001] [--transition 0.05]

Trains the experiment of official_configs/digits_asvit_i32_cpu.yaml in one process for each row; with --power P the
learning rate falls as (1 - share of steps)^P instead of as a cosine. Warm seconds are steps
times the median step of blocks that traced nothing; tracing is what the other blocks took beyond that. Rows go to
benchmarks/results/digits_accuracy.jsonl as they are finished; those there are not repeated.
"""

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

RESULTS = Path(__file__).parents[1] / "results" / "digits_accuracy.jsonl"


def train_one(topology, seed, schedule, epochs, image_size, power, learning_rate, transition):
    """One row, in this process."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from asvit_tf import Topology
    from asvit_tf.dataloaders import classification as data
    from asvit_tf.design import savings
    from asvit_tf.tasks import plans
    from asvit_tf.training import run as train
    from asvit_tf.training import step_log

    plan = plans.Plan((image_size,) * 2, seed, epochs, batch_size=32, retokenization=schedule)
    with tempfile.TemporaryDirectory() as directory:
        dataset = data.prepare(Path(directory) / "data")
        params = plans.classifier(plan, dataset, Topology.parse(topology))
        if transition is not None:
            params.task.retokenization.transition = transition
        decay = params.trainer.optimizer_config.learning_rate
        if learning_rate is not None:
            decay.cosine.initial_learning_rate = learning_rate
        if power is not None:
            rate = decay.cosine.initial_learning_rate
            fields = dict(initial_learning_rate=rate, decay_steps=params.trainer.train_steps, end_learning_rate=0.0)
            decay.override({"type": "polynomial", "polynomial": {**fields, "power": power}})
        metrics = train.run(params, f"{directory}/train", "train_and_eval")
        phases = savings.phase_times(step_log.read_blocks(f"{directory}/train"))
    return dict(
        topology=topology,
        schedule=schedule,
        seed=seed,
        epochs=plan.epochs,
        image_size=plan.image_size,
        power=power,
        **_others(learning_rate, transition),
        accuracy=metrics["accuracy"],
        warm_seconds=sum(phase.warm_seconds for phase in phases),
        trace_seconds=sum(phase.trace_seconds for phase in phases),
        phases=[dataclasses.asdict(phase) for phase in phases],
    )


def _others(learning_rate, transition):
    """Fields of a row that differ from the recipe; rows of the recipe have none of them."""
    fields = dict(learning_rate=learning_rate, transition=transition)
    return {name: value for name, value in fields.items() if value is not None}


@click.command()
@click.option("--topology", default=None, help="Default: that of the YAML.")
@click.option("--seeds", default="0,1,2")
@click.option("--schedules", default="published,none")
@click.option("--epochs", default=80)
@click.option("--image-size", default=32)
@click.option("--power", type=float)
@click.option("--learning-rate", type=float, help="Peak; default: the recipe's.")
@click.option("--transition", type=float, help="Share of the steps; default: the recipe's.")
@click.option("--one", is_flag=True, hidden=True)
def main(topology, seeds, schedules, epochs, image_size, power, learning_rate, transition, one):
    if topology is None:
        import yaml

        recipe = yaml.safe_load(Path("official_configs/digits_asvit_i32_cpu.yaml").read_text())
        topology = recipe["task"]["model"]["backbone"]["asvit"]["topology"]
    if one:
        row = train_one(topology, int(seeds), schedules, epochs, image_size, power, learning_rate, transition)
        RESULTS.parent.mkdir(exist_ok=True)
        with open(RESULTS, "a") as file:
            file.write(json.dumps(row) + "\n")
        return

    def rows():
        lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
        fields = dict(topology=topology, epochs=epochs, image_size=image_size, power=power)
        others = _others(learning_rate, transition)
        return [
            row
            for row in map(json.loads, lines)
            if fields.items() <= row.items() and _others(row.get("learning_rate"), row.get("transition")) == others
        ]

    names, numbers = schedules.split(","), [int(seed) for seed in seeds.split(",")]
    for seed, schedule in itertools.product(numbers, names):
        if not any(row["seed"] == seed and row["schedule"] == schedule for row in rows()):
            arguments = ["--one", "--topology", topology, "--seeds", str(seed), "--schedules", schedule]
            arguments += ["--epochs", str(epochs), "--image-size", str(image_size)]
            chosen = dict(power=power, **_others(learning_rate, transition))
            arguments += [f"--{key.replace('_', '-')}={value}" for key, value in chosen.items() if value is not None]
            subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=sys.stderr)
    for schedule in names:
        chosen = [row for row in rows() if row["schedule"] == schedule and row["seed"] in numbers]
        accuracies = [row["accuracy"] for row in chosen]
        print(
            f"{schedule:<10} mean accuracy {statistics.fmean(accuracies):.4f}  "
            f"({', '.join(f'{accuracy:.4f}' for accuracy in accuracies)})  "
            f"warm {statistics.fmean(row['warm_seconds'] for row in chosen):.0f} s  "
            f"tracing {statistics.fmean(row['trace_seconds'] for row in chosen):.0f} s"
        )


if __name__ == "__main__":
    main()
