"""The YAMLs against the rules that their numbers follow, whatever they are composed of."""

import ast
import itertools
import re
from pathlib import Path

import pytest
import tf_keras
import yaml
from helpers import CONFIGS, ROOT
from official.core import task_factory, train_utils
from official.vision.modeling.backbones import factory
from sklearn import datasets

from asvit_tf import (
    Topology,
    registry_imports,  # noqa: F401
)
from asvit_tf.dataloaders import clutter
from asvit_tf.design import counting
from asvit_tf.tasks import checks, schedules
from search.strategy import family
from search.strategy.limits import Limits

NETWORKS = {size: CONFIGS / f"asvit_{size}.yaml" for size in ("small", "base", "large")}
HARDWARE = {"tpu": CONFIGS / "tpu.yaml", "gpu": CONFIGS / "gpu.yaml"}
# Pixels, images a step and epochs of each experiment by the YAML of coco/ on top of it; None: the experiment's own.
RECIPES = {
    ("asvit_imagenet", None): (224, 1024, 300),
    ("retinanet_asvit_coco", None): (640, 64, 72),
    ("retinanet_asvit_coco", "retinanet_i640_batch64"): (640, 64, 72),
    ("retinanet_asvit_coco", "retinanet_i640_batch16"): (640, 16, 72),
    ("retinanet_asvit_coco", "retinanet_i1024_batch64"): (1024, 64, 72),
    ("retinanet_asvit_coco", "retinanet_i1024_batch8"): (1024, 8, 72),
    ("cascadercnn_asvit_coco", None): (640, 64, 36),
    ("cascadercnn_asvit_coco", "cascadercnn_i640_batch64"): (640, 64, 36),
    ("cascadercnn_asvit_coco", "cascadercnn_i640_batch16"): (640, 16, 36),
    ("cascadercnn_asvit_coco", "cascadercnn_i1024_batch64"): (1024, 64, 100),
    ("cascadercnn_asvit_coco", "cascadercnn_i1024_batch8"): (1024, 8, 100),
    ("segmentation_asvit_coco", None): (512, 64, 36),
    ("segmentation_asvit_coco", "segmentation_i512_batch64"): (512, 64, 36),
    ("segmentation_asvit_coco", "segmentation_i512_batch32"): (512, 32, 36),
}
# Images of the training set by the YAML of a CPU, and how many epochs of them in which batches.
CPU_RECIPES = {
    "digits_asvit_i32_cpu": ("asvit_digits", "digits", 80, 32),
    "digits_asvit_tiny_i32_cpu": ("asvit_digits", "digits", 30, 32),
    "study_asvit_i32_cpu": ("asvit_digits", "clutter", 8, 32),
    "photographs_asvit_cpu": ("asvit_images", "photographs", 80, 32),
    "photographs_retinanet_asvit_cpu": ("retinanet_asvit_coco", "cells", 83, 8),
    "photographs_cascadercnn_asvit_cpu": ("cascadercnn_asvit_coco", "cells", 83, 8),
    "photographs_segmentation_asvit_cpu": ("segmentation_asvit_coco", "streets", 66, 8),
    "shapes_retinanet_asvit_i128_cpu": ("retinanet_asvit_coco", "shapes", 24, 8),
    "shapes_cascadercnn_asvit_i128_cpu": ("cascadercnn_asvit_coco", "shapes", 32, 8),
    "shapes_segmentation_asvit_i128_cpu": ("segmentation_asvit_coco", "shapes", 32, 8),
}
IMAGENET, COCO = 1_281_167, 118_287  # Training images of ILSVRC 2012 and of COCO 2017.


def composed(experiment, *files):
    """An experiment with YAMLs on top, as the Model Garden parses its flags."""
    options = train_utils.ParseConfigOptions(experiment, [str(file) for file in files])
    return train_utils.parse_configuration(options, print_return=False)


def files_of(recipe):
    return [] if recipe is None else [CONFIGS / "coco" / f"{recipe}.yaml"]


@pytest.mark.parametrize(("experiment", "recipe"), RECIPES, ids=lambda value: str(value))
def test_numbers_of_steps_and_learning_rates_follow_from_images_batch_and_epochs(experiment, recipe):
    side, batch, epochs = RECIPES[experiment, recipe]
    params = composed(experiment, NETWORKS["base"], HARDWARE["gpu"], *files_of(recipe))
    checks.check(params)
    assert params.task.model.input_size == [side, side, 3]
    assert params.task.train_data.global_batch_size == batch
    imagenet = experiment == "asvit_imagenet"
    epoch = (IMAGENET if imagenet else COCO) // batch
    trainer = params.trainer
    assert trainer.train_steps == epochs * epoch
    for steps in ("validation_interval", "steps_per_loop", "summary_interval", "checkpoint_interval"):
        assert trainer.get(steps) == epoch, steps
    cosine = trainer.optimizer_config.learning_rate.cosine
    assert cosine.decay_steps == trainer.train_steps
    rate = 1e-3 if imagenet else 1e-4 * (batch / 64) ** 0.5
    assert cosine.initial_learning_rate == float(f"{rate:.2g}")
    assert trainer.optimizer_config.warmup.linear.warmup_steps == (20 * epoch if imagenet else 1000)
    assert schedules.schedule_of(params).boundaries == ((100 * epoch, 200 * epoch) if imagenet else ())


