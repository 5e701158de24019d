"""Experiments and YAMLs: each trains and evaluates, shrunk to a few small images."""

import numpy as np
import pytest
import tensorflow as tf

from asvit_tf import Topology, data, train
from search import family

TINY = "4,2,2|2,2,2|2,1,2|2,1,2|8,8"


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
        "task.model.num_classes": 2,
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
    """Only data, classes, hardware and the number of steps are overridden: what every user must."""
    member = dict(topology=str(Topology.parse(TINY)), parameters=100_000, macs=10_000_000)
    written, _ = family.write_configs(tmp_path, [member], (0.1,), image_size=32)
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
