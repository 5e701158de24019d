"""Which variables the optimizers of the experiments decay: seen from a step whose gradients are zero."""

import pytest
import tensorflow as tf
from helpers import TINY
from official.core import exp_factory
from official.modeling import optimization

from asvit_tf import (
    Topology,
    registry_imports,  # noqa: F401
)
from asvit_tf.modeling import reference_weights

RATE, DECAY = 0.1, 0.05


@pytest.fixture(scope="module")
def model():
    return reference_weights.build_classifier(Topology.parse(TINY), 32, 3, True)


@pytest.mark.parametrize(
    "name",
    [
        "asvit_digits",
        "asvit_imagenet",
        "retinanet_asvit_coco",
        "cascadercnn_asvit_coco",
        "segmentation_asvit_coco",
    ],
)
def test_kernels_are_decayed_and_nothing_else(model, name):
    """Not the scales and offsets of norms, nor biases, nor the position embedding."""
    config = exp_factory.get_exp_config(name).trainer.optimizer_config.optimizer
    assert config.adamw.weight_decay_rate == DECAY
    optimizer = optimization.OptimizerFactory(
        optimization.OptimizationConfig(
            {"optimizer": config.as_dict(), "learning_rate": {"type": "constant", "constant": {"learning_rate": RATE}}}
        )
    ).build_optimizer(RATE)
    for variable in model.trainable_variables:
        variable.assign(tf.ones_like(variable))
    optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in model.trainable_variables])
    for variable in model.trainable_variables:
        kernel = variable.name.endswith("kernel:0")
        values = variable.numpy()
        assert (values.min(), values.max()) == pytest.approx((1 - RATE * DECAY if kernel else 1.0,) * 2), variable.name
    assert model.backbone.position_embedding.embedding.numpy().min() == 1
    assert model.backbone.stem.kernel.numpy().max() < 1
