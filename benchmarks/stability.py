"""How often does a training lose what it learned? The real trainer over data, topologies, schedules, rates and recipes.

    python benchmarks/stability.py --save_dir DIR --table recipes [--cells CELLS] [--cifar CIFAR] [--workers 2]

    python benchmarks/stability.py --save_dir DIR --table photographs --cifar10 CIFAR10 --workers 1 --threads 2

A table is a list of trainings; each runs once for every recipe of the table, with a seed of its own that the recipes
share. `CELLS` is what benchmarks/blood_cells.py wrote, `CIFAR10` holds CIFAR-10 as `train/CLASS/*.jpg` and
`val/CLASS/*.jpg`, `CIFAR` the first 500 and 100 files of every class of it. Rows go to
benchmarks/results/stability.jsonl (or --results) as they are finished; started again, it continues. A training that
returns to guessing is stopped there, because nothing sets it back (`guard.max_rollbacks` is 0 here).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import tqdm

RESULTS = Path(__file__).parent / "results" / "stability.jsonl"
DATA = ("cells", "digits", "cluttered_digits", "cifar", "cifar10")
# Searched and grown by `asvit run` on the blood cells (seeds 8, 0, 1), the digits' recipe, and one with wide heads.
TOPOLOGIES = {
    "cells8": "6,2,5,1|3,4,3,2|4,1,4,2|3,1,2,1|32,24",
    "digits": "7,2,3,2|4,2,5,1|3,2,4,2|3,1,3,1|64,24",
    "wide": "4,2,3,1|3,1,4,1|3,1,4,2|3,1,4,1|8,32",
}

_OPTIMIZER = "trainer.optimizer_config.optimizer.adamw"
_CLIPPED = f"{_OPTIMIZER}.global_clipnorm"
_RATE = "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate"
_GRADUAL = "task.retokenization.transition"
# Overrides of the shipped recipe. "published" is the form before: gradients not clipped, tokens changed at once, a rate
# of 0.003 (the shipped one is 0.001).
_PUBLISHED = {_CLIPPED: None, _GRADUAL: 0, _RATE: 0.003}
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "published": _PUBLISHED,
    "clipped": {**_PUBLISHED, _CLIPPED: 1.0},
    "clipped at 0.3": {**_PUBLISHED, _CLIPPED: 0.3},
    "clipped at 0.1": {**_PUBLISHED, _CLIPPED: 0.1},
    "clipped, gradual": {_RATE: 0.003},
    "clipped, gradual, rate 0.0015": {_RATE: 0.0015},
    "clipped, rate 0.001": {_GRADUAL: 0},
    "clipped at 0.3, rate 0.0015": {_CLIPPED: 0.3, _GRADUAL: 0, _RATE: 0.0015},
    "rate 0.001": {_CLIPPED: None, _GRADUAL: 0},
    "beta_2 0.99": {**_PUBLISHED, f"{_OPTIMIZER}.beta_2": 0.99},
    "beta_2 0.95": {**_PUBLISHED, f"{_OPTIMIZER}.beta_2": 0.95},
    "epsilon 1e-5": {**_PUBLISHED, f"{_OPTIMIZER}.epsilon": 1e-5},
    "warm-up x 4": {**_PUBLISHED, "warmup": 4},
    "no decay": {**_PUBLISHED, f"{_OPTIMIZER}.weight_decay_rate": 0.0},
    "no augmentation": {**_PUBLISHED, "task.train_data.aug_type": None},
    "long gradual": {_GRADUAL: 0.15},
    "proportional dilation": {_GRADUAL: 0, "dilation": "proportional"},
    "proportional dilation, gradual": {"dilation": "proportional"},
    "no change": {"task.retokenization.preset": "none"},
}


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of a table.

    Attributes:
      data: One of `DATA`.
      topology: A name of `TOPOLOGIES`, or a topology.
      preset: Of the schedule; or "stride S": the stem has that stride from the first step to the last.
      epochs: That the learning rate is planned over.
      stop: Epochs trained.
      batch_size: Images.
      rate: Times the recipe's peak learning rate.
      warmup: Times the recipe's warm-up.
      seed: Of weights and data.
      image_size: Pixels a side that images are enlarged to.
    """

    data: str
    topology: str
    preset: str
    epochs: int
    stop: int
    batch_size: int = 32
    rate: float = 1.0
    warmup: float = 1.0
    seed: int = 0
    image_size: int = 32


def coarse() -> Iterator[Training]:
    """The first 15 of 80 epochs on blood cells, all at stride 16: where trainings were lost."""
    for seed in range(4):
        yield Training("cells", "cells8", "stride 16", 80, 15, seed=seed)


