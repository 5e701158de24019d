"""Training steps of detectors and segmenters compiled for a TPU by the real compiler, and what follows from them."""

import json

import pytest
from helpers import CONFIGS, TINY_DETECTOR
from official.core import exp_factory

from asvit_tf import (
    cli,
    private_names,
    registry_imports,  # noqa: F401
)
from asvit_tf.tpu import check as tpu_check
from asvit_tf.tpu import compiler as tpu_compiler
from asvit_tf.tpu import programs as tpu_programs
from asvit_tf.tpu import wording
from asvit_tf.tpu.compiler import Program

COMMON = (
    "runtime.mixed_precision_dtype=bfloat16,task.train_data.dtype=bfloat16,task.model.num_classes=4,"
    "task.model.decoder.fpn.num_filters=8"
)
# Of the experiments on scenes, with a head as small as there can be.
SMALLER = {
    "retinanet": "task.model.head.num_filters=8,task.model.head.num_convs=1",
    "segmentation": "task.model.head.num_filters=8,task.model.head.num_convs=1",
    "cascadercnn": (
        "task.model.rpn_head.num_filters=8,task.model.detection_head.num_filters=8,task.model.detection_head.fc_dims=8,"
        "task.model.mask_head.num_filters=8,task.model.mask_head.num_convs=1,task.model.roi_generator.pre_nms_top_k=16,"
        "task.model.roi_generator.num_proposals=8,task.model.roi_sampler.num_sampled_rois=8,"
        "task.model.mask_sampler.num_sampled_masks=4,task.train_data.parser.mask_crop_size=28"
    ),
}


def arguments(task, *more, override=""):
    yaml = CONFIGS / f"shapes_{task}_asvit_i128_cpu.yaml"
    return [
        *("tpu-check", TINY_DETECTOR, "--experiment", f"{task}_asvit_coco", "--config_file", str(yaml)),
        *("--image_size", "64", "--json", "--params_override", f"{COMMON},{SMALLER[task]}{override}", *more),
    ]


@pytest.mark.usefixtures("clean_policy")
def test_a_whole_step_compiles(capsys, tmp_path):
    # Eight images a step on four chips.
    assert cli.main(arguments("retinanet", "--cache_dir", str(tmp_path))) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["batch"], result["chips"]) == (2, 4)
    (phase,) = result["phases"]
    assert phase["compiles"]
    assert (phase["stride"], phase["dilation"]) == (None, None)
    # Weights and two moments in float32, more than 5000 of each, stay on the chip.
    assert phase["hbm_bytes"] > phase["argument_bytes"] > phase["aliased_bytes"] > 3 * 4 * 5000
    assert phase["estimated_seconds"] >= phase["roofline_seconds"] > 0
    assert phase["images_per_second"] == pytest.approx(2 / phase["estimated_seconds"])
    assert result["hours"] == pytest.approx(phase["steps"] * phase["estimated_seconds"] / 3600)


@pytest.mark.parametrize("task", ["segmentation", "cascadercnn"])
@pytest.mark.usefixtures("clean_policy")
def test_a_whole_step_is_a_program_that_the_compiler_reads(tmp_path, monkeypatch, task):
    """Compiling these takes minutes; what stood in the way was only that the program could not be read."""
    pytest.importorskip("libtpu")
    programs = []

    def read(text, topology_name):
        programs.append(str(private_names.parse_stablehlo(text)))
        return Program(True, flops=1.0)

    monkeypatch.setattr(tpu_compiler, "_compile", read)
    assert cli.main(arguments(task, "--cache_dir", str(tmp_path))) == 0
    (program,) = programs
    assert "tensor<2x64x64x3xbf16>" in program
    # Suppression compares boxes with those before them: the upper triangle of 512 x 512.
    assert ("tensor<1x512x512xi1>" in program) == (task == "cascadercnn")


def test_written_out_booleans_are_read_as_they_were():
    pytest.importorskip("libtpu")
    text = """func.func @main() -> tensor<4x32xi1> {
  %c = stablehlo.constant dense<"0xFEFFFFFFFCFFFFFFF8FFFFFFF0FFFFFF"> : tensor<4x32xi1>
  return %c : tensor<4x32xi1>
}"""
    with pytest.raises(private_names.MalformedProgramError):
        private_names.parse_stablehlo(text)
    read = str(private_names.parse_stablehlo(tpu_compiler.cleaned(text)))
    # A byte each: the first of row 0 is false, the first two of row 1, and so on.
    rows = "".join("00" * (row + 1) + "01" * (31 - row) for row in range(4))
    assert rows in read


