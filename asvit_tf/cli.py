"""The front door: `asvit COMMAND`.

Bad input ends with one line on standard error and exit status 2; a classifier that learned nothing, with status 1.
With `--json` standard output holds one JSON object and nothing else. Commands import what they need when they run, so
that `asvit describe` starts without TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from asvit_tf import baselines, console, counting, detection_commands, retokenization, savings
from asvit_tf.console import AS_JSON, only_result_on_stdout, print_json, quiet_tensorflow, setting
from asvit_tf.folders import class_folders
from asvit_tf.topology import Topology
from search import commands, study_command
from search.records import workspace
from search.settings import RunSettings


@click.group()
@click.version_option(package_name="asvit-tf")
def cli() -> None:
    """Vision Transformers searched and grown without training, and trained with progressive re-tokenization."""


for command in (
    *(commands.complexity, commands.search, commands.grow, study_command.study),
    *(detection_commands.prepare_coco, detection_commands.shapes, detection_commands.detect),
):
    cli.add_command(command)


@cli.command()
@click.argument("topology")
@click.option("--image-size", default=224, show_default=True, help="Pixels per side.")
@click.option("--num-classes", default=1000, show_default=True)
@click.option("--position-embedding/--no-position-embedding", default=True, show_default=True)
@click.option(
    "--retokenization",
    "preset",
    type=click.Choice(list(retokenization.PRESETS)),
    default="thirds",
    show_default=True,
    help="Schedule whose phases are counted.",
)
@AS_JSON
def describe(
    topology: str, image_size: int, num_classes: int, position_embedding: bool, preset: str, as_json: bool
) -> None:
    """Shapes, parameters and multiply-accumulates of TOPOLOGY, a topology string or a named size."""
    parsed = Topology.parse(topology)
    size = (image_size, image_size)
    counted = counting.count(parsed, size, num_classes, position_embedding=position_embedding)
    shares = 300  # Epochs, say; the presets divide them.
    schedule = retokenization.Schedule.preset(
        preset, shares, parsed.stages[0].kernel_size, transition=0, image_size=size
    )
    phases = savings.plan(parsed, schedule, shares, size, num_classes, position_embedding=position_embedding)
    result: dict[str, Any] = dict(
        topology=str(parsed),
        image_size=image_size,
        num_classes=num_classes,
        position_embedding=position_embedding,
        parameters=counted.parameters,
        macs=counted.macs,
        stages=[dataclasses.asdict(stage) for stage in counted.stages],
        retokenization=dict(
            preset=preset,
            phases=[
                dict(
                    stride=phase.stride,
                    dilation=phase.dilation,
                    token_grid=phase.token_grid,
                    share_of_steps=phase.steps / shares,
                    macs=phase.macs,
                    share=phase.share,
                )
                for phase in phases
            ],
            saved=savings.planned_saving(phases),
        ),
    )
    if as_json:
        print_json(result)
        return
    click.echo(
        f"{parsed}\n{'stage':<7}{'tokens':<11}{'width':<7}{'depth':<7}{'heads x dim':<13}{'window':<9}"
        f"{'parameters':>12}{'MACs':>16}"
    )
    for number, stage in enumerate(counted.stages, start=1):
        click.echo(
            f"{number:<7}{_by(stage.token_grid):<11}{stage.width:<7}{stage.depth:<7}"
            f"{f'{stage.num_heads} x {stage.head_dim}':<13}{_by(stage.window):<9}"
            f"{stage.parameters:>12,}{stage.macs:>16,}"
        )
    click.echo(f"{'total':<54}{counted.parameters:>12,}{counted.macs:>16,}")
    click.echo(f"\nre-tokenization {preset!r} over {shares} epochs:\n{savings.plan_in_words(phases)}")


def _by(sides: tuple[int, int]) -> str:
    return f"{sides[0]} x {sides[1]}"


_setting = functools.partial(setting, RunSettings)


@cli.command()
@click.option("--output", required=True, type=click.Path(), help="Directory for everything; continued if it exists.")
@click.option(
    "--data-path", type=click.Path(), help="Folder with one subfolder of images per class; digits if left out."
)
@_setting("image-size", "Pixels per side.")
@_setting("seed", "Of search, weights and training.")
@_setting("search-steps", "Topologies that the search samples.")
@_setting("repeats", "Draws of weights that a score averages.")
@_setting("score-batch", "Images in an NTK.")
@_setting("width", "Width that growth starts from.")
@_setting("budget", "Parameters the grown network may have, in millions.")
@_setting("epochs", "Of training.")
@_setting("batch-size", "Of training.")
@_setting("retokenization", "Schedule of stride and dilation.", type=click.Choice(list(retokenization.PRESETS)))
@click.option("--flip/--no-flip", default=RunSettings.flip, show_default=True, help="Mirror training images at random.")
@AS_JSON
def run(output: str, as_json: bool, **options: Any) -> None:
    """The whole path: search, grow, train, evaluate, export, report. Run again, it continues where it was.

    Exit status 1: the network learned nothing; it is not exported.
    """
    start = time.perf_counter()
    if options["data_path"] is not None:
        options["data_path"] = os.path.abspath(options["data_path"])
    settings = RunSettings(**options)
    if settings.data_path is not None and not (Path(output) / "data" / "dataset.json").exists():
        class_folders(Path(settings.data_path))
    with workspace(output, dataclasses.asdict(settings)) as directory, only_result_on_stdout():
        quiet_tensorflow()
        from search import pipeline

        result = pipeline.run(directory, settings, lambda line: click.echo(line, err=True))
    if as_json:
        print_json(result)
    else:
        click.echo(
            f"topology    {result['topology']}\n"
            f"grown       {result['grown']}  ({result['parameters']:,} parameters)\n"
            f"accuracy    {result['accuracy']:.4f}  (majority class {result['majority_share']:.4f}, "
            f"balanced accuracy {result['balanced_accuracy']:.4f})\n"
            f"saved model {result['saved_model'] or 'none'}\n"
            f"report      {result['report']}\n"
            f"seconds     {time.perf_counter() - start:.0f}"
        )
    baselines.require_learned(result)


@cli.command()
@click.argument("saved-model", type=click.Path())
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="Classes to print per image.")
@AS_JSON
def predict(saved_model: str, images: tuple[str, ...], top: int, as_json: bool) -> None:
    """Classifies IMAGES with SAVED_MODEL."""
    quiet_tensorflow()
    from asvit_tf import predict as prediction

    with only_result_on_stdout():
        answers = prediction.predict(saved_model, images)
    if as_json:
        print_json(dict(predictions=answers))
        return
    for answer in answers:
        ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])[:top]
        click.echo(f"{answer['image']}: " + ", ".join(f"{name} {share:.4f}" for name, share in ranked))


@cli.command()
@click.argument("folder", type=click.Path())
@click.option("--output", required=True, type=click.Path(), help="Directory for the TFRecords; it must not exist.")
@click.option(
    "--shards", default=1, show_default=True, type=click.IntRange(min=1), help="Files of each split; 128 for ImageNet."
)
@AS_JSON
def prepare(folder: str, output: str, shards: int, as_json: bool) -> None:
    """Turns FOLDER, with one subfolder of images for each class, into TFRecords for training.

    A fifth of every class is held out, unless FOLDER holds the two splits as train and val. Files that are no images
    are skipped and counted.
    """
    if Path(output).exists():
        raise click.UsageError(f"{output} exists; choose another directory")
    if not Path(folder).is_dir():
        raise click.UsageError(f"{folder} is not a folder")
    with only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf import data

        dataset = data.prepare(output, folder, shards, progress=True)
    paths = dict(train_path=dataset.train_path, validation_path=dataset.validation_path)
    if as_json:
        print_json({**dataclasses.asdict(dataset), **paths})
        return
    click.echo(
        f"{len(dataset.class_names)} classes, {dataset.train_examples} images for training and "
        f"{dataset.validation_examples} held out, {len(dataset.skipped)} files skipped\n"
        f"--params_override=task.train_data.input_path={paths['train_path']},"
        f"task.validation_data.input_path={paths['validation_path']}"
        + ("" if dataset.jpeg_only else "".join(f",task.{part}_data.decode_jpeg_only=false" for part in _PARTS))
    )


_PARTS = ("train", "validation")
_RAW = dict(ignore_unknown_options=True, help_option_names=["-h", "--help"])
_flags = click.argument("flags", nargs=-1, type=click.UNPROCESSED)


def _train(flags: list[str], as_json: bool) -> None:
    """Runs asvit_tf.train with the Model Garden's flags in this process."""
    quiet_tensorflow()
    from asvit_tf import train as training

    with only_result_on_stdout():
        metrics = training.start(flags)
    if as_json:
        print_json(metrics)
    else:
        click.echo("\n".join(f"{name:<18}{value:.6g}" for name, value in metrics.items()) or "trained")
    baselines.require_learned(metrics)


