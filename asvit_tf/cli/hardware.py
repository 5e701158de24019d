"""The commands doctor, about this machine, and tpu-check, about a TPU that is not there."""

from __future__ import annotations

from typing import Any

import click

from asvit_tf.choices import WINDOWS
from asvit_tf.cli.console import AS_JSON, Choice, only_result_on_stdout, print_json, quiet_tensorflow
from asvit_tf.cli.options import PathName
from asvit_tf.design.topology import Topology


@click.command("tpu-check")
@click.argument("topology", required=False)
@click.option(
    "--experiment",
    default="asvit_imagenet",
    show_default=True,
    help="Experiment that classifies images, detects or segments, of this package or of the Model Garden.",
)
@click.option("--config-file", multiple=True, type=PathName(), help="YAML of the experiment; may be repeated.")
@click.option("--params-override", default="", help="Fields to change, a.b=c, with commas.")
@click.option("--topology-name", default="v5e:2x2", show_default=True, help="Chip and arrangement of the TPU.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Images on one chip.  [default: 64; where nothing is classified, the experiment's over all chips]",
)
@click.option("--largest-batch", is_flag=True, help="Find the largest batch that fits one chip, too.")
@click.option("--image-size", type=click.IntRange(min=1), help="Pixels per side, instead of the experiment's.")
@click.option("--window", type=Choice(WINDOWS), help="Attention windows; fixed for large images, as in detection.")
@click.option("--profile", is_flag=True, help="Show the instructions that take most of the time.")
@click.option("--cache-dir", type=PathName(), help="Directory of kept compilations.  [default: ~/.cache/asvit_tf/tpu]")
@AS_JSON
def tpu_check(topology: str | None, profile: bool, as_json: bool, **options: Any) -> None:
    """Compiles the training step of each phase for a TPU, without a TPU: whether it compiles and fits, and its time.

    A detector and a segmenter have one phase, compiled with losses, targets and non-maximum suppression. TOPOLOGY, a
    topology string or a named size, takes the place of the experiment's. Large networks take minutes on a
    few cores; results are kept. Exit status 1: a phase does not compile.
    """
    if topology is not None:
        topology = str(Topology.parse(topology))
    quiet_tensorflow()
    from asvit_tf.tpu import check as checking
    from asvit_tf.tpu import wording

    with only_result_on_stdout():
        result = checking.run(topology, note=lambda line: click.echo(line, err=True), **options)
    if as_json:
        print_json(result)
    else:
        click.echo(wording.in_words(result, profile))
    if not all(phase["compiles"] for phase in result["phases"]):
        raise click.exceptions.Exit(1)


@click.command()
@click.option(
    "--measure/--no-measure", default=True, show_default=True, help="Train a tiny network on each device for 2 s."
)
@AS_JSON
def doctor(measure: bool, as_json: bool) -> None:
    """Examines this environment: versions, devices, drivers, what does not fit and the command that mends it.

    Also: under which flags asvit train uses the machine, what asvit run uses of it, and how fast each device trains.
    TensorFlow is tried in a process of its own, since a wrong library aborts it. Exit status 1: something is to be
    mended.
    """
    from asvit_tf.doctor import examination
    from asvit_tf.hardware import machine

    result = examination.examine(machine.examine(), 2.0 if measure else None)
    if as_json:
        print_json(result)
    else:
        click.echo(examination.in_words(result))
    if not result["healthy"]:
        raise click.exceptions.Exit(1)