def test_booleans_that_tensorflow_packs_are_written_out():
    """0x0E 0x01, bits from the lowest on: false, true, true, true, and 1 in the ninth place."""
    lines = [f'%c = stablehlo.constant dense<"0x0E01"> : tensor<{kind}>' for kind in ("3x3xi1", "2xi8")]
    booleans, other = tpu_compiler.cleaned("\n".join(lines)).splitlines()
    rows = [[False, True, True], [True, False, False], [False, False, True]]
    assert booleans == f"%c = stablehlo.constant dense<{json.dumps(rows)}> : tensor<3x3xi1>"
    assert other == lines[1]


@pytest.mark.usefixtures("clean_policy")
def test_an_experiment_of_the_model_garden_has_no_seed_and_is_lowered():
    params = exp_factory.get_exp_config("resnet_imagenet")
    params.override(
        {
            "task": {"model": {"input_size": [32, 32, 3], "num_classes": 4}, "train_data": {"dtype": "bfloat16"}},
            "runtime": {"mixed_precision_dtype": "bfloat16"},
        }
    )
    params.task.model.backbone.override({"resnet": {"model_id": 18}})
    assert "tensor<2x32x32x3xbf16>" in tpu_programs.training_step(params, None, 2)


@pytest.mark.usefixtures("clean_policy")
def test_a_batch_of_unknown_size_is_named(capsys):
    assert cli.main(arguments("retinanet", override=",task.train_data.drop_remainder=false")) == 1
    message = json.loads(capsys.readouterr().out)["phases"][0]["message"]
    assert "(None, 64, 64, 3)" in message
    assert "drop_remainder, and it is False" in message


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (arguments("retinanet", "--topology_name", "v5e:1x3"), "is 8, which 3 chips do not divide"),
        (arguments("retinanet", "--topology_name", "v5e:4x4"), "is 8, which 16 chips do not divide"),
        (
            arguments("retinanet", override=",task.validation_data.global_batch_size=6"),
            "task.validation_data.global_batch_size is 6, which 4 chips do not divide",
        ),
        (arguments("retinanet", "--image_size", "72"), "multiples of 32"),
        (arguments("retinanet", override=",task.train_data.global_batch_size=0"), "it must be at least 1"),
        (["tpu-check", "--experiment", "video_classification"], "video_classification does not"),
    ],
)
def test_bad_input(capsys, command, message):
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err


def second_an_image(tokenization, batch):
    """A detector whose step takes a second an image, with 15 GiB of 16 at five images."""
    return Program(True, argument_bytes=5 << 30, temporary_bytes=batch << 31, flops=197e12 * batch)


def test_hours_of_a_schedule_by_hand():
    params = exp_factory.get_exp_config("retinanet_asvit_coco")
    params.override({"trainer": {"train_steps": 900}, "task": {"validation_data": {"global_batch_size": 64}}})
    result = tpu_check.check(params, "v5e:2x2", 4, second_an_image)
    # 64 images a step: sixteen chips, 4 seconds a step.
    assert (result["chips"], result["hours"], result["chip_hours"]) == (16, pytest.approx(1), pytest.approx(16))
    assert "whole schedule: 16.0 chip-hours, 1.0 hours on 16 chips" in wording.in_words(result)
    uneven = tpu_check.check(params, "v5e:2x2", 3, second_an_image)
    assert (uneven["chips"], uneven["hours"]) == (None, None)
    assert wording.in_words(uneven).endswith("whole schedule: 16.0 chip-hours")
    failed = tpu_check.check(params, "v5e:2x2", 4, lambda *_: Program(False, "no"))
    assert (failed["chips"], failed["hours"]) == (16, None)
    assert wording.in_words(failed).endswith("does not compile: no")


def test_the_largest_batch_of_a_detector_need_not_be_a_multiple_of_eight(capsys, monkeypatch):
    monkeypatch.setattr(tpu_check, "compiler", lambda *_: second_an_image)
    assert cli.main(arguments("retinanet", "--largest_batch")) == 0
    assert json.loads(capsys.readouterr().out)["largest_batch"]["batch"] == 5


def test_chips_of_a_topology():
    assert [tpu_compiler.chips_in(name) for name in ("v5e:2x2", "v4:2x2x4", "v5e:1x1")] == [4, 16, 1]
