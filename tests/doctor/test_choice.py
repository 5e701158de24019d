"""What a process takes of a machine: decisions on machines that are made up, and what TensorFlow is told."""

import dataclasses

import pytest
import tensorflow as tf
from helpers import TINY, FakeGpus
from machines import COMMON, GPU, PLAIN, TPU, TPU_VM

from asvit_tf import cli, precision
from asvit_tf.doctor import devices
from asvit_tf.errors import UserError
from asvit_tf.hardware import choice
from asvit_tf.hardware.choice import Chosen, Gpu
from asvit_tf.hardware.machine import CUDA_LIBRARIES

A100, L4, T4, P100 = (
    Gpu(f"NVIDIA {name}", capability)
    for name, capability in (("A100", (8, 0)), ("L4", (8, 9)), ("T4", (7, 5)), ("P100", (6, 0)))
)
AMD = Gpu("Radeon")
NO_DRIVER = dataclasses.replace(GPU, driver=None)
NO_CUDA = dataclasses.replace(GPU, packages=PLAIN.packages, missing_libraries=tuple(CUDA_LIBRARIES))
HIDDEN = dataclasses.replace(GPU, visible_gpus="-1")
PLAIN_TPU_VM = dataclasses.replace(TPU_VM, packages=PLAIN.packages)


@pytest.mark.parametrize(
    ("machine", "gpus", "strategy", "number", "dtype", "words"),
    [
        (PLAIN, [], "one_device", 0, "float32", "CPU, float32"),
        (GPU, [A100], "one_device", 1, "bfloat16", "1 GPU (NVIDIA A100), bfloat16"),
        (GPU, [A100] * 4, "mirrored", 4, "bfloat16", "4 GPUs (NVIDIA A100), bfloat16"),
        (GPU, [L4, A100], "mirrored", 2, "bfloat16", "2 GPUs (NVIDIA L4, NVIDIA A100), bfloat16"),
        (GPU, [T4], "one_device", 1, "float16", "1 GPU (NVIDIA T4), float16"),
        (GPU, [A100, T4], "mirrored", 2, "float16", "2 GPUs (NVIDIA A100, NVIDIA T4), float16"),
        (GPU, [P100], "one_device", 1, "float32", "1 GPU (NVIDIA P100), float32"),
        (GPU, [A100, AMD], "mirrored", 2, "float32", "2 GPUs (NVIDIA A100, Radeon), float32"),
        # TensorFlow decides: it may list GPUs that the PCI bus does not show.
        (PLAIN, [Gpu(None, (9, 0))], "one_device", 1, "bfloat16", "1 GPU (of unknown name), bfloat16"),
        (TPU_VM, [], "tpu", 0, "bfloat16", "TPU local, bfloat16; search and growth use the CPU"),
        (TPU, [], "one_device", 0, "float32", "CPU, float32"),
        (NO_DRIVER, [], "one_device", 0, "float32", "CPU, float32 (2 NVIDIA GPUs, and NVIDIA's kernel driver is not"),
        (
            NO_CUDA,
            [],
            "one_device",
            0,
            "float32",
            "CPU, float32 (2 NVIDIA GPUs, and no CUDA library for tensorflow 2.20",
        ),
        (HIDDEN, [], "one_device", 0, "float32", "CPU, float32 (CUDA_VISIBLE_DEVICES is '-1', which hides every GPU;"),
        (GPU, [], "one_device", 0, "float32", "CPU, float32 (TensorFlow lists none of 2 GPUs; mend it: nvidia-smi;"),
        (PLAIN_TPU_VM, [], "one_device", 0, "float32", "CPU, float32 (tensorflow 2.20.0 cannot use a TPU, tensorflow-"),
    ],
)
def test_what_is_chosen_unless_told_otherwise(machine, gpus, strategy, number, dtype, words):
    chosen = choice.choose("auto", None, machine, gpus)
    assert chosen.settings == dict(distribution_strategy=strategy, num_gpus=number, mixed_precision_dtype=dtype)
    assert str(chosen).startswith(words)
    assert "\n" not in str(chosen)
    assert chosen.note is None or "mend it: " in chosen.note


@pytest.mark.parametrize("machine", [PLAIN, GPU, TPU_VM, NO_DRIVER])
def test_a_cpu_that_is_asked_for_is_taken_without_a_word(machine):
    chosen = choice.choose("cpu", None, machine, [A100])
    assert str(chosen) == "CPU, float32"
    assert chosen.settings["num_gpus"] == 0


