"""The commands train and evaluate."""

from __future__ import annotations

import click

from asvit_tf.cli.console import AS_JSON, only_result_on_stdout, print_json, quiet_tensorflow
from asvit_tf.tasks import baselines

_RAW = dict(ignore_unknown_options=True, help_option_names=["-h", "--help"])
_flags = click.argument("flags", nargs=-1, type=click.UNPROCESSED)


def _train(flags: list[str], as_json: bool) -> None:
    """Runs asvit_tf.train with the Model Garden's flags in this process."""
    quiet_tensorflow()
    from asvit_tf.training import run as training

    with only_result_on_stdout():
        metrics = training.start(flags)
    if as_json:
        print_json(metrics)
    else:
        click.echo("\n".join(f"{name:<18}{value:.6g}" for name, value in metrics.items()) or "trained")
    baselines.require_learned(metrics)


@click.command(context_settings=_RAW)
@_flags
@AS_JSON
def train(flags: tuple[str, ...], as_json: bool) -> None:
    """Trains an experiment. FLAGS are the Model Garden's own:

    --experiment NAME, --mode train|train_and_eval|eval|continuous_eval, --model_dir DIR, --config_file YAML (may be
    repeated), --params_override a.b=c,..., --tpu ADDRESS, --gin_file FILE, --gin_params BINDING.

    Exit status 1: a classifier was evaluated, and learned nothing.
    """
    _train(list(flags), as_json)


@click.command(context_settings=_RAW)
@_flags
@AS_JSON
def evaluate(flags: tuple[str, ...], as_json: bool) -> None:
    """Evaluates the newest checkpoint at all tokens. FLAGS are those of train, without --mode.

    Exit status 1: a classifier that learned nothing.
    """
    _train([*flags, "--mode=eval"], as_json)
