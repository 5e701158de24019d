"""Work in several processes at once: on this machine through joblib, or on a cluster (`cluster.py`).

A score, as a training, is a function of the topology and the settings alone, so it does not matter which process
computes it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import logging
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import joblib
import numpy as np
from joblib.externals.loky import process_executor

from asvit_tf import private_names
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from search.runs.search_settings import WorkerSettings

if TYPE_CHECKING:
    from search.runs.cluster import ClusterPool
    from search.scoring.predicting import PredictingScorer
    from search.scoring.score import Score
    from search.scoring.settings import ScoringSettings
    from search.scoring.training_free import TrainingFreeScorer

_ORPHAN_CHECK_SECONDS = 2.0
LEAK_BYTES = 8e9  # By which a process may grow before a new one takes its place.

_prepared = False  # Whether this process is set up for work.
_places: list[IO[str]] = []  # What this worker process holds locked until it ends: its place among the others.
# The scorer of this worker process: made at its first task, used for all that have the same settings and images.
_kept: tuple[tuple[ScoringSettings, str], TrainingFreeScorer | PredictingScorer] | None = None


@dataclasses.dataclass(frozen=True)
class Setup:
    """How a worker process is set up before TensorFlow starts there.

    Attributes:
      threads: Of TensorFlow; None leaves them as they are.
      gpus: CUDA_VISIBLE_DEVICES of the processes, in turn; none leaves it as it is.
      number: How many processes share them out.
      places: Directory with a file for each place among them.
    """

    threads: int | None
    gpus: tuple[str, ...] = ()
    number: int = 1
    places: str = ""

    def apply(self) -> bool:
        """Sets this process up; returns whether TensorFlow has the threads, which it keeps once it has started."""
        quiet()
        if self.gpus:
            place = take_place(Path(self.places), self.number)
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[place % len(self.gpus)]
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # Others have the same GPU.
        return set_threads(self.threads)


@dataclasses.dataclass(frozen=True)
class _Process:
    """What a process of joblib has to know of itself.

    Attributes:
      setup: How it is set up.
      growth: Bytes by which it may grow.
      parent: The process that started it.
    """

    setup: Setup
    growth: float
    parent: int = dataclasses.field(default_factory=os.getpid)


class Pool:
    """Calls a function many times, side by side; the order of the results is that of the calls.

    Args:
      workers: How many processes, and threads of each.
      growth: Bytes by which a process may grow before a new one takes its place.
    """

    def __init__(self, workers: WorkerSettings, growth: float = LEAK_BYTES):
        self._places = tempfile.TemporaryDirectory(prefix="asvit-workers-")
        setup = Setup(workers.threads_each, workers.gpus, workers.processes, self._places.name)
        self._process = _Process(setup, growth)
        self._parallel = dict(n_jobs=workers.processes, backend="loky")

    def map(self, function: Callable, calls: Iterable[tuple], shared: tuple = ()) -> Iterator[Any]:
        """`function(*shared, *arguments)` for each of the calls.

        Raises:
          UserError: A process was killed from outside.
        """
        pool = joblib.Parallel(**self._parallel, return_as="generator", batch_size=1)
        tasks = (joblib.delayed(_work)(self._process, function, (*shared, *arguments)) for arguments in calls)
        try:
            yield from pool(tasks)
        except process_executor.TerminatedWorkerError as error:
            raise UserError(
                "a scoring process was killed, perhaps for want of memory; run again to continue, with fewer --workers"
            ) from error


class ParallelScorer:
    """Scores topologies side by side; the order of the results is that of the topologies.

    Args:
      settings, images: As `TrainingFreeScorer`.
      pool: Where: a `Pool` or a `cluster.ClusterPool`.
    """

    def __init__(self, settings: ScoringSettings, images: np.ndarray, pool: Pool | ClusterPool):
        self._pool = pool
        self._shared = (settings, hashlib.sha256(images.tobytes()).hexdigest()), images

    def __call__(self, topologies: Sequence[Topology]) -> Iterator[Score]:
        return self._pool.map(_score, ((str(topology),) for topology in topologies), self._shared)


def _work(process: _Process, function: Callable, arguments: tuple) -> Any:
    """Runs in a worker process."""
    global _prepared
    if not _prepared:
        _prepare_process(process)
        _prepared = True
    return function(*arguments)


def _score(key: tuple[ScoringSettings, str], images: np.ndarray, topology: str) -> Score:
    global _kept
    from search.scoring.predicting import scorer_of

    if _kept is None or _kept[0] != key:
        _kept = key, scorer_of(key[0], images)
    return _kept[1].score(Topology.parse(topology))


def quiet() -> None:
    """Keeps TensorFlow silent; call it before its first use."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _prepare_process(process: _Process) -> None:
    """Sets up a process of joblib before TensorFlow's first use, and ends it when its parent is gone."""
    # loky ends a worker that has grown by 300 MB, to stop leaks; a larger topology is no leak, and a new process would
    # import TensorFlow again.
    private_names.let_workers_grow(process.growth)
    if process.parent != os.getpid():
        threading.Thread(target=_end_with, args=(process.parent,), daemon=True).start()
        process.setup.apply()
    else:  # joblib runs the tasks of one worker in the calling process, whose devices were chosen.
        quiet()
        set_threads(process.setup.threads)


def take_place(directory: Path, number: int) -> int:
    """The lowest free place among worker processes, from 0; free again once this process has ended, however it ends.

    Args:
      directory: Of these processes.
      number: How many there are; where all places are taken, as by one that is about to end, it is one of them.
    """
    for place in range(number):
        file = open(directory / str(place), "w")  # noqa: SIM115 - held until the process ends
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            _places.append(file)
            return place
    return os.getpid() % number


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_ORPHAN_CHECK_SECONDS)
    os._exit(1)


def set_threads(threads: int | None) -> bool:
    """Limits TensorFlow's threads inside an operation and beside each other; None leaves them as they are.

    Returns:
      Whether it has so many; once it has started, it keeps those that it has.
    """
    if threads is None:
        return True
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        logging.getLogger(__name__).warning("TensorFlow runs already; its threads stay as they are")
        return False
    return True
