"""The training step compiled for a TPU by the real compiler, and the arithmetic around it."""

import dataclasses
import importlib.metadata
import inspect
import json

import pytest
import tensorflow as tf
from helpers import TINY
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
from asvit_tf.tpu import schedule as tpu_schedule
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
    call @relu_17 and @main and @relu_17
    %0 = stablehlo.add %arg0, %arg1 : tensor<4xf32> loc(#loc1)
    %1 = mhlo.copy %0 : tensor<4xf32> loc("a (b)")
    %2 = mhlo.copy %1 : tensor<4xf32> loc(unknown)
    %10 = stablehlo.multiply %2, %1 : tensor<4xf32> loc(#loc(callsite("f" at #loc1)))
"""
    lines = [line.strip() for line in tpu_compiler.cleaned(text).splitlines()]
    assert lines[0] == "call @f1 and @main and @f1"
    assert lines[1] == "%0 = stablehlo.add %arg0, %arg1 : tensor<4xf32>"
    assert lines[2].startswith("%10 = stablehlo.multiply %0, %0 : tensor<4xf32>")
    assert len(lines) == 3


@pytest.fixture
def compiled(monkeypatch):
    """Programs that were compiled, not read from the cache: text and TPU of each."""
    programs = []

    def compile_anew(text, topology_name):
        programs.append((text.strip(), topology_name))
        return Program(True, flops=float(len(programs)), profile=(tpu_schedule.Kind("copy f32[8]", 1, 2, 3),))

    monkeypatch.setattr(tpu_compiler, "_compile", compile_anew)
    monkeypatch.setattr(tpu_compiler, "version", lambda: "1.0")
    return programs


def test_a_result_is_kept_for_its_program_tpu_compiler_and_reading(compiled, tmp_path, monkeypatch):
    def flops(text="a", topology_name="v5e:2x2"):
        return tpu_compiler.compile_program(text, topology_name, tmp_path).flops

    assert [flops(), flops(), flops("b"), flops("a", "v5e:4x4"), flops("b"), flops()] == [1, 1, 2, 3, 2, 1]
    assert compiled == [("a", "v5e:2x2"), ("b", "v5e:2x2"), ("a", "v5e:4x4")]
    kept = tpu_compiler.compile_program("a", "v5e:2x2", tmp_path)
    assert kept.profile == (tpu_schedule.Kind("copy f32[8]", 1, 2, 3),)
    monkeypatch.setattr(tpu_compiler, "_READING", tpu_compiler._READING + 1)
    assert flops() == 4
    monkeypatch.setattr(tpu_compiler, "version", lambda: "1.1")
    assert flops() == 5


def test_another_text_of_this_package_throws_no_result_away(compiled, tmp_path, monkeypatch):
    first = tpu_compiler.compile_program("a", "v5e:2x2", tmp_path)
    monkeypatch.setattr(inspect, "getsource", lambda _: "reformatted")
    monkeypatch.setattr(inspect, "getsourcelines", lambda _: (["reformatted"], 0))
    for module in (tpu_compiler, tpu_schedule):
        monkeypatch.setattr(module, "__file__", str(tmp_path / "moved.py"))
        monkeypatch.setattr(module, "__doc__", "reworded")
    assert tpu_compiler.compile_program("a", "v5e:2x2", tmp_path) == first
    assert len(compiled) == 1


def test_a_changed_result_has_another_reading():
    """Where this fails, raise `_READING` and write down the new fields: results kept before lack them."""
    fields = {
        1: (
            "compiles message argument_bytes output_bytes aliased_bytes temporary_bytes code_bytes flops "
            "bytes_accessed hbm_bytes_moved cycles profile compile_seconds",
            "kind count cycles hbm_bytes",
        ),
        2: (
            "compiles message argument_bytes output_bytes aliased_bytes temporary_bytes code_bytes flops "
            "bytes_accessed hbm_bytes_moved cycles bounded_loops unknown_loops profile compile_seconds",
            "kind count cycles hbm_bytes",
        ),
    }[tpu_compiler._READING]
    parts = (Program, tpu_schedule.Kind)
    assert tuple(" ".join(field.name for field in dataclasses.fields(part)) for part in parts) == fields


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
    table = tpu_check.in_words(result, profile=True)
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
    assert tpu_check.check(params, "v6e:2x2", 64, compiled(1))["phases"][0]["compiler_seconds"] is None


def test_loops_of_unknown_count_are_told_in_one_line():
    def words(**loops):
        params = exp_factory.get_exp_config("retinanet_asvit_coco")
        program = Program(True, flops=197e12, **loops)
        return tpu_check.in_words(tpu_check.check(params, "v5e:2x2", 4, lambda *_: program)).splitlines()

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


def test_the_image_size_of_another_network(monkeypatch):
    monkeypatch.setattr(tpu_check.tpu_compiler, "version", lambda: "0")
    monkeypatch.setattr(tpu_check, "compiler", lambda params, *_: params)
    monkeypatch.setattr(tpu_check, "check", lambda params, *_: dict(size=params.task.model.input_size))
    rest = dict(config_file=[], params_override="", topology_name="v5e:2x2", batch=1, largest_batch=False)
    given = dict(topology=None, window=None, image_size=96, cache_dir=None, note=print, **rest)
    assert tpu_check.run(experiment="deit_imagenet_pretrain", **given) == dict(size=[96, 96, 3])
