"""Workers and schedulers that cannot be used are refused in a line, also those that come late."""

import os
import shutil
import time

import dask_processes
import pytest
from dask_processes import ROOT, pool, workers

from asvit_tf.errors import UserError
from search.runs import cluster
from search.runs.search_settings import WorkerSettings


@pytest.fixture
def scheduler():
    with dask_processes.scheduler() as started:
        yield started


def packages(folder):
    """The code, to be changed."""
    for package in ("asvit_tf", "search", "official_configs"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def without_packages(folder):
    """Where this is looked in first, the code cannot be imported."""
    for package in ("asvit_tf", "search"):
        (folder / f"{package}.py").write_text(f'raise ModuleNotFoundError("No module named {package!r}")\n')
    return str(folder)


def square(number):
    time.sleep(0.2)
    return number**2


CALLS = [(number,) for number in range(12)]


def test_workers_with_other_code_are_refused(scheduler, tmp_path):
    _, address = scheduler
    packages(tmp_path)
    with (tmp_path / "search/__init__.py").open("a") as file:
        file.write("# Another version.\n")
    with workers(address, 1, PYTHONPATH=str(tmp_path)), pytest.raises(UserError, match=r"here is .* both"):
        pool(address)


def test_late_workers_with_other_code_are_refused(scheduler, tmp_path):
    _, address = scheduler
    packages(tmp_path)
    with (tmp_path / "official_configs/study_asvit_i32_cpu.yaml").open("a") as file:
        file.write("# Another version.\n")
    with workers(address, 1), pool(address) as there, workers(address, 1, PYTHONPATH=str(tmp_path)):
        there._client.wait_for_workers(2, timeout=60)
        with pytest.raises(UserError, match=r"^the worker tcp://\S+ has asvit-tf .*, here is asvit-tf .* both"):
            list(there.map(square, CALLS))


def test_workers_without_the_package_are_refused(scheduler, tmp_path):
    _, address = scheduler
    with (
        workers(address, 1, PYTHONPATH=without_packages(tmp_path)),
        pytest.raises(UserError, match=r"cannot run asvit-tf: .*No module named 'asvit_tf'"),
    ):
        pool(address)


def test_late_workers_without_the_package_are_refused(scheduler, tmp_path):
    _, address = scheduler
    with workers(address, 1), pool(address) as there, workers(address, 1, PYTHONPATH=without_packages(tmp_path)):
        there._client.wait_for_workers(2, timeout=60)
        with pytest.raises(UserError, match=r"cannot run asvit-tf: No module named 'search' \(on tcp://\S+\)$"):
            list(there.map(square, CALLS))


def test_a_scheduler_needs_no_package(tmp_path):
    bare = dask_processes.scheduler(PYTHONPATH=without_packages(tmp_path))
    with bare as (_, address), workers(address, 1), pool(address) as there:
        assert list(there.map(square, CALLS[:2])) == [0, 1]


def test_a_scheduler_of_another_python_is_refused(scheduler, monkeypatch):
    _, address = scheduler
    monkeypatch.setattr(cluster.platform, "python_version", _python_2)
    with workers(address, 1), pytest.raises(UserError, match=r"has Python 3\.\S+, here is 2\.7\.18; install the same"):
        pool(address)


def _python_2():
    """Of the command; where a scheduler reads the function, it is the original one."""
    return "2.7.18"


_python_2.__module__, _python_2.__qualname__ = "platform", "python_version"


def test_workers_of_several_threads_are_refused(scheduler):
    _, address = scheduler
    with workers(address, 1, "--nthreads", "2"), pytest.raises(UserError, match=r"2 tasks at once; .*--nthreads 1"):
        pool(address)


def test_late_workers_of_several_threads_are_refused(scheduler):
    _, address = scheduler
    with workers(address, 1), pool(address) as there, workers(address, 1, "--nthreads", "2"):
        there._client.wait_for_workers(2, timeout=60)
        with pytest.raises(
            UserError, match=r"^the worker tcp://\S+ computes 2 tasks at once; start it with --nthreads 1$"
        ):
            list(there.map(square, CALLS))


def test_workers_of_little_memory_are_warned_of(scheduler, capsys):
    _, address = scheduler
    with workers(address, 1, "--memory-limit", "1GB"), workers(address, 1), pool(address, 2), pool(address):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2].startswith("2 workers; dashboard: ")
    assert lines[-1].startswith("warning: 1 of 2 workers may take less than 4 GB, tcp://")
    assert "1.0 GB; scoring takes 2 to 3 GB" in lines[-1]
    assert lines[-1].endswith("start them with --memory-limit 0")


def starts_tensorflow(number):
    import tensorflow as tf

    tf.zeros(())
    return os.environ["TF_FORCE_GPU_ALLOW_GROWTH"], tf.config.threading.get_intra_op_parallelism_threads()


def test_threads_of_workers_that_somebody_started(scheduler):
    _, address = scheduler
    with workers(address, 1):
        for given in (1, None, 1):  # A worker that has them keeps them.
            with pool(address, threads=given) as there:
                assert list(there.map(starts_tensorflow, [(0,)])) == [("true", 1)]
        with (
            pool(address, threads=3) as there,
            pytest.raises(
                UserError, match=r"already, with other threads than --worker-threads 3; start the worker again$"
            ),
        ):
            list(there.map(starts_tensorflow, [(0,)]))


def test_no_scheduler_and_no_worker(scheduler, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    monkeypatch.setattr(cluster, "_WORKER_SECONDS", 1)
    with pytest.raises(UserError, match=r"no scheduler answers at --cluster 127\.0\.0\.1:1; is it running there"):
        pool("127.0.0.1:1")
    with pytest.raises(UserError, match=r"has no worker .*: none is there$"):
        pool(scheduler[1])


@pytest.mark.parametrize("address", ["local:0", "local", "local:x", "", "host", "host:port", "tcp://:8786", "a b:1"])
def test_what_is_no_address(address):
    with pytest.raises(UserError, match="must be a scheduler's address such as"):
        WorkerSettings(cluster=address)


def test_cluster_or_processes():
    with pytest.raises(UserError, match="give one of the two"):
        WorkerSettings(2, cluster="local:2")
