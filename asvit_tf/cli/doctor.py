"""The command doctor."""

from __future__ import annotations

import click

from asvit_tf.cli.console import AS_JSON, print_json


@click.command()
@click.option(
    "--measure/--no-measure", default=True, show_default=True, help="Train a tiny network on each device for 2 s."
)
@AS_JSON
def doctor(measure: bool, as_json: bool) -> None:
    """Examines this environment: versions, devices, drivers, what does not fit and the command that mends it.

    Also: under which flags asvit train uses the machine, and how fast each device trains. TensorFlow is tried in a
    process of its own, since a wrong library aborts it. Exit status 1: something is to be mended.
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