def test_every_yaml_belongs_to_a_rule():
    """One that no table here names would be checked by nothing."""
    named = {*NETWORKS.values(), *HARDWARE.values(), *(CONFIGS / f"{name}.yaml" for name in CPU_RECIPES)}
    named.update(file for _, recipe in RECIPES for file in files_of(recipe))
    assert set(CONFIGS.rglob("*.yaml")) == named


@pytest.mark.parametrize(("experiment", "recipe"), [pair for pair in RECIPES if pair[1]], ids=lambda value: str(value))
def test_network_hardware_and_recipe_go_in_any_order(experiment, recipe):
    files = [NETWORKS["large"], HARDWARE["tpu"], *files_of(recipe)]
    first, *others = (composed(experiment, *order).as_dict() for order in itertools.permutations(files))
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("hardware", "strategy", "chips"), [("tpu", "tpu", None), ("gpu", "mirrored", 8)], ids=["tpu", "gpu"]
)
def test_hardware_changes_the_runtime_only(hardware, strategy, chips):
    plain = composed("asvit_imagenet", NETWORKS["base"]).as_dict()
    params = composed("asvit_imagenet", NETWORKS["base"], HARDWARE[hardware]).as_dict()
    runtime = params.pop("runtime")
    assert runtime["distribution_strategy"] == strategy
    assert runtime["mixed_precision_dtype"] == "bfloat16"  # TPUs have no float16, and no loss is scaled here.
    assert {**plain, "runtime": None} == {**params, "runtime": None}
    if chips:
        assert runtime["num_gpus"] == chips
        for side, batch, _ in (RECIPES[pair] for pair in RECIPES if pair[1] and "batch64" not in pair[1]):
            assert batch % chips == 0, (side, batch)


def test_batches_for_a_tpu_are_shared_by_up_to_64_chips():
    """Those of training and evaluation, which are all of one size."""
    seen = 0
    for experiment, recipe in RECIPES:
        if recipe and recipe.endswith("batch64"):
            task = composed(experiment, NETWORKS["large"], HARDWARE["tpu"], *files_of(recipe)).task
            assert task.train_data.global_batch_size == task.validation_data.global_batch_size == 64
            assert task.validation_data.drop_remainder
            seen += 1
    assert seen == 5


@pytest.mark.parametrize(("size", "images_a_chip"), [("small", 64), ("base", 64), ("large", 48)])
def test_the_command_for_imagenet_fits_a_v5e(size, images_a_chip):
    """The chips that the header names: a step leaves each as many images as fit, or fewer; both batches are shared."""
    text = NETWORKS[size].read_text()
    chips = int(re.search(r"(\d+) chips?[., ]", text)[1])
    task = composed("asvit_imagenet", NETWORKS[size]).task
    assert task.train_data.global_batch_size % chips == 0
    assert task.train_data.global_batch_size // chips <= images_a_chip
    assert f"{images_a_chip} images fit" in text
    batch = int(re.search(r"validation_data.global_batch_size=(\d+),task.validation_data.drop_remainder=true", text)[1])
    assert batch % chips == 0
    assert 50_000 % batch <= 16


@pytest.mark.parametrize("size", NETWORKS)
def test_networks_are_those_of_the_paper_and_state_their_size(size, tmp_path):
    text = NETWORKS[size].read_text()
    content = yaml.safe_load(text)
    config = content["task"]["model"]["backbone"].pop("asvit")
    assert content == {"task": {"model": {"backbone": {"type": "asvit"}}}}
    assert set(config) == {"topology", "stochastic_depth"}
    assert config["topology"] == size
    params = composed("asvit_imagenet", NETWORKS[size])
    parameters = task_factory.get_task(params.task).build_model().count_params()
    macs = counting.count(Topology.named(size)).macs
    assert f"{parameters / 1e6:.2f} M parameters, {macs / 1e9:.2f} GMACs" in text
    # A grown member of this size is trained with the same stochastic depth.
    member = dict(topology=str(Topology.named(size)), parameters=parameters, macs=macs)
    written, _ = family.write_configs(tmp_path, [member], (parameters / 1e6,), Limits())
    (grown,) = (yaml.safe_load(Path(path).read_text()) for path in written.values())
    assert grown["task"]["model"]["backbone"]["asvit"]["stochastic_depth"] == config["stochastic_depth"]


