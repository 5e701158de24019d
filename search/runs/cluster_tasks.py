"""What runs in the workers of a cluster. No TensorFlow before a task."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from asvit_tf.code_version import code_version
from asvit_tf.errors import UserError
from search.runs.workers import Setup

_applied: Setup | None = None  # What this process was set up by last.


def sent() -> Callable:
    """`work`, as what a task calls.

    A function in a function is sent as code, and what it takes are bytes: so a task can be read where nothing of this
    package is. A scheduler reads every task, and needs no TensorFlow for it; a worker that cannot read one leaves the
    cluster, without a word to the command.
    """

    def work(*arguments: Any) -> Any:
        from distributed import get_worker

        try:
            from search.runs import cluster_tasks
        except ImportError as error:
            raise ImportError(f"{error} (on {get_worker().address})") from error
        return cluster_tasks.work(*arguments)

    return work


def packed(setup: Setup, function: Callable, arguments: tuple) -> bytes:
    """A task's setup of its worker, and its call, whose function may import TensorFlow."""
    return pickle.dumps((setup, pickle.dumps((function, arguments))))


def work(code: str, task: bytes, *shared: bytes) -> Any:
    """A task, in a worker.

    Args:
      code: `code_version` of the command; a worker that came later was not asked for its.
      task: As `packed`.
      shared: The first arguments of all tasks' calls, pickled.

    Raises:
      UserError: The worker cannot be used.
    """
    from distributed import get_worker

    worker = get_worker()
    if code_version() != code:
        raise UserError(other_code(f"the worker {worker.address}", code_version(), code))
    if worker.state.nthreads != 1:
        raise UserError(too_many_tasks(worker.address, worker.state.nthreads))
    setup, call = pickle.loads(task)
    _set_up(setup, worker.address)
    function, arguments = pickle.loads(call)
    return function(*map(pickle.loads, shared), *arguments)


def other_code(who: str, theirs: str, ours: str) -> str:
    """Why a worker of another version is refused."""
    return f"{who} has {theirs}, here is {ours}; install the same on both, and start it again"


def too_many_tasks(address: str, threads: int) -> str:
    """Why a worker of several threads is refused."""
    return f"the worker {address} computes {threads} tasks at once; start it with --nthreads 1"


def _set_up(setup: Setup, address: str) -> None:
    """Once for a process; one that somebody started serves several commands."""
    global _applied
    if setup == _applied:
        return
    if not setup.apply():
        raise UserError(
            f"TensorFlow runs in the worker {address} already, with other threads than --worker-threads "
            f"{setup.threads}; start the worker again"
        )
    _applied = setup
