"""The command `asvit` and its list of commands.

Bad input ends with one line on standard error and exit status 2; a classifier that learned nothing, with status 1.
With `--json` standard output holds one JSON object and nothing else. Commands import what they need when they run, so
that `asvit describe` starts without TensorFlow.
"""

from __future__ import annotations

import sys

import click

from asvit_tf.cli import (
    console,
    data,
    dense,
    designs,
    detection,
    hardware,
    running,
    searching,
    serving,
    study,
    training,
)

COMMANDS = (
    *(running.run, running.report, designs.describe, designs.complexity, searching.search, searching.grow, study.study),
    *(data.prepare, training.train, training.evaluate, serving.export, serving.predict, hardware.tpu_check),
    hardware.doctor,
    *(dense.detect_run, dense.segment_run, detection.prepare_coco, detection.prepare_segmentation),
    *(detection.shapes, detection.detect, detection.segment),
)


@click.group()
@click.version_option(package_name="asvit-tf")
def cli() -> None:
    """Vision Transformers searched and grown without training, and trained with progressive re-tokenization."""


for command in COMMANDS:
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    return console.main(cli, arguments)


def entry_point() -> None:
    """The console script."""
    sys.exit(main())
