"""What does `asvit run` design for photographs, beside networks of others, at equal training seconds?

    python benchmarks/training/photographs.py --data CIFAR10 --save_dir DIR [--seconds 600] [--arms designed,resnet20]
        [--change before]
    python benchmarks/training/photographs.py --data CIFAR10 --save_dir DIR --table schedules --arms hour [--epochs 8]
    python benchmarks/training/photographs.py --data CIFAR10 --save_dir DIR --table recipes --seconds 300
    TF_NUM_INTRAOP_THREADS=1 python benchmarks/training/photographs.py ... --arms designed
    taskset -c 0 python benchmarks/training/photographs.py ... --arms "random 0" --results DIR/0.jsonl

`CIFAR10` holds the images as `train/CLASS/*` and `val/CLASS/*`. Table `networks`: the designed network, five random
topologies of the same space, peers (see `photograph_peers.py`) at like multiply-accumulates, and networks that are
`GIVEN`: that of an hour's run, and two written by hand for the speed of a CPU, one and two heads of 32 channels in the
first stage; all by the recipe of photographs. A few steps measure each arm's speed, from which its epochs follow;
evaluations and tracing do not count; with `--epochs` all have as many. Table `schedules`: a network without
re-tokenization, with `published` and with `thirds`, at equal seconds and at equal epochs, two seeds. Table `recipes`:
the designed network by the recipe of before its linear maps began by their fan-in, and by changes of it (`CHANGES`).
Arms run in turn in this process, and nothing else should run, or each arm on a core of its own. Rows go to
benchmarks/results/photographs.jsonl (or --results); started again, it continues.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np
from silence import thrown_away

RESULTS = Path(__file__).parents[1] / "results" / "photographs.jsonl"
PEERS = ("vit", "mobilenet", "resnet20")
RANDOM = 5
SIZE, BUDGET = 32, 1.0
_SCHEDULED_EPOCHS = 8
BASE_STRIDE = 4  # As `asvit run --hours` chooses it where training has minutes.
RECIPE = "recipe"  # A preset that the recipe of photographs chooses by the epochs.
# Name: topology and base stride.
GIVEN = {
    "hour": ("7,4,5,1|4,2,5,2|4,1,2,1|4,1,3,1|16,20", 2),
    "fine": ("4,2,3,1|3,1,4,1|3,1,4,2|3,1,4,1|8,32", 2),
    "wide": ("4,1,3,1|3,1,4,2|3,1,4,2|3,1,4,1|16,64", 4),
}
_RELEASED = "task.model.backbone.asvit.initialization=released"
_RATE = "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate"
_CROPS = "task.train_data.crop_area_range"
# Name: fields of the experiment that differ from the recipe.
CHANGES: dict[str, tuple[str, ...]] = {
    "before": (_RELEASED, f"{_CROPS}=[0.65,1.0]"),
    "before, batches of 64": (_RELEASED, f"{_CROPS}=[0.65,1.0]"),
    "before, twice the rate": (_RELEASED, f"{_CROPS}=[0.65,1.0]", f"{_RATE}=0.004"),
    "LeCun": (f"{_CROPS}=[0.65,1.0]",),
    "LeCun, gentle crops": (f"{_CROPS}=[0.9,1.0]",),
}
_BATCHES = {"before, batches of 64": 64}
LIKE = 0.15  # Multiply-accumulates of a random topology may differ by so much.


@dataclasses.dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
      name: Of the network.
      preset: Of re-tokenization, or `RECIPE`.
      seed: Of weights and data.
      seconds: Of training steps; None for `epochs`.
      epochs: The same in epochs.
      change: One of `CHANGES`; None for the recipe as it is.
    """

    name: str
    preset: str
    seed: int
    seconds: float | None
    epochs: int | None = None
    change: str | None = None


