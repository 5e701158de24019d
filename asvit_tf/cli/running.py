"""The command `asvit run`."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from pathlib import Path
from typing import Any

import click

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
from asvit_tf.cli.options import BASE_STRIDE, HARDWARE_OF_RUN, TPU, PathName
from asvit_tf.dataloaders.folders import layout
from asvit_tf.design import retokenization
from asvit_tf.design.topology import STRIDE
from asvit_tf.hardware import choice
from asvit_tf.journals import workspace
from search.runs.settings import RunSettings

_setting = functools.partial(setting, RunSettings)


@click.command()
@click.option("--output", required=True, type=PathName(), help="Directory for everything; continued if it exists.")
@click.option("--data-path", type=PathName(), help="Folder with one subfolder of images per class; digits if left out.")
@_setting("image-size", "Pixels per side.")
@BASE_STRIDE
@_setting("seed", "Seed of search, weights and training.")
@_setting("search-steps", "Number of topologies that the search samples.")
@_setting("repeats", "Draws of random weights that a score averages.")
@_setting("score-batch", "Images in an NTK.")
@_setting("width", "Channels of the first stage that search and growth start from.")
@_setting("budget", "Most parameters of the grown network, in millions.")
@_setting("epochs", "Number of training epochs.")
@_setting("batch-size", "Images in a training step.")
@_setting(
    "retokenization",
    "Schedule of stride and dilation during training.",
    type=Choice(list(retokenization.PRESETS)),
)
@click.option("--flip/--no-flip", default=RunSettings.flip, show_default=True, help="Mirror training images at random.")
@HARDWARE_OF_RUN
@TPU
@AS_JSON
def run(output: str, hardware: str, tpu: str | None, as_json: bool, **options: Any) -> None:
    """Runs the whole path: search, grow, train, evaluate, export, report. The same command continues a killed run.

    Exit status 1: the network learned nothing; it is not exported.
    """
    start = time.perf_counter()
    if options["data_path"] is not None:
        options["data_path"] = os.path.abspath(options["data_path"])
    settings = RunSettings(**options)
    choice.check(hardware, tpu)
    if settings.data_path is not None and not (Path(output) / "data" / "dataset.json").exists():
        layout(settings.data_path, [output])
    identity = dataclasses.asdict(settings)
    if settings.base_stride == STRIDE:  # Directories of earlier versions have none.
        del identity["base_stride"]
    with workspace(output, identity) as directory, only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf.doctor import devices

        chosen = devices.take(hardware, tpu)
        from search.runs import pipeline

        result = pipeline.run(directory, settings, lambda line: click.echo(line, err=True), chosen)
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
            + (f"test        {_with_interval(result, 'test_accuracy')}  (on the test split)\n" if tested else "")
            + f"saved model {result['saved_model'] or 'none'}\n"
            f"report      {result['report']}\n"
            f"seconds     {time.perf_counter() - start:.0f}"
        )
    end_by_verdict(result)


def _with_interval(result: dict[str, Any], name: str) -> str:
    """An accuracy and its 95 % interval; results of earlier versions have none."""
    interval = result.get(f"{name}_interval")
    return f"{result[name]:.4f}" + (f", 95 %: {interval[0]:.4f} to {interval[1]:.4f}" if interval else "")
