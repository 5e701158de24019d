"""How often does a training lose what it learned? The real trainer over data, topologies, schedules, rates and recipes.

    python benchmarks/training/stability.py --save_dir DIR --table recipes [--cells CELLS] [--cifar CIFAR] [--workers 2]

    python benchmarks/training/stability.py --save_dir DIR --table photographs --cifar10 CIFAR10 --workers 1 --threads 2

A table is a list of trainings; each runs once for every recipe of the table, with a seed of its own that the recipes
share. `CELLS` is what benchmarks/training/blood_cells.py wrote, `CIFAR10` holds CIFAR-10 as `train/CLASS/*.jpg` and
`val/CLASS/*.jpg`, `CIFAR` the first 500 and 100 files of every class of it. Rows go to
benchmarks/results/stability.jsonl (or --results) as they are finished; started again, it continues. A training that
returns to guessing is stopped there, because nothing sets it back (`guard.max_rollbacks` is 0 here).
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import tqdm
from silence import thrown_away
from stability_tables import RECIPES, TABLES, TOPOLOGIES, Training

RESULTS = Path(__file__).parents[1] / "results" / "stability.jsonl"


def experiment(training: Training, recipe: dict[str, Any], dataset: Any, seed: int) -> Any:
    """The shipped recipe of `asvit run` with the training's settings and the recipe's overrides."""
    from asvit_tf.design.retokenization import Tokenization
    from asvit_tf.design.topology import Topology
    from asvit_tf.tasks import plans, schedules

    topology = Topology.parse(TOPOLOGIES.get(training.topology, training.topology))
    stride = training.preset.removeprefix("stride ")
    preset = training.preset if stride == training.preset else "none"
    plan = plans.Plan((training.image_size,) * 2, seed, training.epochs, training.batch_size, preset)
    params = plans.classifier(plan, dataset, topology)
    recipe = dict(recipe)
    warmup, proportional = recipe.pop("warmup", 1.0), recipe.pop("dilation", None)
    for name, value in recipe.items():
        *path, last = name.split(".")
        config = params
        for part in path:
            config = getattr(config, part)
        config.override({last: value})
    optimizer = params.trainer.optimizer_config
    optimizer.learning_rate.cosine.initial_learning_rate *= training.rate
    optimizer.warmup.linear.warmup_steps = round(optimizer.warmup.linear.warmup_steps * warmup * training.warmup)
    epoch_steps = params.trainer.steps_per_loop
    steps = training.stop * epoch_steps
    if preset == "none" and stride != "none":
        tokenization = Tokenization.auto(int(stride), topology.stages[0].kernel_size)
        params.task.retokenization.override({"phases": [dataclasses.asdict(tokenization)]})
        params.task.model.backbone.asvit.override(dataclasses.asdict(tokenization))
    if proportional:
        phases = schedules.schedule_of(params).phases
        params.task.retokenization.phases = [
            schedules.RetokenizationPhase(
                until_step=phase.until, stride=phase.tokenization.stride, dilation=phase.tokenization.stride // 4
            )
            for phase in phases
        ]
    params.task.guard.max_rollbacks = 0
    params.trainer.override(
        {"train_steps": steps, "validation_interval": steps, "checkpoint_interval": steps, "max_to_keep": 1}
    )
    return params


def run(training: Training, recipe: str, seed: int, directory: str) -> dict[str, Any]:
    """The row of one training; runs in a worker process."""
    import tf_keras

    from asvit_tf.dataloaders import classification as data
    from asvit_tf.errors import DivergedError
    from asvit_tf.training import run as train
    from asvit_tf.training import step_log, verdicts

    dataset = data.Dataset.load(Path(directory))
    params = experiment(training, RECIPES[recipe], dataset, seed)
    start, stopped, metrics = time.perf_counter(), None, {}
    with thrown_away() as scratch:
        try:
            metrics = train.run(params, scratch, "train_and_eval")
        except DivergedError as error:
            stopped = str(error).split(";")[0]
        finally:
            tf_keras.backend.clear_session()
        blocks = step_log.read_blocks(scratch)
        seen = verdicts.observations(blocks, params.trainer.steps_per_loop, params.trainer.train_steps)
    return dict(
        **dataclasses.asdict(training) | {"seed": seed},
        recipe=recipe,
        guessing_loss=seen[-1].guessing,
        training_seconds=round(sum(row["seconds"] for row in blocks), 1),
        losses=[round(epoch.loss, 4) for epoch in seen],
        returned=returned([epoch.ratio for epoch in seen]),
        changes=changes(seen, [row["phase"] for row in blocks if row["step"] % params.trainer.steps_per_loop == 0]),
        stopped=stopped,
        accuracy=metrics.get("accuracy"),
        balanced_accuracy=metrics.get("balanced_accuracy"),
        seconds=round(time.perf_counter() - start, 1),
    )


def returned(ratios: list[float]) -> int:
    """Epochs at the loss of guessing after one below 0.9 of it."""
    learned = next((i for i, ratio in enumerate(ratios) if ratio < 0.9), len(ratios))
    return sum(not ratio < 0.97 for ratio in ratios[learned:])


def changes(seen: list[Any], phases: list[int]) -> list[float]:
    """Loss in the first epoch of each phase but the first over that in the last before it."""
    return [
        round(seen[i].loss / seen[i - 1].loss, 3)
        for i in range(1, min(len(seen), len(phases)))
        if phases[i] != phases[i - 1]
    ]


def summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each recipe and kind of training."""
    kinds: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["recipe"], row["data"], row["preset"]), []).append(row)
    for (recipe, data, preset), members in sorted(kinds.items()):
        lost = sum(row["returned"] > 0 or row["stopped"] is not None for row in members)
        worst = max((change for row in members for change in row["changes"]), default=math.nan)
        known = [row["accuracy"] for row in members if row["accuracy"] is not None]
        mean = statistics.fmean(known) if known else math.nan
        last = statistics.fmean(row["losses"][-1] for row in members)
        yield (
            f"{recipe:<16}{data:<18}{preset:<11} back at guessing {lost:>3} of {len(members):<4} "
            f"worst change {worst:5.2f}  accuracy {mean:.4f}  last loss {last:.3f}"
        )


