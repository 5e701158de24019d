"""Work on a Dask cluster: the rows of one process, whatever happens to workers and scheduler."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import dask_processes
import pytest
from dask_processes import pool, workers

from asvit_tf import cli
from asvit_tf.errors import UserError
from search.runs import cluster
from search.runs.search_settings import WorkerSettings


@pytest.fixture
def scheduler():
    with dask_processes.scheduler() as started:
        yield started


def pid_and_square(offset, number):
    time.sleep(0.1)
    return os.getpid(), (number + offset) ** 2


def test_two_workers_in_the_order_of_the_calls(scheduler):
    _, address = scheduler
    with workers(address, 2), pool(address, 2) as there:
        rows = list(there.map(pid_and_square, [(number,) for number in range(12)], (3,)))
        imported = there._client.run_on_scheduler(lambda: list(sys.modules))
    assert [square for _, square in rows] == [(number + 3) ** 2 for number in range(12)]
    assert len({pid for pid, _ in rows} - {os.getpid()}) == 2
    assert "dask" in imported
    assert not {"tensorflow", "search", __name__} & {*imported}  # A scheduler needs nothing that tasks need.


def pauses(dask_worker):
    from distributed.core import Status

    dask_worker.status = Status.paused


def goes_on(dask_worker):
    from distributed.core import Status

    dask_worker.status = Status.running


@contextlib.contextmanager
def paused(there, seconds):
    """Workers that take no tasks for so long."""
    there._client.run(pauses)
    later = threading.Timer(seconds, there._client.run, (goes_on,))
    later.start()
    try:
        yield
    finally:
        later.join()


def begins(file, number):
    with file.open("a") as lines:
        lines.write(f"{number}\n")


def test_earlier_calls_are_begun_earlier(scheduler, tmp_path):
    _, address = scheduler
    # Paused, so that what they share and all of them are there before one begins.
    with workers(address, 1), pool(address) as there, paused(there, 2):
        list(there.map(begins, [(number,) for number in range(40)], (tmp_path / "begun",)))
    assert list(map(int, (tmp_path / "begun").read_text().split())) == list(range(40))


def size(shared, number):
    return len(shared) + number


def test_what_calls_share_is_sent_once(scheduler, monkeypatch):
    _, address = scheduler
    large, other = b"x" * 1_000_000, b"y" * 1_000_000
    with workers(address, 1), pool(address) as there:
        submit, sent = there._client.submit, []
        monkeypatch.setattr(there._client, "submit", lambda *task, **key: sent.append(task) or submit(*task, **key))
        for value in (large, bytes(bytearray(large)), other, large):
            assert list(there.map(size, [(0,), (1,)], (value,))) == [1_000_000, 1_000_001]
        assert list(there.map(size, [(2,)], (b"y",))) == [3]
    # The first one twice: the calls before its third use had not needed it.
    parts = [part for task in sent for part in task if isinstance(part, bytes)]
    assert [sum(value in part for part in parts) for value in (large, other)] == [2, 1]
    assert len(sent) == 4 * 2 + 1 + 4


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


def kills_its_worker(topology, seed):
    if topology == "8,2,3|...":
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_no_worker_survives_is_named(scheduler):
    _, address = scheduler
    calls = [("4,1,2|...", None), ("8,2,3|...", None), ("16,1,2|...", None)]
    with (
        workers(address, 1),
        pool(address) as there,
        pytest.raises(UserError, match=r"^the task of '8,2,3\|\.\.\.' ended 4 workers one after another") as error,
    ):
        list(there.map(kills_its_worker, calls))
    assert "\n" not in str(error.value)


def fails(error):
    raise error


@pytest.mark.parametrize("error", [FileNotFoundError("no such image"), TimeoutError("no such image")])
def test_an_error_of_the_task_is_not_the_schedulers(error, scheduler):
    _, address = scheduler
    with workers(address, 1), pool(address) as there, pytest.raises(type(error), match="no such image"):
        list(there.map(fails, [(error,)]))


def test_where_no_worker_takes_tasks_it_is_said_once(scheduler, monkeypatch, capsys):
    _, address = scheduler
    monkeypatch.setattr(cluster, "_LOOK_SECONDS", 0.3)
    with workers(address, 1), pool(address) as there, paused(there, 3):
        rows = list(there.map(pid_and_square, [(number,) for number in range(3)], (0,)))
    assert [square for _, square in rows] == [0, 1, 4]
    lines = [line for line in capsys.readouterr().err.splitlines() if "takes tasks" in line]
    assert lines == [f"no worker of --cluster {address} takes tasks (1 paused for want of memory); waiting"]


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


@pytest.mark.parametrize("until", ["at once", "closed"])
def test_a_scheduler_that_goes_before_the_first_task(until, scheduler, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 2)
    process, address = scheduler
    with workers(address, 1), pool(address) as there:
        process.kill()
        end = time.monotonic() + 60
        while until == "closed" and there._client.status != "closed" and time.monotonic() < end:
            time.sleep(0.1)
        with pytest.raises(UserError, match="is gone; start it, and run again to continue"):
            list(there.map(slow, [(0,)]))


def threads(number):
    import tensorflow as tf

    time.sleep(0.5)  # So that no worker does the work of all.
    # Ctrl-C reaches workers of this machine, too; they leave it to the command.
    return (
        os.getpid(),
        tf.config.threading.get_intra_op_parallelism_threads(),
        signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    )


def test_workers_of_this_machine(tmp_path):
    calls = [(number,) for number in range(6)]
    with cluster.opened(WorkerSettings(threads=1, cluster="local:2")) as there:
        assert list(there.map(kills_its_worker_once, calls[:2], (tmp_path,))) == [0, 1]
        there._client.wait_for_workers(2, timeout=60)
        rows = list(there.map(threads, calls))
    assert {row[1:] for row in rows} == {(1, True)}  # One of the two took the place of another.
    assert len({row[0] for row in rows}) == 2
    for pid, *_ in rows:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def shown(number):
    time.sleep(0.5)
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["TF_FORCE_GPU_ALLOW_GROWTH"]


def test_workers_of_this_machine_are_shown_one_gpu_each(monkeypatch):
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    with cluster.opened(WorkerSettings(threads=1, gpus=("3", "5"), cluster="local:2")) as there:
        rows = set(there.map(shown, [(number,) for number in range(6)]))
    assert sorted(row[1:] for row in rows) == [("3", "true"), ("5", "true")]


SEARCH = (
    *("search", "--dataset", "noise", "--image_size", "32", "--batch_size", "2", "--repeat", "1", "--points", "3"),
    *("--samples_per_step", "2", "--worker-threads", "1"),
)


def rows_of(directory):
    """Both journals of a search, without seconds."""
    rows = [json.loads(line) for name in ("trace", "scores") for line in (directory / f"{name}.jsonl").open()]
    return [{name: value for name, value in row.items() if name not in ("seconds", "split")} for row in rows]


def test_a_search_leaves_the_rows_of_one_process_and_continues(tmp_path, capsys):
    command = [*SEARCH, "--save_dir", str(tmp_path / "cluster"), "--cluster", "local:2"]
    assert cli.main([*command, "--total_steps", "3"]) == 0
    assert "2 workers; dashboard: " in capsys.readouterr().err
    rows = rows_of(tmp_path / "cluster")
    assert cli.main([*command, "--total_steps", "3"]) == 0
    assert rows_of(tmp_path / "cluster") == rows
    alone = [*SEARCH, "--save_dir", str(tmp_path / "alone"), "--workers", "1", "--total_steps", "3"]
    subprocess.run([sys.executable, "-m", "asvit_tf.cli", *alone], check=True, capture_output=True)
    assert rows_of(tmp_path / "cluster") == rows_of(tmp_path / "alone")
