"""The commands train and evaluate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from asvit_tf.choices import MODES
from asvit_tf.cli.console import AS_JSON, Choice, end_by_verdict, only_result_on_stdout, print_json, quiet_tensorflow
from asvit_tf.cli.options import TPU, PathName

_REQUIRED = ("experiment", "mode", "model_dir")
_MODE = click.option("--mode", type=Choice(MODES), metavar="|".join(MODES), help="What to do.  [required]")
_OPTIONS = (
    click.option("--experiment", help="Name, as asvit_digits or asvit_imagenet.  [required]"),
    click.option(
        "--model-dir", type=PathName(), help="Checkpoints and logs; a training there is continued.  [required]"
    ),
    click.option("--config-file", multiple=True, help="YAML of the experiment; may be repeated, later ones win."),
    click.option(
        "--params-override",
        multiple=True,
        metavar="A.B=C,...",
        help="Fields, applied after the files; YAML or a file will do, too. May be repeated, later ones win.",
    ),
    TPU,
    click.option("--tf-data-service", help="Address of a tf.data service that reads the images."),
    click.option("--gin-file", multiple=True, help="Gin configuration; may be repeated."),
    click.option("--gin-params", multiple=True, help="Gin binding; may be repeated."),
)


def _options(command: Callable) -> Callable:
    """The options of both commands, in the order of the list."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _start(as_json: bool, options: dict[str, Any]) -> None:
    missing = [f"--{name.replace('_', '-')}" for name in _REQUIRED if options[name] is None]
    if missing:
        raise click.UsageError(f"Missing option{'s' * (len(missing) > 1)} {', '.join(missing)}")
    quiet_tensorflow()
    from asvit_tf.training import run as training

    with only_result_on_stdout():
        metrics = training.start(**options)
    if as_json:
        print_json(metrics)
    else:
        click.echo("\n".join(f"{name:<18}{value:.6g}" for name, value in metrics.items()) or "trained")
    end_by_verdict(metrics)


@click.command()
@_MODE
@_options
@AS_JSON
def train(as_json: bool, **options: Any) -> None:
    """Trains an experiment of the Model Garden's, or goes on with it.

    On standard error: a line for every block of steps, on a terminal with a bar below. Everything else that is said
    goes to MODEL_DIR/log.txt. Exit status 1: a classifier was evaluated, and learned nothing.
    """
    _start(as_json, options)


@click.command()
@_options
@AS_JSON
def evaluate(as_json: bool, **options: Any) -> None:
    """Evaluates the newest checkpoint of a training at all tokens. Exit status 1: a classifier that learned nothing."""
    _start(as_json, {**options, "mode": "eval"})
