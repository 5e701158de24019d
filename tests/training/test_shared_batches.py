"""Batches that several devices share: their sizes, and the statistics of batch normalization."""

import types

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import CONFIGS, planned, two_devices
from official.core import exp_factory
from official.vision.modeling.decoders import factory

from asvit_tf import (
    UserError,
    registry_imports,  # noqa: F401
)
from asvit_tf.hardware.choice import Chosen, Gpu
from asvit_tf.tasks import experiment_files
from asvit_tf.training import strategies
from asvit_tf.training.runtimes import Runtime, training_batch

A100 = Gpu("NVIDIA A100", (8, 0))


@pytest.mark.parametrize(
    ("usual", "replicas", "batch"),
    [(16, 1, 16), (5, 1, 5), (16, 8, 16), (16, 3, 15), (5, 8, 16), (16, 32, 64), (8, 6, 12)],
)
def test_a_batch_that_was_not_asked_for_suits_the_devices(usual, replicas, batch):
    """16 images for 32 devices, 5 images for 8."""
    runtime = Runtime(Chosen("gpu", (A100,) * replicas))
    assert runtime.batch(usual) == batch
    runtime.check_batch()
    params = planned(batch_size=usual)
    runtime.apply(params, 359)  # As of a training that was begun on one device.
    continued = params.task.train_data.global_batch_size
    assert continued % replicas == 0
    assert continued == max(replicas, training_batch(max(usual, replicas), replicas))


def test_a_batch_that_was_asked_for_stays_or_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(strategies, "build", lambda runtime: types.SimpleNamespace(num_replicas_in_sync=32))
    slice_ = Chosen("tpu", tpu="slice")
    assert Runtime(slice_, 48).batch(48) == 48
    assert Runtime(slice_, 48).batch(5) == 32  # Of five images.
    with pytest.raises(UserError, match="a batch of 16 images cannot be divided among 32 devices; set --batch-size"):
        Runtime(slice_, 16).check_batch()


@pytest.mark.parametrize("name", ["retinanet", "cascadercnn", "segmentation"])
def test_several_devices_normalize_by_the_whole_batch(name):
    """The recipes of photographs are for one."""
    recipe = str(CONFIGS / f"photographs_{name}_asvit_cpu.yaml")
    for gpus, shared in ((1, False), (2, True)):
        params = exp_factory.get_exp_config(f"{name}_asvit_coco")
        experiment_files.override(params, experiment_files.read(recipe), recipe)
        Runtime(Chosen("gpu", (A100,) * gpus)).apply(params, 75)
        assert params.task.model.norm_activation.use_sync_bn is shared


def test_statistics_of_two_devices_are_those_of_the_whole_batch():
    """Of the pyramid that detectors and segmenters have; one device sees values around 0, the other around 10."""
    params = exp_factory.get_exp_config("retinanet_asvit_coco")
    params.task.model.override({"min_level": 3, "max_level": 4})
    params.task.model.norm_activation.use_sync_bn = False
    Runtime(Chosen("gpu", (A100,) * 2)).apply(params, 75)
    strategy = two_devices()
    with strategy.scope():
        sizes = {"3": tf.TensorShape([None, 4, 4, 8]), "4": tf.TensorShape([None, 2, 2, 8])}
        pyramid = factory.build_decoder(sizes, params.task.model)
        norm = next(layer for layer in pyramid.submodules if isinstance(layer, tf_keras.layers.BatchNormalization))
    images = np.random.default_rng(0).standard_normal((4, 4, 4, 256)).astype(np.float32)
    images[2:] += 10
    each = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(images, 2)[context.replica_id_in_sync_group])
    )
    parts = strategy.run(lambda values: norm(values, training=True), args=(each,))
    normalized = np.concatenate([part.numpy() for part in strategy.experimental_local_results(parts)])
    np.testing.assert_allclose(normalized.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.var(axis=(0, 1, 2)), 1, atol=0.01)
    assert abs(normalized[:2].mean()) > 0.5  # By itself each device would have a mean of 0.
