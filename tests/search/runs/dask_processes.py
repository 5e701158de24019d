"""A scheduler and workers of Dask as processes of their own, as somebody would start them on several machines."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from search.runs import cluster
from search.runs.search_settings import WorkerSettings

ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def command(*arguments, **variables):
    """A process of `dask`, and its lines of standard error; it is gone behind the block."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]), **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        cwd="/",  # Which `-m` has Python look in first.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


@contextlib.contextmanager
def scheduler(**variables):
    """A scheduler, and its address."""
    with command(
        "scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0", **variables
    ) as process:
        for line in process.stderr:
            found = re.search(r"Scheduler at:\s+(tcp://\S+)", line)
            if found:
                yield process, found[1]
                return
        raise AssertionError("the scheduler did not start")


@contextlib.contextmanager
def workers(address, number, *options, **variables):
    """So many workers."""
    with contextlib.ExitStack() as stack:
        arguments = ("worker", address, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard", *options)
        yield [stack.enter_context(command(*arguments, **variables)) for _ in range(number)]


def pool(address, number=1, threads=None):
    """Once so many workers are there."""
    opened = cluster.ClusterPool(WorkerSettings(threads=threads, cluster=address))
    opened._client.wait_for_workers(number, timeout=60)
    return opened