@click.command()
@click.option("--save_dir", required=True, type=click.Path(), help="Holds the prepared data.")
@click.option("--table", required=True, type=click.Choice(list(TABLES)))
@click.option("--recipes", help="Names separated by commas, instead of the table's.")
@click.option("--cells", type=click.Path(), help="Blood cells; needed where the table has them.")
@click.option("--cifar", type=click.Path(), help="Some of CIFAR-10; likewise.")
@click.option("--cifar10", type=click.Path(), help="All of it; likewise.")
@click.option("--results", default=str(RESULTS), show_default=True, type=click.Path())
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Of each worker.")
def main(save_dir, table, recipes, results, workers, threads, **sources):
    from asvit_tf.dataloaders import classification as data
    from asvit_tf.journals import Journal
    from search.runs.search_settings import WorkerSettings
    from search.runs.workers import Pool

    trainings, names = TABLES[table]
    names = recipes.split(",") if recipes else names
    directories = {}
    for name in sorted({training.data for training in trainings()}):
        directory = Path(save_dir).resolve() / name
        embedded = {} if name in sources else {"embedded": name}
        data.prepare(directory, sources.get(name), progress=True, **embedded)
        directories[name] = str(directory)
    journal = Journal(Path(results))
    fields = dataclasses.fields(Training)
    done = {(row["recipe"], *(row.get(field.name, field.default) for field in fields)) for row in journal.rows}
    calls = [
        (training, recipe, training.seed, directories[training.data])
        for training in trainings()
        for recipe in names
        if (recipe, *dataclasses.astuple(training)) not in done
    ]
    for row in tqdm.tqdm(Pool(WorkerSettings(workers, threads)).map(run, calls), total=len(calls)):
        journal.append({**row, "table": table})
    print("\n".join(summary([row for row in journal.rows if row["table"] == table])))


if __name__ == "__main__":
    main()