@cli.command(context_settings=_RAW)
@_flags
@AS_JSON
def train(flags: tuple[str, ...], as_json: bool) -> None:
    """Trains an experiment. FLAGS are the Model Garden's own:

    --experiment NAME, --mode train|train_and_eval|eval|continuous_eval, --model_dir DIR, --config_file YAML (may be
    repeated), --params_override a.b=c,..., --tpu ADDRESS, --gin_file FILE, --gin_params BINDING.

    Exit status 1: a classifier was evaluated, and learned nothing.
    """
    _train(list(flags), as_json)


@cli.command(context_settings=_RAW)
@_flags
@AS_JSON
def evaluate(flags: tuple[str, ...], as_json: bool) -> None:
    """Evaluates the newest checkpoint at all tokens. FLAGS are those of train, without --mode.

    Exit status 1: a classifier that learned nothing.
    """
    _train([*flags, "--mode=eval"], as_json)


@cli.command()
@click.option("--model-dir", required=True, type=click.Path(), help="Directory that training wrote.")
@click.option("--export-dir", required=True, type=click.Path(), help="Where the SavedModel goes.")
@click.option(
    "--input-type",
    type=click.Choice(["image_bytes", "image_tensor", "tf_example"]),
    default="image_bytes",
    show_default=True,
    help="What the SavedModel takes: encoded images, uint8 [batch, height, width, 3], or serialized examples.",
)
@click.option(
    "--tflite",
    "tflite_type",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="Write model.tflite into the directory too; int8 is calibrated on the training data.",
)
@click.option(
    "--checkpoint", type=click.Path(), help="Checkpoint, or directory of some, instead of the newest of the training."
)
@AS_JSON
def export(as_json: bool, model_dir: str, export_dir: str, input_type: str, **options: Any) -> None:
    """Exports the newest checkpoint of a training as a SavedModel, for batches of any size, at all tokens.

    Where training averages the weights, the averages are exported.
    """
    quiet_tensorflow()
    from asvit_tf import export as exporting

    with only_result_on_stdout():
        exporting.export(exporting.read_params(model_dir), model_dir, export_dir, input_type, **options)
    tflite = None if options["tflite_type"] is None else os.path.join(export_dir, exporting.TFLITE_FILE)
    if as_json:
        print_json(dict(saved_model=export_dir, input_type=input_type, tflite=tflite))
    else:
        click.echo(f"saved model {export_dir}" + (f"\ntflite      {tflite}" if tflite else ""))


