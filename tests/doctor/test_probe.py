"""The process with TensorFlow: how fast a device trains, and every way to end before its work is done."""

import itertools
import json
import math
import subprocess
import sys
import textwrap

import pytest
import tensorflow as tf
from helpers import two_devices
from machines import GPU, PLAIN, SPEED, TPU_VM, examined, listing

from asvit_tf.doctor import examination, probe
from asvit_tf.doctor.examination import Probe


def test_speed_counts_the_images_of_all_replicas():
    clock = iter([0.0, 10.0, 11.0, 12.0, 13.0, 14.0])  # Start, begin, before steps 2, 3 and none; the end.
    speed = probe.training_speed(two_devices(), seconds=2.5, clock=lambda: next(clock))
    # The first step takes no look at the clock; 1, 2 and 3 s have passed before and after the others.
    assert speed["steps"] == 3
    assert speed["replicas"] == 2
    assert speed["images_per_second"] == pytest.approx(probe.BATCH_SIZE * 2 * 3 / 4.0)
    assert speed["trace_seconds"] == 10.0


def test_the_tiny_network_learns_its_noise():
    strategy = tf.distribute.OneDeviceStrategy("/CPU:0")
    speed = probe.training_speed(strategy, seconds=19, clock=itertools.count().__next__)  # A second at each look.
    assert speed["steps"] == 19
    assert speed["loss"] < math.log(10) - 0.5  # Well below guessing.


def test_a_process_that_aborts_is_a_finding_with_its_reason(monkeypatch):
    code = textwrap.dedent(
        """
        import os, sys
        print("F0000 tpu_api.cc] SomeTpuFunction not available in this library.", file=sys.stderr)
        print("*** Check failure stack trace: ***", file=sys.stderr)
        print("@ 0x7f tsl::Fatal", file=sys.stderr)
        print("see the log for more", file=sys.stderr, flush=True)
        os.abort()
        """
    )
    run = subprocess.run
    monkeypatch.setattr(
        examination.subprocess, "run", lambda command, **options: run([sys.executable, "-c", code], **options)
    )
    probed = examination.probe(PLAIN, 1.0)
    assert probed.rows == []
    assert probed.failure == "ends by SIGABRT: F0000 tpu_api.cc] SomeTpuFunction not available in this library."
    result = examination.examine(PLAIN, 1.0)
    assert not result["healthy"]
    assert "SomeTpuFunction" in examination.in_words(result)


def test_a_process_that_hangs_is_a_finding(monkeypatch):
    run = subprocess.run

    def hang(command, timeout, **options):
        code = "import sys, time; print('The TPU is in use by process 7', file=sys.stderr, flush=True); time.sleep(60)"
        return run([sys.executable, "-c", code], timeout=2, **options)

    monkeypatch.setattr(examination.subprocess, "run", hang)
    assert examination.probe(PLAIN, None).failure == "did not answer within 600 s: The TPU is in use by process 7"


@pytest.mark.parametrize(
    ("machine", "done", "device", "about", "mend"),
    [
        (TPU_VM, ["CPU:0"], "TPU", "tpu", "end the process that holds the device"),
        (GPU, ["CPU:0"], "GPU:0", "gpu", "end the process that holds the device"),
        (GPU, ["CPU:0", "GPU:0"], "GPU:1", "gpu", "end the process that holds the device"),
        (PLAIN, [], "CPU:0", "software", "free memory"),
    ],
)
@pytest.mark.parametrize("failure", ["did not answer within 600 s: no message", "ends by SIGABRT: Check failed"])
def test_a_process_that_ends_in_training_names_the_device(machine, done, device, about, mend, failure):
    devices = ["CPU:0", "GPU:0", "GPU:1"] if machine is GPU else ["CPU:0"]
    rows = [dict(device=name, speed=SPEED) for name in done]
    result = examined(machine, listing(*devices), *rows, failure=failure)
    (finding,) = result["findings"]
    assert finding["about"] == about
    assert finding["what"] == f"no training step on {device}: the process {failure}"
    assert finding["mend"].startswith(mend)
    assert [speed["device"] for speed in result["speed"]] == done


@pytest.mark.parametrize(("seconds", "rows"), [(None, []), (1.0, [dict(device="CPU:0", speed=SPEED)])])
def test_a_process_that_ends_after_its_last_row_accuses_no_device(seconds, rows):
    probed = Probe([listing("CPU:0"), *rows], "ends by SIGSEGV: no message")
    (finding,) = examination.examine(PLAIN, seconds, lambda machine, seconds: probed)["findings"]
    assert "the process with TensorFlow, its work done, ends by SIGSEGV" in finding["what"]
    assert "rm -r .venv && make .venv/done" in finding["mend"]


def test_whatever_stops_one_device_the_next_is_tried(tmp_path, monkeypatch):
    def speed(strategy, seconds):
        if strategy == "CPU:0":
            raise KeyError("x")
        return SPEED

    monkeypatch.setattr(probe, "listing", lambda: listing("CPU:0", "GPU:0", "XLA_GPU:0"))
    monkeypatch.setattr(probe, "_strategy", lambda device: device)
    monkeypatch.setattr(probe, "training_speed", speed)
    probe.main(str(tmp_path / "report"), "1", "tpu")
    rows = [json.loads(line) for line in (tmp_path / "report").read_text().splitlines()]
    assert rows[1] == dict(device="CPU:0", error="KeyError: 'x'")
    assert rows[2:] == [dict(device=name, speed=SPEED) for name in ("GPU:0", "TPU")]


@pytest.mark.parametrize(
    ("machine", "about", "mend"),
    [(TPU_VM, "tpu", "holds the device"), (GPU, "gpu", "holds the device"), (PLAIN, "software", "rm -r .venv &&")],
)
def test_devices_that_cannot_be_listed_are_a_reason(tmp_path, monkeypatch, machine, about, mend):
    def fail():
        raise tf.errors.InternalError(None, None, "cudaErrorDevicesUnavailable")

    monkeypatch.setattr(probe, "listing", fail)
    probe.main(str(tmp_path / "report"), "1")
    (row,) = [json.loads(line) for line in (tmp_path / "report").read_text().splitlines()]
    result = examined(machine, row)
    (finding,) = result["findings"]
    assert finding["about"] == about
    assert finding["what"] == "TensorFlow cannot list its devices: InternalError: cudaErrorDevicesUnavailable"
    assert mend in finding["mend"]
    assert not result["healthy"]
    assert result["tensorflow"] is None
    assert "cudaErrorDevicesUnavailable" in examination.in_words(result)


def test_a_device_that_does_not_train():
    rows = (
        listing("CPU:0"),
        dict(device="CPU:0", speed=SPEED),
        dict(device="TPU", error="The TPU is in use by process 7"),
    )
    result = examined(TPU_VM, *rows)
    assert not result["healthy"]
    assert [speed["device"] for speed in result["speed"]] == ["CPU:0"]
    assert "no training step on TPU: The TPU is in use by process 7" in examination.in_words(result)
