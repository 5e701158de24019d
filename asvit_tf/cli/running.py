"""The commands run and report."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from asvit_tf.choices import RECIPES
from asvit_tf.cli.console import (
    AS_JSON,
    Choice,
    echo_skipped,
    end_by_verdict,
    only_result_on_stdout,
    print_json,
    quiet_tensorflow,
    setting,
)
from asvit_tf.cli.options import BASE_STRIDE, HARDWARE_OF_RUN, TPU, ImageSize, PathName, cluster_option
from asvit_tf.dataloaders import folders
from asvit_tf.dataloaders.folders import layout
from asvit_tf.design import retokenization
from asvit_tf.errors import UserError
from asvit_tf.hardware import choice
from asvit_tf.journals import workspace
from search.runs.search_settings import WorkerSettings
from search.runs.settings import EARLIER, OF_A_SEARCH, RunSettings, kept_design

_setting = functools.partial(setting, RunSettings)
_WRITTEN = ("data", "search", "grow", "train", "test", "saved_model", "predictions", "serving")  # By a run.
_OF_ALL = "(of all evaluations on the held-out images, whose accuracy is a little too high for that)"


@click.command()
@click.option("--output", required=True, type=PathName(), help="Directory for everything; continued if it exists.")
@click.option("--data-path", type=PathName(), help="Folder with one subfolder of images per class; digits if left out.")
@click.option(
    "--image-size",
    default=RunSettings.image_size,
    type=ImageSize(),
    help="Pixels per side, or rows x columns as 160x224.  "
    f"[default: {RunSettings.image_size}; with --init-checkpoint, that network's]",
)
@BASE_STRIDE
@_setting("seed", "Seed of search, weights and training.")
@click.option(
    "--hours",
    type=float,
    help="What all of it may take: search steps, size and epochs are chosen to fit.  [default: as long as it takes]",
)
@click.option(
    "--search-steps", type=int, help="Number of topologies that the search samples.  [default: 20, or by --hours]"
)
@_setting("repeats", "Draws of random weights that a score averages.")
@_setting("score-batch", "Images in an NTK.")
@_setting("width", "Channels of the first stage that search and growth start from.")
@click.option(
    "--budget", type=float, help="Most parameters of the grown network, in millions.  [default: 1; with --hours, 100]"
)
@click.option("--epochs", type=int, help="Number of training epochs.  [default: the recipe's]")
@click.option("--batch-size", type=int, help="Images in a training step.  [default: the recipe's]")
@click.option(
    "--retokenization",
    type=Choice(list(retokenization.PRESETS)),
    help="Schedule of stride and dilation during training.  [default: the recipe's; published, none below 30 epochs]",
)
@click.option(
    "--flip/--no-flip", default=None, help="Mirror training images at random.  [default: the recipe's; photographs are]"
)
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help=f"How to train: {' or '.join(RECIPES)}, or a YAML such as DIR/recipe.yaml of an earlier run.  "
    "[default: photographs for a folder]",
)
@click.option(
    "--params-override",
    multiple=True,
    metavar="A.B=C,...",
    help="Fields of the training, applied after the recipe; YAML or a file will do, too. May be repeated.",
)
@click.option("--balanced", is_flag=True, help="Train for the balanced accuracy: uneven classes count alike.")
@click.option(
    "--init-checkpoint",
    type=PathName(),
    help="Train the network of this run (or training) further on these images, instead of searching one.",
)
@HARDWARE_OF_RUN
@TPU
@cluster_option(" topologies; this machine trains")
@AS_JSON
@click.pass_context
def run(
    context: click.Context,
    output: str,
    hardware: str,
    tpu: str | None,
    cluster: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Runs the whole path: search, grow, train, evaluate, export, report. The same command continues a killed run.

    Exit status 1: the network learned nothing; it is not exported.
    """
    started = time.monotonic()
    settings = _settings(context, options)
    choice.check(hardware, tpu)
    WorkerSettings(cluster=cluster)  # Refuses what is no address.
    if settings.data_path is not None:
        _check_data(Path(settings.data_path), Path(output))
    identity = settings.identity()
    with workspace(output, identity, EARLIER, settings.changeable) as directory, only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf.doctor import devices

        chosen = devices.take(hardware, tpu)
        from search.runs import pipeline

        result = pipeline.run(directory, settings, lambda line: click.echo(line, err=True), chosen, started, cluster)
    if as_json:
        print_json(result)
    else:
        echo_skipped(result)
        tested = result.get("test_accuracy") is not None
        click.echo(
            f"topology    {result['topology']}\n"
            f"grown       {result['grown']}  ({result['parameters']:,} parameters)\n"
            f"accuracy    {_with_interval(result, 'accuracy')}  (majority class {result['majority_share']:.4f}, "
            f"balanced accuracy {result['balanced_accuracy']:.4f})\n"
            + (f"best step   {result['best_step']}  {_OF_ALL}\n" if result.get("best_step") else "")
            + (f"ended early {result['diverged']}\n" if result.get("diverged") else "")
            + (f"test        {_with_interval(result, 'test_accuracy')}  (on the test split)\n" if tested else "")
            + f"saved model {result['saved_model'] or 'none'}\n"
            f"report      {result['report']}\n"
            f"seconds     {time.monotonic() - started:.0f}"
        )
    end_by_verdict(result)


