"""Experiments and YAMLs: each trains and evaluates, shrunk to a few small images."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import yaml
from helpers import CONFIGS, TINY
from official.core import exp_factory, task_factory
from official.modeling import hyperparams

from asvit_tf import AsViT, Topology, UserError
from asvit_tf.dataloaders import classification as data
from asvit_tf.design import counting
from asvit_tf.modeling import checkpoints
from asvit_tf.tasks import schedules
from asvit_tf.training import run as train
from search.runs import family
from search.strategy.limits import Limits


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A few JPEGs of two classes, as TFRecords."""
    root = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("cat", "dog")):
        (root / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.default_rng(10 * label + i).integers(0, 255, (40, 48, 3), np.uint8)
            (root / "images" / name / f"{i}.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return data.prepare(root / "data", root / "images")


def shrunk(photos, **overrides):
    """Flag that makes one step of an ImageNet experiment small enough for a test."""
    changes = {
        "task.train_data.input_path": photos.train_path,
        "task.train_data.global_batch_size": 4,
        "task.train_data.dtype": "float32",
        "task.validation_data.input_path": photos.validation_path,
        "task.validation_data.global_batch_size": 4,
        "task.validation_data.dtype": "float32",
        "task.evaluation.top_k": 2,
        "task.retokenization.preset": "none",
        "runtime.mixed_precision_dtype": "float32",
        "runtime.distribution_strategy": "one_device",
        "runtime.num_gpus": 0,
        "trainer.train_steps": 1,
        "trainer.steps_per_loop": 1,
        "trainer.summary_interval": 1,
        "trainer.checkpoint_interval": 1,
        "trainer.validation_interval": 1,
        **overrides,
    }
    return "--params_override=" + ",".join(f"{name}={value}" for name, value in changes.items())


def test_the_yaml_of_a_target_trains_as_it_is(photos, tmp_path):
    """Only data, hardware and the number of steps are overridden: what every user must."""
    member = dict(topology=str(Topology.parse(TINY)), parameters=100_000, macs=10_000_000)
    written, _ = family.write_configs(tmp_path, [member], (0.1,), Limits(image_size=(32, 32), num_classes=2))
    metrics = train.start(
        [
            "--experiment=asvit_imagenet",
            "--mode=train_and_eval",
            f"--model_dir={tmp_path / 'model'}",
            f"--config_file={written['0.1']}",
            shrunk(photos),
        ]
    )
    assert np.isfinite(metrics["validation_loss"])
    assert 0 <= metrics["accuracy"] <= 1
    assert TINY.split("|")[0] in (tmp_path / "model/params.yaml").read_text()


def test_the_yaml_of_a_target_gives_the_experiment_that_a_hand_written_one_gives(tmp_path):
    topology = "8,2,3|4,1,2|4,1,4|4,1,6|32,64"
    member = dict(topology=topology, parameters=69_000_000, macs=4_560_000_000)
    written, missed = family.write_configs(tmp_path, [member], (70, 200), Limits(image_size=(192, 192), num_classes=9))
    (tmp_path / "expected.yaml").write_text(
        "task: {model: {num_classes: 9, input_size: [192, 192, 3], backbone: {type: asvit, asvit: "
        f"{{topology: '{topology}', stochastic_depth: 0.3}}}}}}}}"
    )
    read, expected = (
        hyperparams.override_params_dict(exp_factory.get_exp_config("asvit_imagenet"), path, is_strict=True).as_dict()
        for path in (written["70"], str(tmp_path / "expected.yaml"))
    )
    assert read == expected
    comment = Path(written["70"]).read_text().splitlines()[:5]
    assert comment[0] == f"# {topology}"
    assert comment[1] == "# 69.00 M parameters, 4.56 G multiply-accumulates at 192 x 192; grown for 70 M."
    assert comment[3].endswith("--config_file=THIS_FILE \\")
    assert missed == ["no member is within 10% of 200 M; the nearest has 69.00 M"]


class Classifier(tf_keras.Model):
    def __init__(self, backbone, classes=3):
        super().__init__()
        self.backbone = backbone
        self.head = tf_keras.layers.Dense(classes)
        self.head.build((None, 64))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint as the trainer writes it: model, optimizer, step. Returns its path and the model."""
    model = Classifier(AsViT(TINY, tf_keras.layers.InputSpec(shape=[None, 32, 32, 3]), seed=1))
    optimizer = tf_keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    saved = tf.train.Checkpoint(model=model, optimizer=optimizer, global_step=tf.Variable(7))
    return saved.save(str(tmp_path_factory.mktemp("checkpoint") / "ckpt")), model


@pytest.mark.parametrize("modules", checkpoints.MODULES)
def test_every_variable_of_a_checkpoint_is_accounted_for(checkpoint, modules):
    path, saved = checkpoint
    model = Classifier(AsViT(TINY, tf_keras.layers.InputSpec(shape=[None, 32, 32, 3]), seed=2))
    head = model.head.kernel.numpy()
    report = checkpoints.initialize(model, path, modules)
    for ours, theirs in zip(model.backbone.variables, saved.backbone.variables):
        np.testing.assert_array_equal(ours, theirs)
    part = model.backbone if modules == "backbone" else model
    assert len(report.loaded) == len(part.variables)
    assert report.resized == report.unused == ()
    assert np.array_equal(model.head.kernel, head) == (modules == "backbone")


def test_a_directory_means_its_newest_checkpoint_and_parts_without_a_place_are_named(checkpoint):
    path, saved = checkpoint
    model = Classifier(AsViT(TINY, tf_keras.layers.InputSpec(shape=[None, 32, 32, 3]), position_embedding=False))
    report = checkpoints.initialize(model, os.path.dirname(path), "backbone")
    assert report.unused == ("position_embedding/embedding",)
    assert "not used: position_embedding/embedding" in str(report)
    np.testing.assert_array_equal(model.backbone.stem.kernel, saved.backbone.stem.kernel)


def test_the_position_embedding_is_resized_to_the_image(checkpoint):
    path, saved = checkpoint
    model = Classifier(AsViT(TINY, tf_keras.layers.InputSpec(shape=[None, 48, 64, 3])))
    report = checkpoints.initialize(model, path, "backbone")
    assert report.resized == ("position_embedding/embedding",)
    expected = tf.image.resize(saved.backbone.position_embedding.embedding, (12, 16), antialias=True)
    np.testing.assert_allclose(model.backbone.position_embedding.embedding, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("topology", "classes", "modules", "message"),
    [
        ("4,2,2|2,2,2|2,1,2|2,1,2|8,12", 3, "backbone", "another network: .*stem/kernel has shape"),
        ("4,2,2,2|2,2,2|2,1,2|2,1,2|8,8", 3, "backbone", "stage_0/block_1.* is missing there.*and .* more"),
        (TINY, 5, "all", r"head/kernel has shape \(64, 3\) there, \(64, 5\) here"),
        (TINY, 3, "head", "allowed are all, backbone"),
    ],
)
def test_checkpoints_of_other_networks_are_refused_and_change_nothing(checkpoint, topology, classes, modules, message):
    model = Classifier(AsViT(topology, tf_keras.layers.InputSpec(shape=[None, 32, 32, 3])), classes)
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(UserError, match=message):
        checkpoints.initialize(model, checkpoint[0], modules)
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable, value)


def test_no_checkpoint(tmp_path):
    (tmp_path / "text").write_text("no checkpoint")
    model = Classifier(AsViT(TINY, tf_keras.layers.InputSpec(shape=[None, 32, 32, 3])))
    for path in ("nowhere", tmp_path, tmp_path / "text"):
        with pytest.raises(UserError, match="no checkpoint at"):
            checkpoints.initialize(model, str(path))


YAMLS = sorted((CONFIGS).glob("imagenet_*.yaml"))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_imagenet_yamls_load_strictly_build_and_state_their_size(path):
    params = exp_factory.get_exp_config("asvit_imagenet")
    params = hyperparams.override_params_dict(params, str(path), is_strict=True)
    params.validate()
    schedule = schedules.schedule_of(params)
    assert schedule.boundaries == (100 * 1251, 200 * 1251)
    counted = counting.count(Topology.parse(params.task.model.backbone.asvit.topology))
    if path.stem.endswith("_tpu"):  # Its twin for GPUs has the same network.
        assert task_factory.get_task(params.task).build_model().count_params() == counted.parameters
    assert f"{counted.parameters / 1e6:.2f} M parameters" in path.read_text()


EXPERIMENTS = {
    "imagenet": "asvit_imagenet",
    "digits": "asvit_digits",
    "study": "asvit_digits",
    "coco_retinanet": "retinanet_asvit_coco",
    "shapes_retinanet": "retinanet_asvit_coco",
    "coco_cascadercnn": "cascadercnn_asvit_coco",
    "shapes_cascadercnn": "cascadercnn_asvit_coco",
    "coco_segmentation": "segmentation_asvit_coco",
    "shapes_segmentation": "segmentation_asvit_coco",
}


def test_every_recipe_clips_its_gradients_and_changes_tokens_gradually():
    for path in sorted((CONFIGS).glob("*.yaml")):
        name = EXPERIMENTS[path.stem.split("_asvit")[0]]
        params = exp_factory.get_exp_config(name)
        params = hyperparams.override_params_dict(params, str(path), is_strict=True)
        adamw = params.trainer.optimizer_config.optimizer.adamw
        # The sum over replicas is clipped (tests/test_rollback.py); the study trains on one.
        expected = (None, 1.0) if path.stem.startswith("study") else (1.0, 0.0)
        assert (adamw.global_clipnorm, adamw.gradient_clip_norm) == expected, path.stem
        schedule = schedules.schedule_of(params)
        phases = 3 if path.stem.startswith("imagenet") else 2 if path.stem.startswith("digits_asvit_i32") else 1
        assert len(schedule.phases) == phases, path.stem
        if phases > 1:
            assert schedule.transition == round(0.05 * params.trainer.train_steps)
            assert "transition: 0.05" in path.read_text()
        else:
            assert schedule.transition == 0


@pytest.mark.parametrize("hardware", ["tpu", "gpu"])
def test_imagenet_yamls_differ_by_size_only(hardware):
    """So that the training of one shows what the others do."""
    contents = [yaml.safe_load(path.read_text()) for path in YAMLS if path.stem.endswith(hardware)]
    sizes = [content["task"]["model"]["backbone"].pop("asvit") for content in contents]
    assert sorted(size["topology"] for size in sizes) == ["base", "large", "small"]
    assert all(set(size) == {"topology", "stochastic_depth"} for size in sizes)
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("path", [path for path in YAMLS if "_base_" in path.stem], ids=lambda path: path.stem)
def test_imagenet_yamls_train_and_evaluate_when_shrunk(path, photos, tmp_path):
    tiny = {"task.model.backbone.asvit.topology": f"'{TINY}'", "task.model.input_size": "[32,32,3]"}
    tiny["task.model.num_classes"] = 2
    arguments = ["--experiment=asvit_imagenet", "--mode=train_and_eval", f"--model_dir={tmp_path}"]
    metrics = train.start([*arguments, f"--config_file={path}", shrunk(photos, **tiny)])
    assert np.isfinite(metrics["validation_loss"])


def test_phases_end_at_steps_or_epochs():
    params = exp_factory.get_exp_config("asvit_imagenet")
    params.task.retokenization.phases = [
        schedules.RetokenizationPhase(until_epoch=1.5, stride=16),
        schedules.RetokenizationPhase(until_step=5000, stride=8),
        schedules.RetokenizationPhase(),
    ]
    assert schedules.schedule_of(params).boundaries == (round(1.5 * 1251), 5000)
    params.task.retokenization.steps_per_epoch = None
    with pytest.raises(UserError, match=r"needs retokenization.steps_per_epoch"):
        schedules.schedule_of(params)
    params.task.retokenization.phases[0].until_step = 3
    with pytest.raises(UserError, match="give one"):
        schedules.schedule_of(params)
