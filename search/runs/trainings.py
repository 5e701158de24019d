"""The training of a run: with epochs that fit its hours, and an end also where it lost what it had learned for good."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from official.core import config_definitions as cfg

from asvit_tf.errors import DivergedError
from asvit_tf.modeling import checkpoints
from asvit_tf.tasks import plans, schedules
from asvit_tf.training import guard
from asvit_tf.training import run as train
from asvit_tf.training.saving import best
from search.runs import timetable
from search.runs.timetable import EpochsChangedError, Pace, Timetable

_FIELD = "initial_learning_rate"


def trained(
    path: Path, params: cfg.ExperimentConfig, table: Timetable | None, root: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Trains, or continues, and returns the metrics of the best network.

    Args:
      path: Directory of the training.
      params: Its experiment.
      table: Of the run, where its time decides the epochs.
      root: Directory of the run.
      say: Receives a line where something changes.

    Returns:
      The metrics; `best_step`; `diverged` where the training ended early (`_ended`).

    Raises:
      DivergedError: It diverged, and nothing was learned before.
    """
    early: dict[str, Any] = {}
    while True:
        current = with_changed_epochs(params, table)
        pace = None if table is None else _pace(path, current, table)
        try:
            metrics = train.run(
                current, str(path), "train_and_eval", progress=True, root=root, keeps_best=True, evaluated=pace
            )
            break
        except EpochsChangedError as change:
            assert table is not None
            table.change(change.epochs)
            say(f"{change.epochs} epochs will fit; {timetable.span(table.used)} are gone")
        except DivergedError as error:
            metrics, early = {}, _ended(path, current, error, say)
            break
    found = best.read(path)
    return metrics if found is None else {**found.metrics, "best_step": found.step, **early}


def with_changed_epochs(params: cfg.ExperimentConfig, table: Timetable | None) -> cfg.ExperimentConfig:
    """The training as its own speed changed it."""
    return params if table is None or not table.changes else plans.with_epochs(params, table.epochs)


def _pace(path: Path, params: cfg.ExperimentConfig, table: Timetable) -> Pace:
    newest, since = checkpoints.newest(path), schedules.schedule_of(params).settled
    begun = checkpoints.step_of(newest) if newest else 0
    return Pace(table, plans.epochs_of(params), params.trainer.steps_per_loop, since, begun)


def _ended(
    directory: Path, params: cfg.ExperimentConfig, error: DivergedError, say: Callable[[str], None]
) -> dict[str, str]:
    """What to note of a training whose best network learned, so that the run goes on with that: `diverged`, its end.

    Args:
      directory: Of the training.
      params: Its experiment.
      error: Its end.
      say: Receives a line.

    Raises:
      DivergedError: No network is kept that beats the majority class beyond chance (`baselines.judge`); it says what to
        start again with.
    """
    found = best.read(directory)
    if found is None or not found.metrics.get("learned"):
        raise DivergedError(error.what, _advice(params)) from error
    shutil.rmtree(directory / guard.START, ignore_errors=True)
    say(f"{error.what}: the training ends here, with its best network of before, that of step {found.step}")
    return dict(diverged=error.what)


def _advice(params: cfg.ExperimentConfig) -> str:
    rates = params.trainer.optimizer_config.learning_rate
    field, rate = f"trainer.optimizer_config.learning_rate.{rates.type}", getattr(rates.get(), _FIELD, None)
    if not rate:
        return f"start again with another --output, and lower rates in {field} by --params-override"
    lower = f"--params-override {field}.{_FIELD}={rate / 10:.2g}"
    return f"start again with another --output and a lower learning rate, which was {rate:.2g}, as {lower}"
