"""asvit doctor: what training would use, one line a finding."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
import tensorflow as tf
from helpers import TINY
from machines import COMMON, GPU, PLAIN, TPU, TPU_VM, examined, listing

from asvit_tf import cli
from asvit_tf.dataloaders.classification import Dataset
from asvit_tf.design.topology import Topology
from asvit_tf.doctor import examination
from asvit_tf.errors import UserError
from asvit_tf.hardware.choice import Gpu, choose
from asvit_tf.hardware.machine import examine
from asvit_tf.tasks import plans
from asvit_tf.training import runtimes, strategies


def test_the_command_trains_on_this_machine(capsys):
    status = cli.main(["doctor", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert status == (0 if result["healthy"] else 1)  # It may be a host of GPUs or TPUs with a plain environment.
    assert result["tensorflow"]["tensorflow"] == tf.__version__
    assert "CPU:0" in result["tensorflow"]["devices"]
    (speed,) = [speed for speed in result["speed"] if speed["device"] == "CPU:0"]
    assert speed["images_per_second"] > 1
    assert math.isfinite(speed["loss"])


def test_a_wrong_libtpu_is_told_without_importing_tensorflow():
    def never(machine, seconds):
        raise AssertionError("TensorFlow was imported")

    wrong = dataclasses.replace(TPU_VM, packages=TPU_VM.packages | {"libtpu": "0.0.52"})
    result = examination.examine(wrong, 1.0, never)
    assert not result["healthy"]
    assert result["tensorflow"] is None
    assert "libtpu is 0.0.52" in examination.in_words(result)


@pytest.mark.parametrize(
    ("machine", "mend"),
    [
        (PLAIN, "rm -r .venv && make .venv/done"),
        (TPU_VM, "rm -r .venv-tpu && make tpu-env"),
        (GPU, "rm -r .venv-gpu && make gpu-env"),
    ],
)
def test_an_environment_is_made_again_from_nothing(machine, mend):
    result = examined(machine, failure="ends by SIGABRT: no message")
    (finding,) = result["findings"]
    assert "imports TensorFlow ends by SIGABRT" in finding["what"]
    assert finding["mend"].endswith(mend)
    assert ("holds the device" in finding["mend"]) == (machine is not PLAIN)


@pytest.mark.parametrize("packages", [GPU.packages, PLAIN.packages], ids=["of pip", "of the system"])
def test_gpus_that_tensorflow_does_not_list(packages):
    machine = dataclasses.replace(GPU, packages=packages)
    result = examined(machine, listing("CPU:0"))
    assert "TensorFlow lists none of 2 GPUs" in examination.in_words(result)
    assert not result["healthy"]
    rows = listing("CPU:0", "GPU:0", "GPU:1", gpus=[(8, 0), (8, 0)])
    assert examined(machine, rows)["healthy"]


def test_a_tensorflow_without_cuda_is_replaced():
    machine = dataclasses.replace(GPU, packages={"tensorflow-cpu": "2.20.0", **COMMON})
    (finding,) = examined(machine, listing("CPU:0"))["findings"]
    assert "built without CUDA" in finding["what"]
    assert "pip uninstall -y tensorflow-cpu && python -m pip install 'tensorflow[and-cuda]==2.20.0'" in finding["mend"]


@pytest.mark.parametrize(("visible", "what"), [("9", "lists none of 2"), ("-1", "hides every"), ("", "hides every")])
def test_hidden_gpus_are_one_finding(visible, what):
    result = examined(dataclasses.replace(GPU, visible_gpus=visible), listing("CPU:0"))
    (finding,) = result["findings"]
    assert what in finding["what"]
    assert f"CUDA_VISIBLE_DEVICES is {visible!r}" in finding["what"]
    assert finding["mend"].startswith("unset CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("machine", "gpus", "strategy", "number", "dtype", "flags"),
    [
        (PLAIN, [], "one_device", 0, "float32", "runtime.mixed_precision_dtype=float32"),
        (
            *(TPU_VM, [], "tpu", 0, "bfloat16"),
            "--tpu=local --params_override=runtime.distribution_strategy=tpu,runtime.mixed_precision_dtype=bfloat16",
        ),
        (TPU, [], "one_device", 0, "float32", "runtime.num_gpus=0"),
        (GPU, [(8, 0)], "one_device", 1, "bfloat16", "runtime.num_gpus=1"),
        (GPU, [(9, 0), (9, 0)], "mirrored", 2, "bfloat16", "runtime.distribution_strategy=mirrored"),
        (GPU, [(8, 0), (7, 5)], "mirrored", 2, "float16", "runtime.num_gpus=2"),  # One of them multiplies no bfloat16.
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
    ("machine", "gpus", "said"),
    [
        (PLAIN, [], "trains on the CPU in float32; search uses the CPU"),
        (TPU_VM, [], "trains on the TPU in bfloat16; search uses the CPU"),
        (GPU, [(7, 5)], "trains on GPU:0 in float16; search uses GPU:0"),
        (GPU, [(8, 0)] * 4, "trains on 4 GPUs in bfloat16; search uses 4 GPUs"),
    ],
)
def test_what_run_uses_is_said_and_is_what_its_experiment_gets(machine, gpus, said):
    devices = ["CPU:0", *(f"GPU:{number}" for number in range(len(gpus)))]
    result = examined(machine, listing(*devices, gpus=gpus))
    assert f"asvit run     {said}\n" in examination.in_words(result)

    dataset = Dataset("data", ("a", "b"), train_examples=64, validation_examples=16)
    plan = plans.Plan(image_size=(32, 32), seed=0, epochs=1, batch_size=32)
    params = plans.classifier(plan, dataset, Topology.parse(TINY))
    runtime = runtimes.Runtime(choose("auto", None, machine, [Gpu("GPU", gpu) for gpu in gpus]), plan.batch_size)
    runtime.replicas = max(1, len(gpus))  # Or a TPU would be started.
    runtime.apply(params, dataset.validation_examples)
    told = {name: value for name, value in result["run"].items() if name != "search_device"}
    assert told == {name: getattr(params.runtime, name) for name in told}
    assert len(told) == 3


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
    assert "python -m pip install --no-deps libtpu==0.0.31" in error


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