# Epochs of about 700 steps, and images in a batch.
_SHORT = {"cells": (16, 32), "digits": (16, 32), "cluttered_digits": (6, 64), "cifar": (9, 64)}


def wide() -> Iterator[Training]:
    """Every kind of data, topology and schedule at one, two and four times the learning rate, and short warm-ups."""
    seed = 0
    for data, (epochs, batch_size) in _SHORT.items():
        for topology in TOPOLOGIES:
            for preset in ("published", "thirds"):
                for rate, warmup in ((1, 1), (1, 0.2), (2, 1), (4, 1)):
                    seed += 1
                    yield Training(data, topology, preset, epochs, epochs, batch_size, rate, warmup, seed)
    for seed in range(8):
        for data in ("cells", "digits"):
            yield Training(data, "cells8", "thirds", 30, 30, seed=seed)


def switch() -> Iterator[Training]:
    """What a change of tokens costs, by how it is made."""
    for seed in range(2):
        for data, topology, preset in (("cells", "cells8", "thirds"), ("cifar", "wide", "thirds")):
            epochs, batch_size = _SHORT[data]
            yield Training(data, topology, preset, 2 * epochs, 2 * epochs, batch_size, seed=seed)


def harsh() -> Iterator[Training]:
    """Where clipping alone does not do."""
    for seed in range(4):
        yield Training("cells", "cells8", "stride 16", 32, 10, seed=seed)


def rates() -> Iterator[Training]:
    """What a lower peak of the learning rate does to the accuracy."""
    for seed in range(2):
        yield Training("digits", "digits", "published", 80, 80, seed=seed)
        yield Training("cells", "cells8", "thirds", 32, 32, seed=seed)
        yield Training("cifar", "wide", "thirds", 18, 18, 64, seed=seed)


def photographs() -> Iterator[Training]:
    """All of CIFAR-10: what re-tokenization costs and saves."""
    for epochs in (5, 15):
        for preset in ("none", "published", "thirds"):
            yield Training("cifar10", "wide", preset, epochs, epochs, batch_size=128)


def enlarged() -> Iterator[Training]:
    """The same, enlarged to 64 x 64: tokens as at half the strides, and room for all three phases."""
    for preset in ("none", "published"):
        yield Training("cifar10", "wide", preset, 15, 15, batch_size=128, image_size=64)


_ALONE = ["published", "clipped", "rate 0.001", "beta_2 0.99", "beta_2 0.95", "epsilon 1e-5", "warm-up x 4"]
_CLIPS = ["clipped", "clipped at 0.3", "clipped at 0.1", "clipped, rate 0.001", "clipped at 0.3, rate 0.0015"]
_RATES = ["clipped", "clipped, gradual", "clipped, gradual, rate 0.0015", "default", "clipped, rate 0.001"]
_CHANGES = ["clipped, rate 0.001", "default", "long gradual", "proportional dilation", "proportional dilation, gradual"]
TABLES = {
    "coarse": (coarse, [*_ALONE, "no decay", "no augmentation"]),
    "harsh": (harsh, _CLIPS),
    "rates": (rates, _RATES),
    "switch": (switch, [*_CHANGES, "no change"]),
    "wide": (wide, ["default", "published"]),
    "photographs": (photographs, ["default", "published"]),
    "enlarged": (enlarged, ["default"]),
}


def experiment(training: Training, recipe: dict[str, Any], dataset: Any, seed: int) -> Any:
    """The shipped recipe of `asvit run` with the training's settings and the recipe's overrides."""
    from asvit_tf.design.retokenization import Tokenization
    from asvit_tf.design.topology import Topology
    from asvit_tf.tasks import classification, schedules

    topology = Topology.parse(TOPOLOGIES.get(training.topology, training.topology))
    stride = training.preset.removeprefix("stride ")
    preset = training.preset if stride == training.preset else "none"
    plan = classification.Plan(training.image_size, seed, training.epochs, training.batch_size, preset)
    params = classification.classifier(plan, dataset, topology)
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

    from asvit_tf import traces
    from asvit_tf.dataloaders import classification as data
    from asvit_tf.errors import DivergedError
    from asvit_tf.training import guard, step_log
    from asvit_tf.training import run as train

    dataset = data.Dataset.load(Path(directory))
    params = experiment(training, RECIPES[recipe], dataset, seed)
    start, stopped, metrics = time.perf_counter(), None, {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        traces.forgotten(),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            metrics = train.run(params, scratch, "train_and_eval")
        except DivergedError as error:
            stopped = str(error).split(";")[0]
        finally:
            tf_keras.backend.clear_session()
        blocks = step_log.read_blocks(scratch)
        seen = guard.observations(blocks, params.trainer.steps_per_loop)
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
