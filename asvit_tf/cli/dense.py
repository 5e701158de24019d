"""The commands detect-run and segment-run."""

from __future__ import annotations

import importlib
import os
import time
from typing import Any

import click

from asvit_tf.cli.console import AS_JSON, Choice, only_result_on_stdout, print_json, quiet_tensorflow
from asvit_tf.cli.options import HARDWARE_OF_RUN, LABELS, TPU, ImageSize, PathName, together
from asvit_tf.hardware import choice
from asvit_tf.journals import workspace
from search.dense.settings import MODELS, TOPOLOGY, DenseSettings, DetectionSettings, SegmentationSettings

_OF_THE_TRAINING = together(
    click.option("--topology", help=f"Topology of the backbone.  [default: {TOPOLOGY}]"),
    click.option(
        "--init-checkpoint",
        type=PathName(),
        help="Start from the backbone of this run or training, and keep its topology.",
    ),
    click.option("--image-size", type=ImageSize(), help="Size of the network's input.  [default: by the images]"),
    click.option("--epochs", type=int, help="Number of training epochs.  [default: by the images, at least 12]"),
    click.option("--batch-size", type=int, help="Images in a training step.  [default: 8 on a CPU, else 16]"),
    click.option("--seed", default=DetectionSettings.seed, show_default=True, help="Seed of weights and training."),
    click.option(
        "--params-override",
        multiple=True,
        metavar="A.B=C,...",
        help="Fields of the training, applied last; YAML or a file will do, too. May be repeated.",
    ),
)


@click.command("detect-run")
@click.argument("folder", type=PathName())
@click.option("--output", required=True, type=PathName(), help="Directory for everything; continued if it exists.")
@click.option(
    "--model",
    default=DetectionSettings.model,
    show_default=True,
    type=Choice(list(MODELS)),
    help="RetinaNet, for boxes; or Cascade Mask R-CNN, for boxes and, where FOLDER has them, masks.",
)
@click.option("--train", "train_name", help="Split to train on, such as train2017.  [default: the one named train...]")
@click.option(
    "--validation",
    "validation_name",
    help="Split to evaluate on.  [default: the one named val...; of a single file a fifth]",
)
@_OF_THE_TRAINING
@click.option("--skip-missing", is_flag=True, help="Leave images out that are missing, instead of refusing.")
@click.option(
    "--skip-invalid", is_flag=True, help="Leave images and annotations out that cannot be read, instead of refusing."
)
@HARDWARE_OF_RUN
@TPU
@AS_JSON
def detect_run(folder: str, output: str, hardware: str, tpu: str | None, as_json: bool, **options: Any) -> None:
    """Trains a detector on FOLDER, laid out as COCO is: prepare, train, evaluate, export, report.

    Input size, anchors, batch, steps and learning rate follow from the data. The same command continues a killed run.
    """
    started = time.monotonic()
    if options["init_checkpoint"] is not None:
        options["init_checkpoint"] = os.path.abspath(options["init_checkpoint"])
    settings = DetectionSettings(data_path=os.path.abspath(folder), **options)
    result = _run("detecting", settings, output, hardware, tpu)
    if as_json:
        print_json(result)
        return
    click.echo(f"{MODELS[settings.model]} with {result['topology']}  ({result['parameters']:,} parameters)")
    for name, found in result["by_class"].items():
        click.echo(
            f"  {name:<20}{found['objects']:>6} objects  AP {_number(found['AP'])}  AP50 {_number(found['AP50'])}"
        )
    masks = f"  masks: AP {_number(result['mask_AP'])}" if "mask_AP" in result else ""
    click.echo(
        f"AP          {_number(result['AP'])}  (AP50 {_number(result['AP50'])}){masks}\n"
        f"saved model {result['saved_model']}\n"
        f"report      {result['report']}\n"
        f"seconds     {time.monotonic() - started:.0f}"
    )


@click.command("segment-run")
@click.argument("images", type=PathName())
@click.argument("masks", type=PathName())
@click.option("--output", required=True, type=PathName(), help="Directory for everything; continued if it exists.")
@LABELS
@_OF_THE_TRAINING
@HARDWARE_OF_RUN
@TPU
@AS_JSON
def segment_run(output: str, hardware: str, tpu: str | None, as_json: bool, **options: Any) -> None:
    """Trains a segmenter on IMAGES and their label pictures in MASKS: prepare, train, evaluate, export, report.

    What is in the folders: see asvit prepare-segmentation. Input size, batch, steps and learning rate follow from the
    data. The same command continues a killed run.
    """
    started = time.monotonic()
    for name in ("images", "masks", "classes", "splits", "init_checkpoint"):
        if options[name] is not None:
            options[name] = os.path.abspath(options[name])
    settings = SegmentationSettings(**options)
    result = _run("segmenting", settings, output, hardware, tpu)
    if as_json:
        print_json(result)
        return
    click.echo(f"segmentation with {result['topology']}  ({result['parameters']:,} parameters)")
    for name, found in result["by_class"].items():
        click.echo(f"  {name:<24}IoU {_number(found)}")
    tested = result["test_mean_iou"]
    click.echo(
        f"mean IoU    {_number(result['mean_iou'])}  (pixel accuracy {_number(result['pixel_accuracy'])})\n"
        + ("" if tested is None else f"test        {_number(tested)}  (on the test split, as the classes above)\n")
        + f"saved model {result['saved_model']}\n"
        f"report      {result['report']}\n"
        f"seconds     {time.monotonic() - started:.0f}"
    )


def _run(kind: str, settings: DenseSettings, output: str, hardware: str, tpu: str | None) -> dict[str, Any]:
    """What a module of `search.dense` runs in a directory, on the devices that are asked for."""
    choice.check(hardware, tpu)
    with workspace(output, settings.identity(), changeable=settings.changeable) as directory, only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf.doctor import devices

        chosen = devices.take(hardware, tpu)
        module = importlib.import_module(f"search.dense.{kind}")
        return module.run(directory, settings, lambda line: click.echo(line, err=True), chosen)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
