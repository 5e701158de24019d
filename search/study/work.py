"""One topology of the study: all its measures, and a brief training. Runs in a worker process.

A row is a function of the topology, the seed and the settings; only its seconds are not.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf import traces
from asvit_tf.choices import PROXIES
from asvit_tf.dataloaders import classification as data
from asvit_tf.design.topology import Topology
from asvit_tf.errors import DivergedError, StoppedError, UserError
from asvit_tf.tasks import plans
from asvit_tf.training import run as train
from search.scoring.battery import Battery
from search.scoring.score import Clock, Score
from search.scoring.settings import ScoringSettings
from search.study.settings import StudySettings

RECIPE = str(importlib.resources.files("official_configs") / "study_asvit_i32_cpu.yaml")
SCRATCH = ".trainings"  # Directories of trainings; what a killed one leaves is removed at the next start.
_REASON_LENGTH = 300


def work(
    settings: StudySettings, directory: str, images: np.ndarray, topology: str, seed: int | None
) -> dict[str, Any]:
    """The row of a topology; with a seed, the row of one more training of it.

    Raises:
      UserError: The directory is not there, in a worker on another machine.
    """
    records = Path(directory) / "data" / "dataset.json"
    if not records.exists():
        raise UserError(
            f"{socket.gethostname()} has no {records}; it must be there under the same path on every worker"
        )
    if seed is None:
        return measure_and_train(settings, directory, images, topology)
    return train_again(settings, directory, topology, seed)


def measure_and_train(settings: StudySettings, directory: str, images: np.ndarray, topology: str) -> dict[str, Any]:
    """The row of a topology.

    Args:
      settings: Settings of the study.
      directory: Directory of the study; holds `data`, receives `log.txt`.
      images: Images of the NTK and of published measures.
      topology: The string.

    Returns:
      `measures` by name, None where undefined, with `failures` and `reasons` as in `Score`; `accuracy` on the held-out
      images, None if training failed; `failed`: the reason of each part, `measuring` or `training`, that did not
      end.
    """
    failed: dict[str, str] = {}
    clock = Clock()
    with clock("measuring"):
        score = _attempt("measuring", failed, lambda: _measure(settings, images, topology)) or Score({}, {}, 0.0)
    with clock("training"):
        trained = _trained(settings, directory, topology, settings.seed, failed)
    return dict(
        topology=topology,
        measures=score.measures,
        errors=score.errors,
        failures=score.failures,
        reasons=score.reasons,
        **trained,
        failed=failed,
        seconds={**score.split, **clock.totals()},
    )


def train_again(settings: StudySettings, directory: str, topology: str, seed: int) -> dict[str, Any]:
    """The row of one more training: `accuracy` and `failed` as above, and the `seed`."""
    failed: dict[str, str] = {}
    clock = Clock()
    with clock("training"):
        trained = _trained(settings, directory, topology, seed, failed)
    return dict(topology=topology, seed=seed, **trained, failed=failed, seconds=clock.totals())


def _attempt(part: str, failed: dict[str, str], work: Callable[[], Any]) -> Any:
    """What the work returns; None if it fails, with the reason in `failed`. What stops a whole study is not caught."""
    try:
        return work()
    except StoppedError as error:  # A full disk has nothing to do with the topology; a diverging training has.
        if not isinstance(error, DivergedError):
            raise
        failed[part] = str(error)
    except OSError:
        raise
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        # Nor has the machine's memory: skipped for it, the large topologies would be missing.
        raise StoppedError(f"{part} ran out of memory; start again with fewer workers, it continues") from error
    except Exception as error:
        failed[part] = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON_LENGTH]
    return None


def _measure(settings: StudySettings, images: np.ndarray, topology: str) -> Score:
    chosen = ScoringSettings(
        image_size=settings.size,
        base_stride=settings.stride,
        repeats=settings.repeats,
        points=settings.points,
        seed=settings.seed,
    )
    return Battery(chosen, images, tuple(PROXIES)).score(Topology.parse(topology))


def _trained(
    settings: StudySettings, directory: str, topology: str, seed: int, failed: dict[str, str]
) -> dict[str, float | None]:
    """`accuracy` and `loss` on the held-out images."""
    metrics = _attempt("training", failed, lambda: train_briefly(settings, directory, topology, seed)) or {}
    return dict(accuracy=metrics.get("accuracy"), loss=metrics.get("validation_loss"))


def train_briefly(settings: StudySettings, directory: str, topology: str, seed: int) -> dict[str, float]:
    """Trains with the ordinary trainer and returns the metrics of the evaluation at the end."""
    params = experiment(settings, data.Dataset.load(Path(directory) / "data"), Topology.parse(topology), seed)
    scratches = Path(directory) / SCRATCH
    scratches.mkdir(exist_ok=True)
    # A line for every block; beside a progress bar that belongs in a file.
    with (
        traces.forgotten(),
        tempfile.TemporaryDirectory(dir=scratches) as scratch,
        open(Path(directory) / "log.txt", "a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            return train.run(params, scratch, "train_and_eval", progress=True)
        finally:
            tf_keras.backend.clear_session()


def experiment(settings: StudySettings, dataset: data.Dataset, topology: Topology, seed: int) -> Any:
    """The study's recipe, with one evaluation and one checkpoint, both at the end."""
    plan = plans.Plan(
        settings.size, seed, settings.epochs, settings.batch_size, base_stride=settings.stride, recipe=RECIPE
    )
    params = plans.classifier(plan, dataset, topology)
    steps = params.trainer.train_steps
    optimizer = {
        "learning_rate": {"cosine": {"initial_learning_rate": settings.learning_rate}},
        "optimizer": {"adamw": {"gradient_clip_norm": settings.gradient_clip_norm}},
    }
    backbone = {"asvit": {"initialization": settings.initialization}}
    params.override({"task": {"model": {"backbone": backbone}}}, is_strict=True)
    intervals = {"checkpoint_interval": steps, "validation_interval": steps}
    params.override({"trainer": {**intervals, "optimizer_config": optimizer}}, is_strict=True)
    return params
