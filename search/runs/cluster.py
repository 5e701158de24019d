"""Work on a Dask cluster: a scheduler's address, or `local:N` for N workers that are started on this machine.

Dask hands every task to a worker that has none, and hands it out again when a worker is lost. What is added here:
workers that would compute two tasks at once, or with other code, are refused; what all tasks share is sent once;
results come in the order of the calls; where no worker takes tasks, it is said. What runs there is in `cluster_tasks`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pickle
import platform
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asvit_tf.code_version import code_version
from asvit_tf.errors import UserError
from search.runs import cluster_tasks as tasks
from search.runs import workers as processes
from search.runs.search_settings import WorkerSettings

if TYPE_CHECKING:
    from distributed import Client, Future, WorkerPlugin

_CONNECT_SECONDS = 20
_WORKER_SECONDS = 60  # Until the first worker is there.
_LOOK_SECONDS = 30  # Between looks at the workers, where a result is not there.
_LOGGERS = ("distributed", "distributed.client", "tornado.application")  # Dask gives the second a level of its own.
_LEAST_MEMORY = 4e9  # Bytes of a worker; scoring takes 2 to 3 GB, and Dask pauses a worker at 80 % of its limit.


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
      settings: Its `cluster` says where; its threads are those of every worker.

    Raises:
      UserError: There is no scheduler, it has no worker, or one of them cannot be used; or Dask is not installed.
    """

    def __init__(self, settings: WorkerSettings):
        assert settings.cluster is not None
        self._address = settings.cluster
        self._is_local = settings.local_workers is not None
        self._name = uuid.uuid4().hex
        self._held: dict[str, Future] = {}  # What the last calls shared, by its content.
        self._lack: str | None = None  # Why no worker took tasks, when this was looked at last.
        self._closing = contextlib.ExitStack()
        try:
            self._setup = self._setup_of(settings)
            self._client = self._connected(settings)
            with self._reached():
                self._check()
        except BaseException:
            self.close()
            raise

    def map(self, function: Callable, calls: Iterable[tuple], shared: tuple = ()) -> Iterator[Any]:
        """`function(*shared, *arguments)` for each of the calls, in their order.

        Args:
          function: One that can be imported by its name.
          calls: Arguments of each; earlier ones are begun earlier.
          shared: Sent once, also where earlier calls had the same.

        Raises:
          UserError: The scheduler is gone, a worker cannot be used, or a task ended one worker after another.
        """
        from distributed import KilledWorker

        run, work = uuid.uuid4().hex, tasks.sent()
        future: Future | None = None
        futures: list[Future] = []
        arguments_of = {f"asvit-task-{run}-{i}": arguments for i, arguments in enumerate(calls)}
        try:
            with self._reached(lambda: future is not None and future.status == "error"):
                held = self._hold(map(pickle.dumps, shared))
                for i, (key, arguments) in enumerate(arguments_of.items()):
                    task = tasks.packed(self._setup, function, arguments)
                    futures.append(self._client.submit(work, code_version(), task, *held, key=key, priority=-i))
                for future in futures:
                    yield self._result(future)
        except KilledWorker as error:
            lost = _in_words(arguments_of.get(str(error.task), ()))
            raise UserError(
                f"the task of {lost} ended {error.allowed_failures + 1} workers one after another, perhaps for want of "
                "memory; give them more, and run again to continue"
            ) from error
        except ImportError as error:
            raise UserError(f"a worker of --cluster {self._address} cannot run asvit-tf: {error}") from error
        finally:
            if self._client.status == "running":
                with contextlib.suppress(*_lost_errors()):
                    self._client.cancel(futures)

    def close(self) -> None:
        """Leaves the cluster; ends it, where it was started here."""
        self._held.clear()
        with contextlib.suppress(TimeoutError):  # A worker that was killed takes its time to end.
            self._closing.close()

    def __enter__(self) -> ClusterPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _hold(self, shared: Iterable[bytes]) -> list[Future]:
        """What all tasks share, on the cluster; what is there from the last calls stays, the rest of that goes."""
        by_key = [(f"asvit-shared-{self._name}-{hashlib.sha256(each).hexdigest()}", each) for each in shared]
        there = {key: future for key, future in self._held.items() if future.status in ("pending", "finished")}
        # Each is a task of its own, which does nothing: a worker that is lost with it loses nothing.
        self._held = {key: there.get(key) or self._client.submit(bytes, each, key=key) for key, each in by_key}
        return [self._held[key] for key, _ in by_key]

    def _result(self, future: Future) -> Any:
        """Waits for a task; says so where no worker takes any."""
        from distributed import wait

        while not future.done():
            try:
                with self._client.as_current():
                    wait([future], timeout=_LOOK_SECONDS)
            except TimeoutError:  # Of the waiting; the task's own is raised below.
                lack = _lack_of_takers(self._workers())
                if lack is not None and lack != self._lack:
                    print(f"no worker of --cluster {self._address} takes tasks ({lack}); waiting", file=sys.stderr)
                self._lack = lack
        return future.result()

    @contextlib.contextmanager
    def _reached(self, is_of_task: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Says in a line that the scheduler is gone; errors of the tasks themselves pass."""
        try:
            yield
        except _lost_errors() as error:
            if is_of_task():
                raise
            raise UserError(
                f"the scheduler of --cluster {self._address} is gone; start it, and run again to continue"
            ) from error

    def _connected(self, settings: WorkerSettings) -> Client:
        try:
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise UserError("--cluster needs Dask: pip install 'asvit-tf[cluster]'") from error
        for name in _LOGGERS:  # What they tell of lost connections is said here in a line.
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if settings.local_workers is None:
            try:
                client = Client(self._address, timeout=_CONNECT_SECONDS)
            except (OSError, ValueError) as error:
                raise UserError(f"no scheduler answers at --cluster {self._address}; is it running there?") from error
            return self._closing.enter_context(client)
        cluster = LocalCluster(
            n_workers=settings.local_workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        )
        self._closing.enter_context(cluster)
        client = self._closing.enter_context(Client(cluster))
        client.register_plugin(_undisturbed())
        return client

    def _setup_of(self, settings: WorkerSettings) -> processes.Setup:
        """What the workers are set up by; each GPU of this machine serves its workers in turn."""
        number = settings.local_workers
        if number is None:
            return processes.Setup(settings.threads)
        places = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="asvit-workers-"))
        return processes.Setup(settings.threads_of(number), settings.gpus, number, places)

    def _workers(self) -> Mapping[str, Mapping[str, Any]]:
        """What the scheduler knows of its workers, by address."""
        return self._client.scheduler_info(n_workers=-1).get("workers", {})

    def _check(self) -> None:
        """Says who is there; refuses workers, and a scheduler, that would compute something else."""
        try:
            self._client.wait_for_workers(1, timeout=_WORKER_SECONDS)
        except TimeoutError as error:
            lack = _lack_of_takers(self._workers())
            raise UserError(f"the scheduler of --cluster {self._address} has no worker for it: {lack}") from error
        there = self._workers()
        for address, worker in there.items():
            if worker["nthreads"] != 1:
                raise UserError(tasks.too_many_tasks(address, worker["nthreads"]))
        for address, theirs in self._client.run(code_version, on_error="return").items():
            if isinstance(theirs, BaseException):
                raise UserError(f"the worker {address} cannot run asvit-tf: {theirs}")
            if theirs != code_version():
                raise UserError(tasks.other_code(f"the worker {address}", theirs, code_version()))
        print(f"{len(there)} worker{'s' * (len(there) > 1)}; {self._check_scheduler()}", file=sys.stderr)
        small = {address: worker["memory_limit"] for address, worker in there.items() if worker["memory_limit"]}
        small = {address: limit for address, limit in small.items() if limit < _LEAST_MEMORY}
        if small:
            address = min(small, key=small.__getitem__)
            print(
                f"warning: {len(small)} of {len(there)} workers may take less than 4 GB, {address} "
                f"{small[address] / 1e9:.1f} GB; scoring takes 2 to 3 GB, and Dask pauses or ends a worker near its "
                "limit: start them with --memory-limit 0",
                file=sys.stderr,
            )

    def _check_scheduler(self) -> str:
        """Refuses one that could not read tasks; returns where to look on, for which it needs bokeh."""
        theirs = self._client.run_on_scheduler(platform.python_version)
        if theirs.split(".")[:2] != platform.python_version().split(".")[:2]:
            raise UserError(
                f"the scheduler of --cluster {self._address} has Python {theirs}, here is {platform.python_version()}; "
                "install the same on both, and start it again"
            )

        def lacks_bokeh() -> bool:
            import importlib.util

            return importlib.util.find_spec("bokeh") is None

        if self._client.run_on_scheduler(lacks_bokeh):
            return "dashboard: pip install bokeh" + ("" if self._is_local else " where the scheduler is")
        return f"dashboard: {self._client.dashboard_link}"


def _lack_of_takers(workers: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why no worker takes tasks; None where one does."""
    states = Counter(worker["status"] for worker in workers.values())
    if states["running"]:
        return None
    words = {"paused": "paused for want of memory"}
    return ", ".join(f"{number} {words.get(state, state)}" for state, number in states.items()) or "none is there"


def _in_words(arguments: Sequence) -> str:
    return ", ".join(repr(each) for each in arguments if each is not None) or "what all tasks share"


def _undisturbed() -> WorkerPlugin:
    """Has workers of this machine ignore Ctrl-C, which reaches them, too; the command ends them."""
    from distributed import WorkerPlugin

    class Undisturbed(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            import signal

            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Undisturbed()


def _lost_errors() -> tuple[type[BaseException], ...]:
    from concurrent.futures import CancelledError

    from distributed.client import ClosedClientError
    from distributed.comm import CommClosedError

    return CancelledError, ClosedClientError, CommClosedError, TimeoutError, OSError
