"""The command `asvit study`."""

from __future__ import annotations

import functools
import os
from typing import Any

import click

from asvit_tf.choices import INITIALIZATIONS, SPACES
from asvit_tf.cli.console import AS_JSON, echo_skipped, only_result_on_stdout, print_json, quiet_tensorflow, setting
from asvit_tf.cli.options import PathName, worker_options
from search.runs.search_settings import WorkerSettings
from search.study.settings import StudySettings

_setting = functools.partial(setting, StudySettings)


@click.command()
@click.option("--save-dir", required=True, type=PathName(), help="Directory for results; continued if it exists.")
@click.option("--dataset", help="cluttered_digits or digits, both embedded.  [default: cluttered_digits]")
@click.option("--data-path", type=PathName(), help="Folder with one subfolder of images per class.")
@_setting("topologies", "Number of topologies drawn from the search space; may be raised later.")
@_setting("epochs", "Epochs of each training.")
@_setting("batch-size", "Images in a training step.")
@_setting("learning-rate", "Highest learning rate of each training.")
@_setting("initialization", "How linear maps begin in each training.", type=click.Choice(INITIALIZATIONS))
@_setting("gradient-clip-norm", "Largest norm of a gradient; 0 for no limit.")
@_setting("image-size", "Pixels per side, for measures and training.")
@_setting("base-stride", "Pixels between tokens.  [default: by the image size]", type=int)
@_setting("space", "What is sampled: where windows and heads fit the images, or all.", type=click.Choice(SPACES))
@_setting("width", "Channels of the first stage.")
@_setting("repeats", "Draws of weights and circles that a measure averages.")
@_setting("points", "Angles on a circle.")
@_setting("score-batch", "Images in an NTK.")
@_setting("seed", "Seed of everything that is drawn.")
@_setting("seed-repeats", "Seeds with which the repeated topologies are trained.")
@_setting("repeated-topologies", "Number of topologies that are trained with all of these seeds.")
@_setting("draws", "Samples of the bootstrap.")
@worker_options(", each with a topology of its own")
@AS_JSON
def study(
    save_dir: str,
    dataset: str | None,
    data_path: str | None,
    workers: int,
    worker_threads: int | None,
    cluster: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Do the training-free measures predict accuracy? Measures and trains topologies, and correlates.

    Start it again, and it continues.
    """
    if data_path is not None:
        data_path = os.path.abspath(data_path)
    elif dataset is None:
        dataset = "cluttered_digits"
    settings = StudySettings(dataset=dataset, data_path=data_path, **options)
    with only_result_on_stdout():
        quiet_tensorflow()
        from search.study import run as running

        result = running.run(save_dir, settings, WorkerSettings(workers, worker_threads, cluster=cluster))
    if as_json:
        print_json(result)
        return
    from search.study import tables

    click.echo("\n".join(tables.in_lines(result)))
    echo_skipped(result)
