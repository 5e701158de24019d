"""Work on a Dask cluster: a scheduler's address, or `local:N` for N workers that are started on this machine.

Dask hands every task to a worker that has none, and hands it out again when a worker is lost. What is added here:
workers that would compute two tasks at once, or with other code, are refused; what all tasks share is sent once;
results come in the order of the calls.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from asvit_tf.code_version import code_version
from asvit_tf.errors import UserError
from search.runs import workers as processes
from search.runs.search_settings import WorkerSettings

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_SECONDS = 20
_WORKER_SECONDS = 60  # Until the first worker is there.


@contextlib.contextmanager
def opened(settings: WorkerSettings, growth: float = processes.LEAK_BYTES) -> Iterator[processes.Pool | ClusterPool]:
    """The processes or the cluster of some settings, for the length of a `with` block; `growth` as of `Pool`."""
    if settings.cluster is None:
        yield processes.Pool(settings, growth)
    else:
        with ClusterPool(settings) as pool:
            yield pool


class ClusterPool:
    """`workers.Pool`, on the workers of a cluster.

    Args:
      settings: Its `cluster` says where; threads are those of a worker of `local:N`.

    Raises:
      UserError: There is no scheduler, it has no worker, or one that cannot be used; or Dask is not installed.
    """

    def __init__(self, settings: WorkerSettings):
        assert settings.cluster is not None
        self._address = settings.cluster
        self._closing = contextlib.ExitStack()
        self._client = self._connected(settings)
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def map(self, function: Callable, calls: Iterable[tuple], shared: tuple = ()) -> Iterator[Any]:
        """`function(*shared, *arguments)` for each of the calls, in their order.

        Raises:
          UserError: The scheduler is gone, or a task ended one worker after another.
        """
        from distributed import KilledWorker

        run, code = uuid.uuid4().hex, code_version()
        held = [self._client.submit(_held, each, key=f"asvit-shared-{run}-{i}") for i, each in enumerate(shared)]
        futures = [
            self._client.submit(_work, code, function, *held, *arguments, key=f"asvit-task-{run}-{i}")
            for i, arguments in enumerate(calls)
        ]
        try:
            for future in futures:
                yield future.result()
        except KilledWorker as error:
            raise UserError(
                f"a task was tried on several workers, and each ended ({error}); perhaps they lack memory; "
                "run again to continue"
            ) from error
        except _lost_errors() as error:
            if future.status == "error":  # The task's own.
                raise
            raise UserError(
                f"the scheduler of --cluster {self._address} is gone; start it, and run again to continue"
            ) from error
        finally:
            if self._client.status == "running":
                self._client.cancel(futures + held)

    def close(self) -> None:
        """Leaves the cluster; ends it, where it was started here."""
        self._closing.close()

    def __enter__(self) -> ClusterPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _connected(self, settings: WorkerSettings) -> Client:
        try:
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise UserError("--cluster needs Dask: pip install 'asvit-tf[cluster]'") from error
        logging.getLogger("distributed").setLevel(logging.ERROR)
        number = settings.local_workers
        if number is None:
            try:
                client = Client(self._address, timeout=_CONNECT_SECONDS)
            except (OSError, ValueError) as error:
                raise UserError(f"no scheduler answers at --cluster {self._address}; is it running there?") from error
            return self._closing.enter_context(client)
        cluster = LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=":0",
            silence_logs=logging.ERROR,
        )
        self._closing.enter_context(cluster)
        client = self._closing.enter_context(Client(cluster))
        gpus = settings.gpus or ("",)
        for i, worker in enumerate(client.scheduler_info(n_workers=-1)["workers"]):
            client.run(_prepare, settings.threads_of(number), gpus[i % len(gpus)], workers=[worker])
        return client

    def _check(self) -> None:
        """Says who is there; refuses workers that would compute something else."""
        try:
            self._client.wait_for_workers(1, timeout=_WORKER_SECONDS)
        except TimeoutError as error:
            raise UserError(f"the scheduler of --cluster {self._address} has no worker") from error
        there = self._client.scheduler_info(n_workers=-1)["workers"]
        for address, worker in there.items():
            if worker["nthreads"] != 1:
                raise UserError(
                    f"the worker {address} computes {worker['nthreads']} tasks at once; start it with --nthreads 1"
                )
        ours = code_version()
        for address, theirs in self._client.run(_code_of_worker, on_error="return").items():
            if isinstance(theirs, BaseException):
                raise UserError(f"the worker {address} cannot run asvit-tf: {theirs}")
            if theirs != ours:
                raise UserError(f"the worker {address} has {theirs}, here is {ours}; install the same on both")
        print(f"{len(there)} workers; dashboard: {self._client.dashboard_link}", file=sys.stderr)


def _code_of_worker() -> str:
    return code_version()


def _prepare(threads: int, gpu: str) -> None:
    """Sets up a worker of `local:N` before TensorFlow starts there."""
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # Workers may share a GPU.
    processes.set_threads(threads)


def _held(value: Any) -> Any:
    """What all tasks share, as a task of its own: a worker that is lost with it loses nothing."""
    return value


def _work(code: str, function: Callable, *arguments: Any) -> Any:
    """A task, in a worker; workers that came later were not asked before."""
    processes.quiet()
    if code_version() != code:
        raise UserError(f"a worker has {code_version()}, the command {code}; install the same on both")
    return function(*arguments)


def _lost_errors() -> tuple[type[BaseException], ...]:
    from concurrent.futures import CancelledError

    from distributed.comm import CommClosedError

    return CancelledError, CommClosedError, TimeoutError, OSError
