"""Work in several processes at once, through joblib, so that its backends can also spread it over hosts.

A score, as a training, is a function of the topology and the settings alone, so it does not matter which process
computes it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from joblib.externals.loky import process_executor

from asvit_tf import private_names
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from search.runs.search_settings import WorkerSettings

if TYPE_CHECKING:
    from search.scoring.predicting import PredictingScorer
    from search.scoring.score import Score
    from search.scoring.settings import ScoringSettings
    from search.scoring.training_free import TrainingFreeScorer

_ORPHAN_CHECK_SECONDS = 2.0
_LEAK_BYTES = 8e9

_prepared = False  # Whether this process is set up for work.
# The scorer of this worker process: made at its first task, used for all that have the same settings and images.
_kept: tuple[tuple[ScoringSettings, str], TrainingFreeScorer | PredictingScorer] | None = None


class Pool:
    """Calls a function many times, side by side; the order of the results is that of the calls.

    Args:
      workers: How many processes, threads of each, and joblib's backend.
      growth: Bytes by which a process may grow before a new one takes its place.
    """

    def __init__(self, workers: WorkerSettings, growth: float = _LEAK_BYTES):
        self._threads = workers.threads_each
        self._growth = growth
        self._parallel = dict(n_jobs=workers.processes, backend=workers.backend)

    def map(self, function: Callable, calls: Iterable[tuple]) -> Iterator[Any]:
        """`function(*arguments)` for each of the calls.

        Raises:
          UserError: A process was killed from outside.
        """
        pool = joblib.Parallel(**self._parallel, return_as="generator", batch_size=1)
        process = (self._threads, os.getpid(), self._growth)
        tasks = (joblib.delayed(_work)(process, function, arguments) for arguments in calls)
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
      workers: As `Pool`.
    """

    def __init__(self, settings: ScoringSettings, images: np.ndarray, workers: WorkerSettings):
        self._pool = Pool(workers)
        self._images = images
        self._key = (settings, hashlib.sha256(images.tobytes()).hexdigest())

    def __call__(self, topologies: Sequence[Topology]) -> Iterator[Score]:
        return self._pool.map(_score, ((self._key, self._images, str(topology)) for topology in topologies))


def _work(process: tuple[int, int, float], function: Callable, arguments: tuple) -> Any:
    """Runs in a worker process."""
    global _prepared
    if not _prepared:
        _prepare_process(*process)
        _prepared = True
    return function(*arguments)


def _score(key: tuple[ScoringSettings, str], images: np.ndarray, topology: str) -> Score:
    global _kept
    from search.scoring.predicting import scorer_of

    if _kept is None or _kept[0] != key:
        _kept = key, scorer_of(key[0], images)
    return _kept[1].score(Topology.parse(topology))


def _prepare_process(threads: int, parent: int, growth: float) -> None:
    """Sets up TensorFlow before its first use, and ends the process when its parent is gone."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # loky ends a worker that has grown by 300 MB, to stop leaks; a larger topology is no leak, and a new process would
    # import TensorFlow again.
    private_names.let_workers_grow(growth)
    if parent != os.getpid():  # joblib runs the tasks of one worker in the calling process.
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    set_threads(threads)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_ORPHAN_CHECK_SECONDS)
    os._exit(1)


def set_threads(threads: int) -> None:
    """Limits TensorFlow's threads inside an operation, where it has not started yet."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:  # It has started; a worker of a cluster's backend may have been used before.
        logging.getLogger(__name__).warning("TensorFlow runs already; its threads stay as they are")
