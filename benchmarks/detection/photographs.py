"""`asvit detect-run` and `asvit segment-run` on photographs, beside networks of others on the same data and seconds.

    python benchmarks/detection/photographs.py boxes --data BCCD --save_dir DIR [--arm asvit --arm "resnet, speed" ...]
    python benchmarks/detection/photographs.py classes --data CAMVID --save_dir DIR

`BCCD` is laid out as COCO is; `CAMVID` holds images/ and masks/ with train, val and test, label 11 ignored. Every arm
is the public command in a process of its own. `asvit` (boxes: three seeds) and `cascade` are the commands without a
flag but the seed; `released` begins its linear maps as the released code does. `mobilenet` and `resnet` are the Model
Garden's MobileNetV2 and ResNet-50 as the backbone of the same detector, from scratch, by the same recipe; `deeplab` is
its DeepLabV3 on MobileNetV2. Each of these trains twice: for the epochs of `asvit`, and for as many as take its
seconds. The seconds of a step are of short trainings of their own, `speed`, one after another: for these nothing else
should run; the others may share the machine. Rows go to benchmarks/results/dense.jsonl (or --results); started again,
it continues, and a killed arm goes on where it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

RESULTS = Path(__file__).parents[1] / "results" / "dense.jsonl"
_BACKBONE = "task.model.backbone.type={0}"
_RELEASED = "task.model.backbone.asvit.initialization=released"
# Name: flags, and fields of the training.
BOXES: dict[str, tuple[list[str], list[str]]] = {
    "asvit, seed 0": (["--seed", "0"], []),
    "released, seed 0": (["--seed", "0"], [_RELEASED]),
    "asvit, seed 1": (["--seed", "1"], []),
    "asvit, seed 2": (["--seed", "2"], []),
    "cascade": (["--model", "cascade"], []),
}
BOX_PEERS = {
    "mobilenet": [_BACKBONE.format("mobilenet"), "task.model.backbone.mobilenet.model_id=MobileNetV2"],
    "resnet": [_BACKBONE.format("resnet"), "task.model.backbone.resnet.model_id=50"],
}
SPEED_EPOCHS = 3  # Of which the first is traced.
CLASSES: dict[str, tuple[list[str], list[str]]] = {
    "asvit, seed 0": (["--seed", "0"], []),
    "released, seed 0": (["--seed", "0"], [_RELEASED]),
}
CLASS_PEERS = {
    "deeplab": [
        _BACKBONE.format("mobilenet"),
        "task.model.backbone.mobilenet.model_id=MobileNetV2",
        "task.model.backbone.mobilenet.output_stride=16",
        "task.model.decoder.type=aspp",
        "task.model.decoder.aspp.level=4",
        "task.model.decoder.aspp.dilation_rates=[6,12,18]",
        "task.model.decoder.aspp.num_filters=64",
        "task.model.head.feature_fusion=null",
        "task.model.head.level=4",
    ],
}


def command_of(kind: str, data: Path, output: Path, flags: list[str], fields: list[str]) -> list[str]:
    """The public command."""
    task = ["detect-run", str(data)] if kind == "boxes" else ["segment-run", str(data / "images"), str(data / "masks")]
    ignored = [] if kind == "boxes" else ["--ignored", "11"]
    overrides = [f"--params-override={field}" for field in fields]
    return [
        sys.executable,
        "-m",
        "asvit_tf.cli",
        *task,
        "--output",
        str(output),
        *ignored,
        *flags,
        *overrides,
        "--json",
    ]


def trained(output: Path) -> dict[str, float]:
    """Epochs, steps, and seconds of the training of a run, tracing left out where it has more than one epoch."""
    from asvit_tf.training import step_log

    # A block is an epoch here.
    blocks = step_log.read_blocks(output / "train")
    warm = [block for block in blocks if not block["traced"]] or blocks
    steps = blocks[-1]["step"]
    of_a_step = sum(block["seconds"] for block in warm) / sum(block["steps"] for block in warm)
    return dict(steps=steps, epochs=len(blocks), step_seconds=of_a_step, training_seconds=steps * of_a_step)


def run(kind: str, name: str, data: Path, output: Path, flags: list[str], fields: list[str]) -> dict[str, Any]:
    """The row of an arm."""
    start = time.perf_counter()
    command = command_of(kind, data, output, flags, fields)
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    if finished.returncode:
        sys.exit(f"{name}: status {finished.returncode}")
    result = json.loads(finished.stdout.splitlines()[-1])
    kept = (
        "AP",
        "AP50",
        "mask_AP",
        "mask_AP50",
        "mean_iou",
        "test_mean_iou",
        "pixel_accuracy",
        "by_class",
        "parameters",
    )
    return dict(
        kind=kind,
        arm=name,
        **{key: result[key] for key in kept if key in result},
        input_size=result["input_size"],
        whole_seconds=time.perf_counter() - start,
        **trained(output),
    )


@click.command()
@click.argument("kind", type=click.Choice(["boxes", "classes"]))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--save_dir", required=True, type=click.Path(path_type=Path))
@click.option("--arm", "arms", multiple=True, help="Arms that begin so; may be repeated.  [default: all]")
@click.option("--epochs", type=int, help="Of the package's arms, instead of what fits the data.")
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
def main(kind: str, data: Path, save_dir: Path, arms: tuple[str, ...], epochs: int | None, results: Path) -> None:
    from asvit_tf.journals import Journal

    own, peers = (BOXES, BOX_PEERS) if kind == "boxes" else (CLASSES, CLASS_PEERS)
    journal = Journal(results)

    def wanted(name: str) -> bool:
        chosen = not arms or name.startswith(arms)
        return chosen and not any((row["kind"], row["arm"]) == (kind, name) for row in journal.rows)

    def directory(name: str) -> Path:
        return save_dir / kind / name.replace(", ", "_").replace(" ", "_")

    def add(name: str, flags: list[str], fields: list[str]) -> None:
        journal.append(run(kind, name, data, directory(name), flags, fields))
        print(json.dumps(journal.rows[-1]), flush=True)

    def row(name: str) -> dict[str, Any]:
        return next(row for row in journal.rows if (row["kind"], row["arm"]) == (kind, name))

    directory("").mkdir(parents=True, exist_ok=True)
    for name, (flags, fields) in own.items():
        if wanted(name):
            add(name, [*flags, *([] if epochs is None else ["--epochs", str(epochs)])], fields)

    seed = ["--seed", "0"]
    for name, fields in {"asvit": [], **peers}.items():
        if wanted(f"{name}, speed"):
            add(f"{name}, speed", [*seed, "--epochs", str(SPEED_EPOCHS)], fields)
    for peer, fields in peers.items():
        if wanted(f"{peer}, epochs"):
            add(f"{peer}, epochs", [*seed, "--epochs", str(row("asvit, seed 0")["epochs"])], fields)
        if wanted(f"{peer}, seconds"):
            as_fast = row("asvit, speed")["step_seconds"] / row(f"{peer}, speed")["step_seconds"]
            epochs_as_long = max(1, round(row("asvit, seed 0")["epochs"] * as_fast))
            add(f"{peer}, seconds", [*seed, "--epochs", str(epochs_as_long)], fields)


if __name__ == "__main__":
    main()