@pytest.mark.parametrize("size", NETWORKS)
def test_backbones_of_detectors_have_the_stated_cost(size):
    text = NETWORKS[size].read_text()
    costs = {}
    for side in (512, 640, 1024):
        counted = counting.count(Topology.named(size), (side, side), 1, representation=False, window="fixed")
        costs[side] = sum(stage.macs for stage in counted.stages) / 1e9
    stated = f"{costs[512]:.1f} GMACs at 512 x 512, {costs[640]:.1f} at 640 x 640, {costs[1024]:.1f} at 1024 x 1024"
    assert stated in text
    model = composed("retinanet_asvit_coco", NETWORKS[size]).task.model
    assert model.backbone.asvit.window == "fixed"
    assert not model.backbone.asvit.representation
    input_specs = tf_keras.layers.InputSpec(shape=[None, *model.input_size])
    backbone = factory.build_backbone(input_specs, model.backbone, model.norm_activation)
    counted = counting.count(Topology.named(size), (640, 640), 1, representation=False, window="fixed")
    # Neither classes nor a final norm here.
    assert backbone.count_params() == counted.parameters - 3 * Topology.named(size).widths[-1] - 1
    assert set(backbone.output_specs) == {"2", "3", "4", "5"}


def test_the_cascade_rises_from_half():
    """Source: Cascade R-CNN (CVPR 2018), section 5: IoU 0.5, 0.6, 0.7."""
    model = composed("cascadercnn_asvit_coco", NETWORKS["small"]).task.model
    assert [model.roi_sampler.foreground_iou_threshold, *model.roi_sampler.cascade_iou_thresholds] == [0.5, 0.6, 0.7]
    assert model.include_mask


@pytest.mark.parametrize("name", CPU_RECIPES)
def test_recipes_of_a_cpu_train_for_whole_epochs(name):
    experiment, dataset, epochs, batch = CPU_RECIPES[name]
    # Of each digit a fifth is held out; 1000 scenes is what `asvit shapes` draws.
    labels = list(datasets.load_digits().target)
    held_out = sum(round(labels.count(digit) / 5) for digit in range(10))
    known = {"digits": len(labels) - held_out, "clutter": clutter.EXAMPLES["train"], "shapes": 1000}
    # Blood cells (BCCD) and streets (CamVid) as docs/detection.md has them.
    images = {**known, "photographs": 1300, "cells": 292, "streets": 367}[dataset]
    params = composed(experiment, CONFIGS / f"{name}.yaml")
    trainer = params.trainer
    assert params.task.train_data.global_batch_size == batch
    assert trainer.train_steps == epochs * (images // batch)
    assert trainer.optimizer_config.learning_rate.cosine.decay_steps == trainer.train_steps
    assert trainer.train_steps % trainer.steps_per_loop == trainer.validation_interval % trainer.steps_per_loop == 0
    assert trainer.optimizer_config.warmup.linear.warmup_steps < trainer.train_steps // 10
    assert (params.runtime.distribution_strategy, params.runtime.num_gpus) == ("one_device", 0)
    assert params.runtime.mixed_precision_dtype == "float32"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_number_of_steps_is_typed_twice(path):
    """Equal ones are one node of the YAML: an anchor and its aliases."""
    root = yaml.compose(path.read_text())
    typed = {}

    def walk(node):
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value.endswith(("_steps", "_interval", "_per_loop")) and key.value != "warmup_steps":
                typed.setdefault(value.value, set()).add(id(value))
            walk(value)

    walk(root)
    assert [number for number, nodes in typed.items() if len(nodes) > 1 and number != "-1"] == []


@pytest.mark.parametrize("name", [*CPU_RECIPES, *RECIPES], ids=lambda name: name if isinstance(name, str) else name[1])
def test_every_recipe_clips_its_gradients_and_changes_tokens_gradually(name):
    if isinstance(name, str):
        params = composed(CPU_RECIPES[name][0], CONFIGS / f"{name}.yaml")
    else:
        params, name = composed(name[0], NETWORKS["small"], *files_of(name[1])), name[0]
    adamw = params.trainer.optimizer_config.optimizer.adamw
    # The sum over replicas is clipped (tests/training/test_guard.py); the study trains on one.
    expected = (None, 1.0) if name.startswith("study") else (1.0, 0.0)
    assert (adamw.global_clipnorm, adamw.gradient_clip_norm) == expected
    schedule = schedules.schedule_of(params)
    phases = {"asvit_imagenet": 3, "photographs_asvit_cpu": 3, "digits_asvit_i32_cpu": 2}.get(name, 1)
    assert len(schedule.phases) == phases
    assert schedule.transition == (round(params.trainer.train_steps / 20) if phases > 1 else 0)


def test_every_yaml_is_installed():
    keywords = (node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.keyword))
    (patterns,) = (
        ast.literal_eval(keyword.value)["official_configs"] for keyword in keywords if keyword.arg == "package_data"
    )
    assert {path for pattern in patterns for path in CONFIGS.glob(pattern)} == set(CONFIGS.rglob("*.yaml"))


def test_commands_name_yamls_that_exist():
    """In the documentation, the YAMLs' own headers, and the docstrings."""
    texts = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *CONFIGS.rglob("*.yaml"), *ROOT.glob("asvit_tf/**/*.py")]
    named = {}
    for text in texts:
        for name in re.findall(r"official_configs/([\w/.]+\.yaml)", text.read_text()):
            named.setdefault(name, text.name)
    assert {"asvit_large.yaml", "coco/cascadercnn_i1024_batch64.yaml", "digits_asvit_i32_cpu.yaml"} <= set(named)
    assert {name: text for name, text in named.items() if not (CONFIGS / name).exists()} == {}