@cli.command("tpu-check")
@click.argument("topology", required=False)
@click.option("--experiment", default="asvit_imagenet", show_default=True, help="Any that classifies images.")
@click.option("--config-file", multiple=True, type=click.Path(), help="YAML of the experiment; may be repeated.")
@click.option("--params-override", default="", help="As for train.")
@click.option("--topology-name", default="v5e:2x2", show_default=True, help="TPU: chip and arrangement.")
@click.option("--batch", default=64, show_default=True, type=click.IntRange(min=1), help="Images on one chip.")
@click.option("--largest-batch", is_flag=True, help="Find the largest batch that fits one chip, too.")
@click.option("--image-size", type=click.IntRange(min=1), help="Pixels per side, instead of the experiment's.")
@click.option(
    "--window", type=click.Choice(counting.WINDOWS), help="Attention windows; fixed for large images, as detection."
)
@click.option("--profile", is_flag=True, help="Show what takes most of the time.")
@click.option("--cache-dir", type=click.Path(), help="What was compiled before.  [default: ~/.cache/asvit_tf/tpu]")
@AS_JSON
def tpu_check(topology: str | None, profile: bool, as_json: bool, **options: Any) -> None:
    """Compiles the training step of each phase for a TPU, without one: does it compile, does it fit, how long is it?

    TOPOLOGY, a topology string or a named size, takes the place of the experiment's. Large networks take minutes on a
    few cores; results are kept. Exit status 1: a phase does not compile.
    """
    if topology is not None:
        topology = str(Topology.parse(topology))
    quiet_tensorflow()
    from asvit_tf import tpu_check as checking

    with only_result_on_stdout():
        result = checking.run(topology, note=lambda line: click.echo(line, err=True), **options)
    if as_json:
        print_json(result)
    else:
        click.echo(checking.in_words(result, profile))
    if not all(phase["compiles"] for phase in result["phases"]):
        raise click.exceptions.Exit(1)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    return console.main(cli, arguments)


def entry_point() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry_point()
