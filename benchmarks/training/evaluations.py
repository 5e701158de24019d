"""What choosing the best network costs: processor seconds of epochs, evaluations, checkpoints.

    python benchmarks/training/evaluations.py

The network and the recipe of official_configs/digits_asvit_i32_cpu.yaml for six epochs at all tokens, evaluated after
each. A line of JSON: medians without the first, which traces; and accuracy by step, with the step of the best network.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from asvit_tf.dataloaders import classification as data
from asvit_tf.design.topology import Topology
from asvit_tf.tasks import plans
from asvit_tf.training import run as train
from asvit_tf.training.saving import best
from asvit_tf.training.trainer import RetokenizingTrainer

EPOCHS = 6


def timed(seconds: list[float], work: Callable) -> Callable:
    """The same work; its processor seconds are added to the list."""

    def measured(*args, **kwargs):
        start = time.process_time()
        result = work(*args, **kwargs)
        seconds.append(time.process_time() - start)
        return result

    return measured


def main() -> None:
    seconds: dict[str, list[float]] = dict(epoch=[], evaluation=[], saving=[])
    RetokenizingTrainer.train = timed(seconds["epoch"], RetokenizingTrainer.train)
    RetokenizingTrainer.evaluate = timed(seconds["evaluation"], RetokenizingTrainer.evaluate)
    best.SoundCheckpoints.save = timed(seconds["saving"], best.SoundCheckpoints.save)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = data.prepare(Path(scratch) / "data")
        plan = plans.Plan(image_size=(32, 32), seed=0, epochs=EPOCHS, batch_size=32)
        topology = Topology.parse("7,2,3,2|4,2,5,1|3,2,4,2|3,1,3,1|64,24")
        params = plans.classifier(plan, dataset, topology)
        train.run(params, f"{scratch}/train", "train_and_eval", keeps_best=True)
        row = dict(
            processor_seconds={name: round(statistics.median(each[1:]), 2) for name, each in seconds.items()},
            accuracy={step: round(value, 4) for step, value in train.read_evaluations(f"{scratch}/train")},
            best_step=best.read(f"{scratch}/train").step,
        )
    print(json.dumps(row))


if __name__ == "__main__":
    main()
