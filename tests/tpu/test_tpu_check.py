"""The training step compiled for a TPU by the real compiler, and the arithmetic around it."""

import importlib.metadata
import json
import math

import pytest
import tensorflow as tf
from helpers import CONFIGS, TINY
from official.core import exp_factory

from asvit_tf import (
    cli,
    registry_imports,  # noqa: F401
)
from asvit_tf.design.retokenization import Tokenization
from asvit_tf.errors import UserError
from asvit_tf.modeling import layers
from asvit_tf.tpu import check as tpu_check
from asvit_tf.tpu import compiler as tpu_compiler
from asvit_tf.tpu import programs as tpu_programs
from asvit_tf.tpu import wording
from asvit_tf.tpu.compiler import Program

ARGUMENTS = ["tpu-check", TINY, "--image_size", "32", "--batch", "4", "--json"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def checked(capsys, cache, *arguments):
    status = cli.main([*ARGUMENTS, "--cache_dir", str(cache), *arguments])
    output = capsys.readouterr().out
    return status, json.loads(output) if output else None


@pytest.mark.usefixtures("clean_policy")
def test_every_phase_compiles_and_is_kept(capsys, cache, monkeypatch):
    status, result = checked(capsys, cache)
    assert status == 0
    assert [(phase["stride"], phase["dilation"]) for phase in result["phases"]] == [(8, 2), (4, 1), (2, 1)]
    parameters = 70_000
    for phase in result["phases"]:
        assert phase["compiles"]
        # Weights and two moments in float32 stay on the chip, and the step works on top of them.
        assert phase["hbm_bytes"] > phase["argument_bytes"] > 3 * 4 * parameters
        assert phase["compiler_seconds"] == phase["estimated_seconds"] > phase["roofline_seconds"] > 0
        # What is moved is no more than what is touched, and every weight and moment is read and written.
        assert phase["bytes_accessed"] > phase["hbm_bytes_moved"] > 2 * 3 * 4 * parameters
        assert phase["profile"][0]["cycles"] >= phase["profile"][1]["cycles"] > 0
        assert 0 < phase["peak_share"] <= 1
    coarse, middle, fine = (phase["flops"] for phase in result["phases"])
    assert coarse < middle < fine
    assert 0 < result["saved"] < 1

    def fail(*arguments):
        raise AssertionError("compiled again")

    monkeypatch.setattr(tpu_compiler, "_compile", fail)
    assert checked(capsys, cache) == (0, result)


@pytest.mark.usefixtures("clean_policy")
def test_a_dynamic_shape_is_named(capsys, cache, monkeypatch):
    call = layers.Stem.call

    def dynamic(self, images):
        tokens = call(self, images)
        length = tf.cast(tf.reduce_max(tf.stop_gradient(tokens)), tf.int32)
        return tokens + tf.cast(tf.reduce_sum(tf.range(length)), tokens.dtype)

    monkeypatch.setattr(layers.Stem, "call", dynamic)
    status, result = checked(capsys, cache)
    assert status == 1
    assert result["chip_hours"] is None
    assert not result["phases"][0]["compiles"]
    assert "compile-time constant" in result["phases"][0]["message"]
    assert "range" in result["phases"][0]["message"].lower()


def test_without_the_compiler_one_line_says_how_to_get_it(capsys, monkeypatch):
    version = importlib.metadata.version

    def missing(name):
        if name in ("jax", "libtpu"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert cli.main(ARGUMENTS) == 2
    assert "pip install 'asvit-tf[tpu-check]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology_name", "v9:2x2"], "unknown TPU topology 'v9:2x2'"),
        (["--topology_name", "v5e"], "as in v5e:2x2"),
        (["--config_file", "nowhere.yaml"], "nowhere.yaml"),
        (["--experiment", "nothing"], "unknown experiment 'nothing'"),
        (["--batch", "0"], "0 is not in the range"),
    ],
)
def test_bad_input(capsys, arguments, message):
    assert cli.main([*ARGUMENTS, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_cleaned_program():
    text = """#loc1 = loc("x")
module @a_step_123.4 {
    func.func @main and func.func private @relu_17
    call @relu_17 and @main and custom_call @Sharding
    %0 = stablehlo.add %arg0, %arg1 : tensor<4xf32> loc(#loc1)
    %1 = mhlo.copy %0 : tensor<4xf32> loc("a (b)")
    %2 = mhlo.copy %1 : tensor<4xf32> loc(unknown)
    %10 = stablehlo.multiply %2, %1 : tensor<4xf32> loc(#loc(callsite("f" at #loc1)))
"""
    lines = [line.strip() for line in tpu_compiler.cleaned(text).splitlines()]
    assert lines[:2] == ["module @f1 {", "func.func @main and func.func private @f2"]
    assert lines[2] == "call @f2 and @main and custom_call @Sharding"
    assert lines[3] == "%0 = stablehlo.add %arg0, %arg1 : tensor<4xf32>"
    assert lines[4].startswith("%10 = stablehlo.multiply %0, %0 : tensor<4xf32>")
    assert len(lines) == 5


def fake(tokenization, batch):
    """A network whose step takes 1 ms an image at all tokens, and so much less at fewer."""
    share = (4 / tokenization.stride) ** 2
    return Program(
        True, argument_bytes=1 << 30, temporary_bytes=int(batch * share * 2**27), flops=197e9 * batch * share
    )


def test_chip_hours_by_hand():
    params = exp_factory.get_exp_config("asvit_imagenet")
    params.override({"task": {"model": {"backbone": {"asvit": {"topology": "small"}}}}})
    params.override({"trainer": {"train_steps": 300 * 1251}})
    result = tpu_check.check(params, "v5e:2x2", 64, fake)
    images = 300 * 1251 * 1024
    assert result["chip_hours_without"] == pytest.approx(images / 1000 / 3600)
    # A transition moves a step or two from one phase to the next.
    assert result["saved"] == pytest.approx((15 / 16 + 3 / 4) / 3, rel=1e-4)
    fine = result["phases"][-1]
    assert fine["images_per_second"] == pytest.approx(1000)
    assert (fine["bound"], fine["peak_share"]) == ("flops", pytest.approx(1))
    assert fine["hbm_bytes"] == (1 << 30) + 64 * 2**27
    assert result["roofline"]["chip_hours"] == result["chip_hours"]  # These programs have no cycles.
    table = wording.in_words(result, profile=True)
    assert "saved 56.3%" in table


def test_roofline_takes_the_tighter_bound():
    chip = tpu_compiler.chip_of("v5e:2x2")
    assert Program(True, flops=197e12, hbm_bytes_moved=int(819e9 / 2)).roofline_seconds(chip) == pytest.approx(1)
    assert Program(True, flops=197e12, hbm_bytes_moved=int(819e9 * 3)).roofline_seconds(chip) == pytest.approx(3)


def test_estimate_is_the_longer_of_roofline_and_cycles():
    def compiled(cycles):
        return lambda tokenization, batch: Program(True, flops=197e12, cycles=cycles)

    params = exp_factory.get_exp_config("asvit_imagenet")
    for cycles, seconds in ((int(0.5 * 1.5e9), 1), (int(2 * 1.5e9), 2), (0, 1)):
        phase = tpu_check.check(params, "v5e:2x2", 64, compiled(cycles))["phases"][0]
        assert phase["estimated_seconds"] == pytest.approx(seconds)


@pytest.mark.parametrize("name", tpu_compiler.CHIPS)
def test_clocks_are_what_the_peaks_imply_for_whole_matrix_units(name):
    """Of 128 x 128 or 256 x 256 multiplications and additions a cycle; of these a power of two."""
    chip = tpu_compiler.CHIPS[name]
    units = math.log2(chip.flops / chip.clock / (2 * 128 * 128))
    assert abs(units - round(units)) < 0.01


def test_chips_of_a_classifier_are_those_that_have_its_batch():
    params = exp_factory.get_exp_config("asvit_imagenet")
    params.override({"trainer": {"train_steps": 300 * 1251}})
    params.override({"task": {"validation_data": {"global_batch_size": 2000}}})

    def checked(batch):
        result = tpu_check.check(params, "v5e:2x2", batch, fake)
        return result["chips"], wording.in_words(result).splitlines()

    chips, (first, *_, last) = checked(64)
    assert chips == 16
    assert first == "v5e:2x2, 64 images on a chip; 1024 a step are 16 chips"
    assert "hours on 16 chips; all tokens throughout" in last
    chips, (*_, last) = checked(32)
    assert chips == 32
    assert last == "task.validation_data.global_batch_size is 2000, which 32 chips do not divide"
    chips, (first, *_) = checked(48)
    assert chips is None
    assert first == "v5e:2x2, 48 images on a chip; no whole number of chips has the 1024 of a step so"


def test_loops_of_unknown_count_are_told_in_one_line():
    def words(**loops):
        params = exp_factory.get_exp_config("retinanet_asvit_coco")
        program = Program(True, flops=197e12, **loops)
        return wording.in_words(tpu_check.check(params, "v5e:2x2", 4, lambda *_: program)).splitlines()

    (line,) = set(words(bounded_loops=1, unknown_loops=2)) - set(words())
    assert line == (
        "loops in the estimate: 2 of unknown trip count, counted once; 1 that may end early, counted as often as they "
        "can run"
    )
    (line,) = set(words(unknown_loops=3)) - set(words())
    assert line == "loops in the estimate: 3 of unknown trip count, counted once"


def test_largest_batch_is_confirmed_and_lowered_until_it_compiles():
    chip = tpu_compiler.chip_of("v5e:2x2")
    found = tpu_check.find_largest_batch(fake, Tokenization(), chip, 16)
    assert found["batch"] == 15 * 8  # (16 - 1) GiB at 1/8 GiB an image.
    assert found["fixed_bytes"] == 1 << 30

    def fragile(tokenization, batch):
        return Program(False, "out of memory") if batch > 100 else fake(tokenization, batch)

    assert tpu_check.find_largest_batch(fragile, Tokenization(), chip, 16)["batch"] == 96
    assert tpu_check.find_largest_batch(fragile, Tokenization(), chip, 256)["batch"] == 96  # Nor does 128 compile.
    assert tpu_check.find_largest_batch(lambda *_: Program(False, "no"), Tokenization(), chip, 16)["message"] == "no"

    def spared(tokenization, batch):
        """Memory that is no line: it looks as if 8 images fit, and 24 do."""
        return Program(batch <= 24, "out of memory", temporary_bytes={8: 1, 16: 15, 24: 16}.get(batch, 17) << 30)

    found = tpu_check.find_largest_batch(spared, Tokenization(), chip, 16)
    assert (found["batch"], found["hbm_bytes"]) == (24, 16 << 30)

    def alone(tokenization, batch):
        return Program(False, "out of memory") if batch > 1 else fake(tokenization, batch)

    assert tpu_check.find_largest_batch(alone, Tokenization(), chip, 16, 1)["batch"] == 1


@pytest.mark.parametrize("options", [dict(topology="small"), dict(window="fixed")])
def test_what_only_an_as_vit_has_is_refused_for_others(options, monkeypatch):
    monkeypatch.setattr(tpu_check.tpu_compiler, "version", lambda: "0")
    given = dict(topology=None, window=None, image_size=None) | options
    rest = dict(config_file=[], params_override="", topology_name="v5e:2x2", batch=1, largest_batch=False)
    with pytest.raises(UserError, match="no As-ViT; leave out TOPOLOGY and --window"):
        tpu_check.run(experiment="deit_imagenet_pretrain", cache_dir=None, note=print, **given, **rest)


@pytest.mark.parametrize(
    ("files", "override", "stride", "source"),
    [
        ([], "", 2, "what asvit run chooses"),
        (["digits_asvit_i32_cpu.yaml"], "", 4, "the experiment's"),
        ([], "task.model.backbone.asvit.base_stride=1,task.model.backbone.asvit.stride=1", 1, "the experiment's"),
    ],
)
def test_the_base_stride_of_an_image_size_is_said(files, override, stride, source, monkeypatch):
    monkeypatch.setattr(tpu_check.tpu_compiler, "version", lambda: "0")
    monkeypatch.setattr(tpu_check, "compiler", lambda params, *_: params)
    monkeypatch.setattr(tpu_check, "check", lambda params, *_: dict(asvit=params.task.model.backbone.asvit))
    notes = []
    rest = dict(topology=None, window=None, topology_name="v5e:2x2", batch=1, largest_batch=False, cache_dir=None)
    given = dict(config_file=[str(CONFIGS / file) for file in files], params_override=override, image_size=64, **rest)
    asvit = tpu_check.run(experiment="asvit_digits", note=notes.append, **given)["asvit"]
    assert (asvit.base_stride, asvit.stride) == (stride, stride)
    assert len(notes) == 1
    assert notes[0].startswith(f"base stride {stride}: {source}")


@pytest.mark.usefixtures("clean_policy")
@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"trainer": {"optimizer_config": {"ema": {"average_decay": 0.99}}}}, "tensor<2xi32>"),
        ({"task": {"train_data": {"is_multilabel": True}}}, "tensor<2x10xf32>"),
    ],
    ids=["averages", "several labels"],
)
def test_what_else_an_experiment_of_classification_may_have_is_lowered(fields, labels):
    params = exp_factory.get_exp_config("asvit_digits")
    params.override({"task": {"model": {"backbone": {"asvit": {"topology": TINY}}}, "losses": {"one_hot": True}}})
    rate = {"learning_rate": {"cosine": {"decay_steps": 9}}, "warmup": {"linear": {"warmup_steps": 1}}}
    params.override({"trainer": {"train_steps": 9, "optimizer_config": rate}})
    params.override(fields)
    program = tpu_programs.training_step(params, Tokenization(4), 2)
    (main,) = (line for line in program.splitlines() if "@main(" in line)
    assert labels in main


def test_the_image_size_of_another_network(monkeypatch):
    monkeypatch.setattr(tpu_check.tpu_compiler, "version", lambda: "0")
    monkeypatch.setattr(tpu_check, "compiler", lambda params, *_: params)
    monkeypatch.setattr(tpu_check, "check", lambda params, *_: dict(size=params.task.model.input_size))
    rest = dict(config_file=[], params_override="", topology_name="v5e:2x2", batch=1, largest_batch=False)
    given = dict(topology=None, window=None, image_size=96, cache_dir=None, note=print, **rest)
    assert tpu_check.run(experiment="deit_imagenet_pretrain", **given) == dict(size=[96, 96, 3])
