"""Work on a Dask cluster: the rows of one process, whatever happens to workers; and what is refused.

The scheduler and the workers are processes of their own, as somebody would start them on several machines.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asvit_tf.errors import UserError
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


@pytest.fixture
def scheduler():
    """A scheduler, and its address."""
    with command("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0") as process:
        for line in process.stderr:
            found = re.search(r"Scheduler at:\s+(tcp://\S+)", line)
            if found:
                yield process, found[1]
                return
        pytest.fail("the scheduler did not start")


@contextlib.contextmanager
def workers(address, number, *options, **variables):
    """So many workers."""
    with contextlib.ExitStack() as stack:
        arguments = ("worker", address, "--nthreads", "1", "--no-dashboard", *options)
        yield [stack.enter_context(command(*arguments, **variables)) for _ in range(number)]


def pool(address, number=1):
    """Once so many workers are there."""
    opened = cluster.ClusterPool(WorkerSettings(cluster=address))
    opened._client.wait_for_workers(number, timeout=60)
    return opened


def pid_and_square(offset, number):
    time.sleep(0.1)
    return os.getpid(), (number + offset) ** 2


def test_two_workers_in_the_order_of_the_calls(scheduler):
    _, address = scheduler
    with workers(address, 2), pool(address, 2) as there:
        rows = list(there.map(pid_and_square, [(number,) for number in range(12)], (3,)))
    assert [square for _, square in rows] == [(number + 3) ** 2 for number in range(12)]
    assert len({pid for pid, _ in rows} - {os.getpid()}) == 2


def kills_its_worker_once(folder, number):
    """The first task of all ends its worker in the middle, like a machine that is switched off."""
    with contextlib.suppress(FileExistsError):
        (folder / "killed").touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_lost_workers_task_is_done_by_another(scheduler, tmp_path):
    _, address = scheduler
    with workers(address, 2), pool(address, 2) as there:
        assert list(there.map(kills_its_worker_once, [(number,) for number in range(6)], (tmp_path,))) == list(range(6))
    assert (tmp_path / "killed").exists()


def kills_its_worker(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_no_worker_survives(scheduler):
    _, address = scheduler
    with (
        workers(address, 1),
        pool(address) as there,
        pytest.raises(UserError, match="tried on several workers") as error,
    ):
        list(there.map(kills_its_worker, [(0,)]))
    assert "\n" not in str(error.value)


def lacks_a_file(number):
    raise FileNotFoundError("no such image")


def test_an_error_of_the_task_is_not_the_schedulers(scheduler):
    _, address = scheduler
    with workers(address, 1), pool(address) as there, pytest.raises(FileNotFoundError, match="no such image"):
        list(there.map(lacks_a_file, [(0,)]))


def slow(number):
    time.sleep(1)
    return number


def test_a_scheduler_that_goes(scheduler):
    process, address = scheduler
    with workers(address, 1), pool(address) as there:
        rows = there.map(slow, [(number,) for number in range(30)])
        assert next(rows) == 0
        process.kill()
        with pytest.raises(UserError, match="is gone; start it, and run again to continue"):
            list(rows)


def test_workers_with_other_code_are_refused(scheduler, tmp_path):
    _, address = scheduler
    for package in ("asvit_tf", "search"):
        shutil.copytree(ROOT / package, tmp_path / "other" / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "other/search/__init__.py").open("a") as file:
        file.write("# Another version.\n")
    with workers(address, 1, PYTHONPATH=str(tmp_path / "other")), pytest.raises(UserError, match=r"here is .* both"):
        pool(address)


def test_workers_without_the_package_are_refused(scheduler, tmp_path):
    _, address = scheduler
    (tmp_path / "search.py").write_text("raise ModuleNotFoundError(\"No module named 'search'\")\n")
    with (
        workers(address, 1, PYTHONPATH=str(tmp_path)),
        pytest.raises(UserError, match=r"cannot run asvit-tf: .*search"),
    ):
        pool(address)


def test_workers_of_several_threads_are_refused(scheduler):
    _, address = scheduler
    with workers(address, 1, "--nthreads", "2"), pytest.raises(UserError, match=r"2 tasks at once; .*--nthreads 1"):
        pool(address)


def test_no_scheduler_and_no_worker(scheduler, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    monkeypatch.setattr(cluster, "_WORKER_SECONDS", 1)
    with pytest.raises(UserError, match=r"no scheduler answers at --cluster 127\.0\.0\.1:1; is it running there"):
        pool("127.0.0.1:1")
    with pytest.raises(UserError, match="has no worker"):
        pool(scheduler[1])


@pytest.mark.parametrize("address", ["local:0", "local", "local:x", "", "host", "host:port", "tcp://:8786", "a b:1"])
def test_what_is_no_address(address):
    with pytest.raises(UserError, match="must be a scheduler's address such as"):
        WorkerSettings(cluster=address)


def test_cluster_or_processes():
    with pytest.raises(UserError, match="give one of the two"):
        WorkerSettings(2, cluster="local:2")


def threads(number):
    import tensorflow as tf

    return os.getpid(), tf.config.threading.get_intra_op_parallelism_threads()


def test_workers_of_this_machine():
    with cluster.opened(WorkerSettings(threads=1, cluster="local:2")) as there:
        rows = list(there.map(threads, [(number,) for number in range(6)]))
    assert {number for _, number in rows} == {1}
    for pid, _ in rows:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
