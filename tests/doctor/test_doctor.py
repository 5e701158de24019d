"""asvit doctor: the process with TensorFlow, what training would use, one line a finding."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys
import textwrap

import pytest
import tensorflow as tf
from helpers import TINY, two_devices

from asvit_tf import cli
from asvit_tf.doctor import examination, probe
from asvit_tf.doctor.examination import Probe
from asvit_tf.errors import UserError
from asvit_tf.hardware.machine import CUDA_LIBRARIES, Machine, examine
from asvit_tf.training import strategies

COMMON = {"tf-keras": "2.20.1", "tf-models-official": "2.20.0", "tensorflow-text": "2.20.1"}
PLAIN = Machine("3.11.7", "Linux x86_64", {"tensorflow": "2.20.0", **COMMON})
TPU = dataclasses.replace(PLAIN, packages={"tensorflow-tpu": "2.20.0", "libtpu": "0.0.31", **COMMON})
TPU_VM = dataclasses.replace(TPU, tpu_kind="v5e", tpu_chips=4, tpu_devices=4)
GPU = dataclasses.replace(
    PLAIN,
    packages=PLAIN.packages | dict.fromkeys(CUDA_LIBRARIES.values(), "12.9") | {"nvidia-cudnn-cu12": "9.28"},
    **dict(gpus=2, gpu_devices=2, driver="550.54.15", driver_library=True, missing_libraries=()),
)
SPEED = dict(images_per_second=1000.0, steps=30, replicas=1, trace_seconds=9.0, loss=2.3)


def listing(*devices, gpus=()):
    details = [dict(name="GPU", compute_capability=list(capability)) for capability in gpus]
    return dict(tensorflow="2.20.0", build=dict(cuda=None, cudnn=None), devices=list(devices), gpus=details)


def examined(machine, *rows, failure=None):
    return examination.examine(machine, 1.0, lambda machine, seconds: Probe(list(rows), failure))


def test_the_command_trains_on_this_machine(capsys):
    status = cli.main(["doctor", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert status == 0, result["findings"]
    assert result["tensorflow"]["tensorflow"] == tf.__version__
    assert result["tensorflow"]["devices"][0] == "CPU:0"
    assert result["speed"][0]["device"] == "CPU:0"
    assert result["speed"][0]["images_per_second"] > 1
    assert math.isfinite(result["speed"][0]["loss"])


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


def test_a_wrong_libtpu_is_told_without_importing_tensorflow():
    def never(machine, seconds):
        raise AssertionError("TensorFlow was imported")

    wrong = dataclasses.replace(TPU_VM, packages=TPU_VM.packages | {"libtpu": "0.0.52"})
    result = examination.examine(wrong, 1.0, never)
    assert not result["healthy"]
    assert result["tensorflow"] is None
    assert "libtpu is 0.0.52" in examination.in_words(result)


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
        return run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2, **options)

    monkeypatch.setattr(examination.subprocess, "run", hang)
    assert "did not answer" in examination.probe(PLAIN, None).failure


def test_gpus_that_tensorflow_does_not_list():
    result = examined(GPU, listing("CPU:0"))
    assert "TensorFlow lists none of 2 GPUs" in examination.in_words(result)
    assert not result["healthy"]
    rows = listing("CPU:0", "GPU:0", "GPU:1", gpus=[(8, 0), (8, 0)])
    assert examined(GPU, rows)["healthy"]


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


@pytest.mark.parametrize(
    ("machine", "gpus", "strategy", "number", "dtype", "flags"),
    [
        (PLAIN, [], "one_device", 0, "float32", "runtime.mixed_precision_dtype=float32"),
        (TPU_VM, [], "tpu", 0, "bfloat16", "--tpu=local"),
        (TPU, [], "one_device", 0, "float32", "runtime.num_gpus=0"),
        (GPU, [(8, 0)], "one_device", 1, "bfloat16", "runtime.num_gpus=1"),
        (GPU, [(9, 0), (9, 0)], "mirrored", 2, "bfloat16", "runtime.distribution_strategy=mirrored"),
        (GPU, [(8, 0), (7, 5)], "mirrored", 2, "float32", "runtime.num_gpus=2"),  # One of them multiplies no bfloat16.
    ],
)
def test_what_training_would_use(machine, gpus, strategy, number, dtype, flags):
    choice = examination.training_choice(machine, listing("CPU:0", gpus=gpus))
    assert (choice["distribution_strategy"], choice["num_gpus"], choice["mixed_precision_dtype"]) == (
        strategy,
        number,
        dtype,
    )
    assert flags in choice["flags"]


@pytest.mark.parametrize(
    ("machine", "message"), [(PLAIN, "tensorflow 2.20.0 cannot use a TPU"), (TPU, "this machine has no TPU chip")]
)
def test_a_strategy_of_a_tpu_that_is_not_there_is_one_line(machine, message):
    from official.core import config_definitions as cfg

    for address in ("local", ""):
        with pytest.raises(UserError, match=f"--tpu=local: {message}"):
            strategies.build(cfg.RuntimeConfig(distribution_strategy="tpu", tpu=address), machine)
    with pytest.raises(UserError, match="no TPU is named"):
        strategies.build(cfg.RuntimeConfig(distribution_strategy="tpu"), machine)


def test_what_tensorflow_says_of_a_tpu_that_does_not_start_is_one_line():
    from official.core import config_definitions as cfg

    # TensorFlow without TPUs on a machine that would have one.
    with pytest.raises(UserError, match=r"--tpu=local: TensorFlow cannot start it \(.*\); asvit doctor says more"):
        strategies.build(cfg.RuntimeConfig(distribution_strategy="tpu", tpu="local"), TPU_VM)


def test_commands_refuse_a_libtpu_that_would_abort_them(capsys, monkeypatch):
    wrong = dataclasses.replace(TPU, packages=TPU.packages | {"libtpu": "0.0.52"})
    monkeypatch.setattr("asvit_tf.hardware.environment.examine", lambda: wrong)
    assert cli.main(["complexity", TINY]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install --no-deps libtpu==0.0.31" in error


def test_the_compiler_is_refused_where_nothing_can_be_lowered_for_it(capsys, monkeypatch):
    monkeypatch.setattr("asvit_tf.tpu.compiler.examine", lambda: TPU)
    assert cli.main(["tpu-check", TINY]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ".venv/bin/asvit tpu-check" in error


def test_looking_at_this_machine_loads_no_tensorflow():
    code = (
        "import sys; from asvit_tf.hardware import machine; machine.examine(); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert examine().packages["tf-models-official"]
