"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from asvit_tf.choices import BACKENDS


class Positive(click.ParamType):
    """A finite number above 0; NaN and infinity are none."""

    name = "number above 0"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r} is not a number above 0", param, ctx)
        return number


def together(*options: Callable) -> Callable:
    """Several click options as one decorator."""

    def decorate(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def worker_options(work: str, cluster: str) -> Callable:
    """`--workers`, `--worker-threads` and `--backend`, from which `WorkerSettings` are built.

    Args:
      work: What a process does.
      cluster: What a cluster needs to be.
    """
    return together(
        click.option(
            "--workers",
            default=1,
            show_default=True,
            type=click.IntRange(min=1),
            help=f"Processes{work} (not threads that read data).",
        ),
        click.option(
            "--worker-threads", type=click.IntRange(min=1), help="Threads of each; by default the cores are shared out."
        ),
        click.option(
            "--backend",
            default=BACKENDS[0],
            show_default=True,
            type=click.Choice(BACKENDS),
            help=f"joblib's, for the workers: processes on this machine, or {cluster}.",
        ),
    )