def arms_of(
    table: str, names: list[str], seeds: list[int], seconds: float, epochs: int | None, change: str | None = None
) -> list[Arm]:
    """The arms of a table, in the order in which they run."""
    if table == "networks":
        length = (seconds, None) if epochs is None else (None, epochs)
        presets = {name: "none" if name in PEERS else RECIPE for name in names}
        return [Arm(name, preset, seed, *length, change) for seed in seeds for name, preset in presets.items()]
    if table == "recipes":
        return [Arm("designed", RECIPE, 0, seconds, change=change) for change in CHANGES]
    presets = ("none", "published", "thirds")
    return [
        Arm(name, preset, seed, *length)
        for name in names
        for seed in seeds
        for length in ((seconds, None), (None, epochs or _SCHEDULED_EPOCHS))
        for preset in presets
    ]


def design(directory: Path, dataset: Any) -> Any:
    """The topology that `asvit run` finds and grows for these images; it continues like a run."""
    from asvit_tf.design.topology import Topology
    from search.runs import designing
    from search.runs.settings import RunSettings

    settings = RunSettings(data_path=str(directory), image_size=SIZE, budget=BUDGET, base_stride=BASE_STRIDE)
    classes = len(dataset.class_names)
    with designing.scoring(directory, settings, dataset) as scored:
        found = designing.search(directory, settings, scored, classes, 20)
        grown = designing.grow(directory, settings, Topology.parse(found["topology"]), scored, classes, None)
    return Topology.parse(grown["topology"])


def random_topologies(like: Any, classes: int) -> Iterator[Any]:
    """Topologies of the same space, drawn and deepened at random until they have like multiply-accumulates."""
    from search.runs import designing
    from search.runs.settings import RunSettings

    settings = RunSettings(data_path=".", image_size=SIZE, budget=BUDGET, base_stride=BASE_STRIDE)
    space, limits = designing.fitting(settings), designing.limits(settings, classes)
    generator = np.random.default_rng(0)
    aim = limits.count(like).macs
    while True:
        sampled = space.topology_at([int(generator.integers(len(options))) for options in space.choices.values()])
        depths = tuple(int(depth) for depth in generator.integers(1, 4, 4))
        candidate = sampled.scaled(int(generator.integers(16, 41)), depths)
        if min(candidate.head_dims) >= 8 and abs(limits.count(candidate).macs / aim - 1) < LIKE:
            yield candidate


def train(params: Any) -> dict[str, Any]:
    """Trains an experiment for the epochs that fit, or those it has; accuracy, seconds and epochs."""
    import photograph_peers
    import tensorflow as tf
    import tf_keras

    from asvit_tf.training import run as training
    from asvit_tf.training import step_log

    own = hasattr(params.task, "retokenization")
    with thrown_away() as scratch:
        start = time.perf_counter()
        if own:
            metrics = training.run(params, scratch, "train_and_eval")
            blocks = step_log.read_blocks(scratch)
            warm = sum(block["seconds"] for block in blocks if not block["traced"])
        else:
            _, metrics, warm = photograph_peers.trained(params)
        whole = time.perf_counter() - start
    tf_keras.backend.clear_session()
    tf.random.set_seed(0)
    epochs = params.trainer.train_steps // params.trainer.steps_per_loop
    return dict(accuracy=metrics["accuracy"], epochs=epochs, training_seconds=warm, whole_seconds=whole)


def processors() -> dict[str, Any]:
    """Threads inside an operation, None for as many as there are cores, and the cores that this process may use."""
    return dict(threads=os.environ.get("TF_NUM_INTRAOP_THREADS"), cores=len(os.sched_getaffinity(0)))


