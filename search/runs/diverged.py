"""A training of a run that lost what it had learned, for good: what the run ends with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from official.core import config_definitions as cfg

from asvit_tf.errors import DivergedError
from asvit_tf.training import guard
from asvit_tf.training.saving import best

_FIELD = "initial_learning_rate"


def ended(
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
