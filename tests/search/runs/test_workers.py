"""Worker processes share out GPUs: each is shown one, before TensorFlow could look for others."""

import os
import subprocess
import sys
import time

import pytest

from asvit_tf import private_names
from search.runs import workers
from search.runs.search_settings import WorkerSettings


def shown(seconds):
    """What this process would find, were there GPUs."""
    time.sleep(seconds)  # So that no process does the work of all.
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH")


@pytest.mark.parametrize(
    ("processes", "gpus", "expected"),
    [(3, ("3", "5"), {"3", "5"}), (2, (), {"as it was"})],
)
def test_every_process_is_shown_one_gpu_in_turn(processes, gpus, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "as it was")
    private_names.end_workers()  # Those of another test are prepared already.
    pool = workers.Pool(WorkerSettings(processes, 1, gpus=gpus))
    seen = list(pool.map(shown, [(0.5,)] * 4 * processes))
    by_process = {process: gpu for process, gpu, _ in seen}
    assert {(process, gpu) for process, gpu, _ in seen} == set(by_process.items())  # It stays the same one.
    assert len(by_process) == processes
    assert set(by_process.values()) == expected
    assert {grows for *_, grows in seen} == {"true"}  # They share its memory.
    assert os.getpid() not in by_process
    private_names.end_workers()
    assert not any(os.path.exists(f"/proc/{process}") for process in by_process)


def test_the_only_process_of_a_pool_keeps_its_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ((process, gpu, _),) = workers.Pool(WorkerSettings(1, 1, gpus=("3",))).map(shown, [(0,)])
    assert (process, gpu) == (os.getpid(), None)


def test_the_place_of_a_process_that_ends_is_free(tmp_path):
    code = (
        "import sys, pathlib; from search.runs.workers import take_place\n"
        "print(take_place(pathlib.Path(sys.argv[1]), 3), flush=True); sys.stdin.read()"
    )

    def begin():
        process = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return process, int(process.stdout.readline())

    begun = [begin() for _ in range(3)]
    assert [place for _, place in begun] == [0, 1, 2]
    begun[1][0].kill()
    begun[1][0].wait()
    begun.append(begin())
    assert begun[-1][1] == 1
    assert workers.take_place(tmp_path, 3) in range(3)  # All are taken.
    for process, _ in begun:
        process.communicate()