def row_of(arm: Arm, dataset: Any, topology: Any, classes: int) -> dict[str, Any]:
    """Trains one arm; the topology counts unless that of the arm is `GIVEN`."""
    import photograph_peers

    from asvit_tf.design.topology import Topology
    from asvit_tf.tasks import plans, schedules
    from asvit_tf.training import rehearsal
    from search.runs import designing
    from search.runs.settings import RunSettings

    stride = BASE_STRIDE
    if arm.name in GIVEN:
        text, stride = GIVEN[arm.name]
        topology = Topology.parse(text)
    settings = RunSettings(data_path=".", image_size=SIZE, budget=BUDGET, base_stride=stride)
    preset = None if arm.preset == RECIPE else arm.preset
    plan = plans.Plan(
        settings.size,
        arm.seed,
        arm.epochs,
        _BATCHES.get(arm.change or ""),
        preset,
        base_stride=settings.stride,
        recipe="photographs",
        overrides=CHANGES[arm.change] if arm.change else (),
    )
    macs = designing.limits(settings, classes).count(topology).macs

    def experiment(epochs: int | None) -> Any:
        params = plans.classifier(dataclasses.replace(plan, epochs=epochs), dataset, topology)
        return photograph_peers.experiment(params, arm.name, macs) if arm.name in PEERS else params

    epochs = arm.epochs
    if arm.seconds is not None:
        params = experiment(None)
        steps = params.trainer.steps_per_loop
        if arm.name in PEERS:
            epoch = steps * photograph_peers.step_seconds(params)
        else:
            speed, schedule = rehearsal.rehearse(params, dataset.validation_examples), schedules.schedule_of(params)
            total = params.trainer.train_steps
            epoch = steps * speed.training_seconds(schedule, total) / total
        epochs = max(3, round(arm.seconds / epoch))
    params = experiment(epochs)
    network = arm.name if arm.name in PEERS else str(topology)
    counted = photograph_peers.size(params) if arm.name in PEERS else None
    size = counted or dict(parameters=designing.limits(settings, classes).count(topology).parameters, macs=macs)
    trained = train(params)
    return {
        **dataclasses.asdict(arm),
        **processors(),
        "network": network,
        **size,
        "trained_epochs": trained.pop("epochs"),
        **trained,
    }


@click.command()
@click.option("--data", "data_path", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--save_dir", required=True, type=click.Path(path_type=Path))
@click.option("--table", default="networks", show_default=True, type=click.Choice(["networks", "schedules", "recipes"]))
@click.option("--seconds", default=600.0, show_default=True)
@click.option(
    "--epochs",
    type=int,
    help=f"Of the table schedules ({_SCHEDULED_EPOCHS} if left out); of networks instead of seconds.",
)
@click.option("--arms", help="By name.  [default: all; designed in the table schedules]")
@click.option("--seeds", help="As 0,1.  [default: 0; 0,1 in the table schedules]")
@click.option("--change", type=click.Choice(list(CHANGES)), help="Of the recipe, in the table networks.")
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
def main(
    data_path: Path,
    save_dir: Path,
    table: str,
    seconds: float,
    epochs: int | None,
    arms: str | None,
    seeds: str | None,
    change: str | None,
    results: Path,
) -> None:
    from asvit_tf import registry_imports  # noqa: F401
    from asvit_tf.dataloaders import classification as data
    from asvit_tf.journals import Journal

    save_dir.mkdir(parents=True, exist_ok=True)
    dataset = data.prepare(save_dir / "data", data_path, progress=True)
    classes = len(dataset.class_names)
    designed = design(save_dir, dataset)
    drawn = dict(zip((f"random {i}" for i in range(RANDOM)), random_topologies(designed, classes)))
    everything = ["designed"] if table == "schedules" else ["designed", *PEERS, *drawn, *GIVEN]
    names = arms.split(",") if arms else everything
    drawn_seeds = [int(seed) for seed in (seeds or ("0,1" if table == "schedules" else "0")).split(",")]
    journal = Journal(results)
    here = processors()
    done = [
        tuple(row.get(field.name) for field in dataclasses.fields(Arm))
        for row in journal.rows
        if (row["threads"], row["cores"]) == (here["threads"], here["cores"])
    ]
    for arm in arms_of(table, names, drawn_seeds, seconds, epochs, change):
        if dataclasses.astuple(arm) in done:
            continue
        row = row_of(arm, dataset, drawn.get(arm.name, designed), classes)
        journal.append(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