def _settings(context: click.Context, options: dict[str, Any]) -> RunSettings:
    """Of the command's options; a network that is trained further has its own design."""
    for name in ("data_path", "init_checkpoint"):
        if options[name] is not None:
            if "://" in options[name]:
                raise UserError(
                    f"--{name.replace('_', '-')} {options[name]} is not on this machine; copy it here first"
                )
            options[name] = os.path.abspath(options[name])
    if options["recipe"] is not None and options["recipe"] not in RECIPES:
        options["recipe"] = os.path.abspath(options["recipe"])
    options["params_override"] = tuple(
        os.path.abspath(text) if os.path.isfile(text) else text for text in options["params_override"]
    )
    if options["init_checkpoint"] is not None:
        given = {name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
        searched = [f"--{name.replace('_', '-')}" for name in OF_A_SEARCH if name in given]
        if searched:
            raise UserError(
                f"--init-checkpoint keeps the network, and nothing is searched; leave out {', '.join(searched)}"
            )
        kept = kept_design(options["init_checkpoint"])
        options |= {name: value for name, value in kept.items() if name not in given}
    return RunSettings(**options)


def _check_data(data_path: Path, output: Path) -> None:
    """Refuses images that cannot be read, or lie where the run writes; says if they changed since they were read."""
    inside = os.path.relpath(os.path.realpath(data_path), os.path.realpath(output)).split(os.sep)[0]
    if inside in (".", *_WRITTEN):
        raise UserError(f"--output {output} would write among the images of {data_path}; choose another directory")
    read = output / "data" / "dataset.json"
    if not read.exists():
        layout(data_path, [output])
    elif folders.newest_change(data_path, output) > read.stat().st_mtime:
        click.echo(
            f"warning: folders of {data_path} changed since {output} read its images; they are not read again, another "
            "--output does",
            err=True,
        )


def _with_interval(result: dict[str, Any], name: str) -> str:
    """An accuracy and its 95 % interval; results of earlier versions have none."""
    interval = result.get(f"{name}_interval")
    return f"{result[name]:.4f}" + (f", 95 %: {interval[0]:.4f} to {interval[1]:.4f}" if interval else "")


@click.command()
@click.argument("directory", type=PathName())
@AS_JSON
def report(directory: str, as_json: bool) -> None:
    """Writes the report of a finished run in DIRECTORY again, without training.

    What the report needs and the directory does not hold, because an earlier version wrote it, is made first.
    """
    quiet_tensorflow()
    with only_result_on_stdout():
        from search.runs import reporting

        written = reporting.report(Path(directory), lambda line: click.echo(line, err=True))
    if as_json:
        print_json(written)
        return
    for reason in written["lacking"]:
        click.echo(reason)
    click.echo(f"report      {written['report']}")