@pytest.mark.parametrize(
    ("hardware", "tpu", "machine", "message"),
    [
        ("gpu", None, PLAIN, "--hardware=gpu: this machine has no NVIDIA GPU; mend it: leave --hardware=gpu out"),
        (
            "gpu",
            None,
            NO_DRIVER,
            "--hardware=gpu: 2 NVIDIA GPUs, and NVIDIA's kernel driver is not loaded; mend it: in",
        ),
        (
            "gpu",
            None,
            HIDDEN,
            "--hardware=gpu: CUDA_VISIBLE_DEVICES is '-1', which hides every GPU; mend it: unset CUDA",
        ),
        ("gpu", None, GPU, "--hardware=gpu: TensorFlow lists none of 2 GPUs; mend it: nvidia-smi; python -c 'import"),
        ("tpu", None, PLAIN, "--hardware=tpu: tensorflow 2.20.0 cannot use a TPU, tensorflow-tpu can; mend it: python"),
        ("tpu", None, TPU, "--hardware=tpu: this machine has no TPU chip; mend it: run on a TPU VM"),
        ("auto", "local", TPU, "--tpu=local: this machine has no TPU chip; mend it: run on a TPU VM"),
        ("auto", "", TPU, "--tpu=local: this machine has no TPU chip; mend it: run on a TPU VM"),
        ("cpu", "local", TPU_VM, "--tpu=local and --hardware=cpu contradict each other; leave one out"),
        ("gpu", "slice", TPU_VM, "--tpu=slice and --hardware=gpu contradict each other; leave one out"),
        ("cuda", None, PLAIN, "unknown hardware 'cuda'; allowed are auto, cpu, gpu, tpu"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line_with_its_reason(hardware, tpu, machine, message):
    with pytest.raises(UserError) as refused:
        choice.choose(hardware, tpu, machine, [])
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_a_tensorflow_without_cuda_is_the_reason():
    machine = dataclasses.replace(GPU, packages={"tensorflow-cpu": "2.20.0", **COMMON})
    with pytest.raises(UserError, match=r"it is built without CUDA; mend it: .* install 'tensorflow"):
        choice.choose("gpu", None, machine, [], has_cuda=False)


def test_a_tpu_by_name_is_not_looked_for_on_this_machine():
    for hardware in ("auto", "tpu"):
        chosen = choice.choose(hardware, "slice", PLAIN, [A100])
        assert (chosen.kind, chosen.tpu, chosen.gpus) == ("tpu", "slice", ())


@pytest.mark.parametrize(
    ("chosen", "visible", "names"),
    [
        (Chosen(), None, ("-1",)),
        (Chosen("tpu", tpu="local"), None, ("-1",)),
        (Chosen("gpu", (A100,)), None, ("0",)),
        (Chosen("gpu", (A100,) * 3), None, ("0", "1", "2")),
        (Chosen("gpu", (A100,) * 2), "3, GPU-5f1a", ("3", "GPU-5f1a")),
        (Chosen("gpu", (A100,) * 2), "3,1,99", ("3", "1")),  # CUDA counts up to the first that is not there.
    ],
)
def test_each_scoring_process_is_shown_one_gpu(chosen, visible, names):
    assert chosen.worker_gpus({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == names


def test_gpus_that_are_taken_give_their_memory_bit_by_bit(monkeypatch):
    told = FakeGpus(monkeypatch, A100, T4)
    assert devices.take(machine=GPU) == Chosen("gpu", (A100, T4))
    assert told.grows == [("GPU:0", True), ("GPU:1", True)]
    assert told.visible is None


@pytest.mark.parametrize(("hardware", "tpu"), [("cpu", None), ("auto", "slice")])
def test_gpus_that_are_not_taken_are_hidden(monkeypatch, hardware, tpu):
    told = FakeGpus(monkeypatch, A100)
    assert devices.take(hardware, tpu, machine=GPU).gpus == ()
    assert told.visible == ([], "GPU")
    assert told.grows == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--hardware", "cuda"], "'cuda' is not one of 'auto', 'cpu', 'gpu', 'tpu'"),
        (["run", "--hardware", "cpu", "--tpu", "local"], "--tpu=local and --hardware=cpu contradict each other"),
        (["run", "--hardware", "gpu"], "--hardware=gpu: this machine has no NVIDIA GPU"),
        (["run", "--hardware", "tpu"], "--hardware=tpu: tensorflow 2.20.0 cannot use a TPU, tensorflow-tpu can"),
        (["run", "--tpu", "local"], "--tpu=local: tensorflow 2.20.0 cannot use a TPU, tensorflow-tpu can"),
        (["complexity", TINY, "--hardware", "gpu"], "--hardware=gpu: this machine has no NVIDIA GPU"),
        (["complexity", TINY, "--hardware", "tpu"], "'tpu' is not one of 'auto', 'cpu', 'gpu'"),
        (["search", "--dataset", "noise", "--hardware", "gpu"], "--hardware=gpu: this machine has no NVIDIA GPU"),
    ],
)
def test_a_command_refuses_hardware_in_one_line_before_any_work(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(devices, "examine", lambda: PLAIN)
    place = {"run": ["--output", str(tmp_path)], "search": ["--save_dir", str(tmp_path)]}.get(arguments[0], [])
    assert cli.main([*arguments, *place]) == 2
    output, error = capsys.readouterr()
    assert error.startswith(f"asvit: {'Invalid value' if 'not one of' in message else message}")
    assert message in error
    assert (output, error.count("\n")) == ("", 1)
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "scores.jsonl").exists()


def test_products_are_whole_in_measures_and_may_be_rounded_in_training():
    allowed = tf.config.experimental.tensor_float_32_execution_enabled
    before = allowed()
    for rounded in (True, False):
        with precision.tensor_float_32(rounded):
            assert allowed() is rounded
            with precision.tensor_float_32(not rounded):
                assert allowed() is not rounded
            assert allowed() is rounded
    assert allowed() is before
