"""Experiments and YAMLs: each trains and evaluates, shrunk to a few small images."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import CONFIGS, TINY
from official.core import exp_factory, task_factory, train_utils
from official.modeling import hyperparams

from asvit_tf import AsViT, Topology, UserError
from asvit_tf.dataloaders import classification as data
from asvit_tf.modeling import checkpoints
from asvit_tf.tasks import schedules
from asvit_tf.training import run as train
from search.strategy import family
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
    return ",".join(f"{name}={value}" for name, value in changes.items())


def test_the_yaml_of_a_target_trains_as_it_is(photos, tmp_path):
    """Only data, hardware and the number of steps are overridden: what every user must."""
    member = dict(topology=str(Topology.parse(TINY)), parameters=100_000, macs=10_000_000)
    written, _ = family.write_configs(tmp_path, [member], (0.1,), Limits(image_size=(32, 32), num_classes=2))
    metrics = train.start(
        experiment="asvit_imagenet",
        mode="train_and_eval",
        model_dir=str(tmp_path / "model"),
        config_file=[str(written["0.1"])],
        params_override=[shrunk(photos)],
    )
    params = train.configure(train_utils.ParseConfigOptions("asvit_imagenet", [str(tmp_path / "model/params.yaml")]))
    assert params.task.model.backbone.asvit.topology == str(Topology.parse(TINY))
    correct, losses = evaluated(params, tmp_path / "model")
    assert len(losses) == photos.validation_examples
    assert metrics["accuracy"] == pytest.approx(np.mean(correct))
    assert metrics["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def evaluated(params, model_dir):
    """Which held-out images the newest checkpoint classifies correctly, and its cross-entropy on each, in NumPy."""
    task = task_factory.get_task(params.task)
    model = task.build_model()
    tf.train.Checkpoint(model=model).read(tf.train.latest_checkpoint(model_dir)).expect_partial()
    correct, losses = [], []
    for images, labels in task.build_inputs(params.task.validation_data):
        logits = model(images, training=False).numpy().astype(np.float64)
        truth = labels.numpy() if labels.shape.rank == 1 else labels.numpy().argmax(-1)
        correct += list(logits.argmax(-1) == truth)
        losses += list(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(truth)), truth])
    return correct, losses


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
    assert comment[4].endswith("--config_file=THIS_FILE \\")
    assert "tpu.yaml (with --tpu=NAME) or gpu.yaml" in comment[3]
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


@pytest.mark.parametrize("hardware", ["tpu", "gpu"])
def test_a_network_and_its_hardware_train_and_evaluate_when_shrunk(hardware, photos, tmp_path):
    tiny = {"task.model.backbone.asvit.topology": f"'{TINY}'", "task.model.input_size": "[32,32,3]"}
    tiny["task.model.num_classes"] = 2
    metrics = train.start(
        experiment="asvit_imagenet",
        mode="train_and_eval",
        model_dir=str(tmp_path),
        config_file=[f"{CONFIGS}/{name}.yaml" for name in ("asvit_base", hardware)],
        params_override=[shrunk(photos, **tiny)],
    )
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
