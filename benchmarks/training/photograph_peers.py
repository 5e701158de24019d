"""Networks of others for benchmarks/training/photographs.py: the same images, recipe and optimizer, the Model Garden's
own task and trainer.

The ResNet has the optimizer that it is known for: SGD with momentum 0.9, rate 0.1, L2 1e-4, no average.

`vit`: its Vision Transformer with patches of 4 pixels, as many as the designed network's tokens, mean-pooled, of the
width and depth whose multiply-accumulates are nearest; `mobilenet`: its MobileNetV2 with an output stride of 8, widened
or narrowed likewise; `resnet20`: He et al. 2016, section 4.2, n = 3, 0.27 M parameters at 32 x 32, as it is.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import tensorflow as tf
import tf_keras
from official.core import base_trainer, task_factory
from official.core import config_definitions as cfg
from official.modeling import hyperparams
from official.vision.configs import backbones, image_classification
from official.vision.modeling.backbones import factory, vit
from official.vision.tasks import image_classification as _registered  # noqa: F401

from asvit_tf import private_names

_HEAD, _PATCH = 16, 4
_WIDTHS, _DEPTHS = range(16, 513, 16), range(4, 13)
_SCALES = (0.25, 0.35, 0.5, 0.75, 1.0, 1.25, 1.5)
_STEPS = 6
_SGD = {
    "optimizer": {"type": "sgd", "sgd": {"momentum": 0.9, "nesterov": True, "global_clipnorm": None}},
    "learning_rate": {"cosine": {"initial_learning_rate": 0.1}},
    "ema": None,
}


@dataclasses.dataclass
class ResNet20(hyperparams.Config):
    """It has no options."""


@dataclasses.dataclass
class Backbone(backbones.Backbone):
    """The Model Garden's choice, with `resnet20`."""

    resnet20: ResNet20 = dataclasses.field(default_factory=ResNet20)


@factory.register_backbone_builder("resnet20")
def build_resnet20(
    input_specs: Any, backbone_config: Any, norm_activation_config: Any, l2_regularizer: Any = None
) -> tf_keras.Model:
    """Three groups of three basic blocks, 16, 32 and 64 channels, projection where the size changes."""
    del backbone_config, norm_activation_config
    layers = tf_keras.layers

    def normed(x: Any, channels: int, kernel_size: int, stride: int) -> Any:
        x = layers.Conv2D(
            channels,
            kernel_size,
            stride,
            "same",
            use_bias=False,
            kernel_initializer=tf_keras.initializers.HeNormal(),
            kernel_regularizer=l2_regularizer,
        )(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    inputs = tf_keras.Input(input_specs.shape[1:])
    x = layers.ReLU()(normed(inputs, 16, 3, 1))
    for channels in (16, 32, 64):
        for block in range(3):
            stride = 2 if channels > 16 and block == 0 else 1
            shortcut = x if stride == 1 else normed(x, channels, 1, 2)
            y = normed(layers.ReLU()(normed(x, channels, 3, stride)), channels, 3, 1)
            x = layers.ReLU()(y + shortcut)
    model = tf_keras.Model(inputs, {"3": x})
    model.output_specs = {"3": x.shape}
    return model


def _transformer(width: int, depth: int) -> dict[str, Any]:
    """A specification of the Model Garden's ViT."""
    return dict(
        hidden_size=width,
        patch_size=_PATCH,
        transformer=dict(mlp_dim=4 * width, num_heads=width // _HEAD, num_layers=depth),
    )


def _transformer_macs(width: int, depth: int, side: int) -> int:
    """Multiply-accumulates of it: projections and MLP, attention, patches."""
    tokens = (side // _PATCH) ** 2
    return depth * (12 * tokens * width**2 + 2 * tokens**2 * width) + tokens * 3 * _PATCH**2 * width


def experiment(params: cfg.ExperimentConfig, name: str, macs: int) -> cfg.ExperimentConfig:
    """The experiment of a peer, with the data, losses and optimizer of another experiment.

    Args:
      params: That one; a classifier of this package.
      name: Of the peer.
      macs: Multiply-accumulates that it may have about.
    """
    params = copy.deepcopy(params)
    task, side = params.task, params.task.model.input_size[0]
    model = image_classification.ImageClassificationModel(
        num_classes=task.model.num_classes, input_size=list(task.model.input_size), kernel_initializer="glorot_uniform"
    )
    if name == "vit":
        sizes = [(width, depth) for width in _WIDTHS for depth in _DEPTHS]
        width, depth = min(sizes, key=lambda size: abs(_transformer_macs(*size, side) - macs))
        vit.VIT_SPECS = {**vit.VIT_SPECS, "benchmark": _transformer(width, depth)}
        config = backbones.VisionTransformer(model_name="benchmark", pooler="gap", original_init=True)
        model.backbone = backbones.Backbone(type="vit", vit=config)
    elif name == "mobilenet":
        model.backbone = _mobilenet(model, macs)
    else:
        model.backbone = Backbone(type="resnet20")
        params.trainer.optimizer_config.override(_SGD)
        task.losses.l2_weight_decay = 1e-4
    return cfg.ExperimentConfig(
        task=image_classification.ImageClassificationTask(
            model=model,
            train_data=task.train_data,
            validation_data=task.validation_data,
            losses=task.losses,
            evaluation=task.evaluation,
        ),
        trainer=params.trainer,
        runtime=params.runtime,
    )


def size(params: cfg.ExperimentConfig) -> dict[str, int]:
    """Parameters, and multiply-accumulates of an image as TensorFlow's profiler counts them, halved."""
    model = task_factory.get_task(params.task).build_model()
    return dict(parameters=sum(int(tf.size(v)) for v in model.trainable_variables), macs=_macs(model))


def _macs(model: tf_keras.Model) -> int:
    from official.core import train_utils

    return int(train_utils.try_count_flops(model)) // 2


def _mobilenet(model: image_classification.ImageClassificationModel, macs: int) -> backbones.Backbone:
    """Of some widths the one nearest to the multiply-accumulates."""

    def backbone(scale: float) -> backbones.Backbone:
        return backbones.Backbone(
            type="mobilenet",
            mobilenet=backbones.MobileNet(model_id="MobileNetV2", filter_size_scale=scale, output_stride=8),
        )

    def count(scale: float) -> int:
        specs = tf_keras.layers.InputSpec(shape=[None, *model.input_size])
        return _macs(factory.build_backbone(specs, backbone(scale), model.norm_activation))

    return backbone(min(_SCALES, key=lambda scale: abs(count(scale) - macs)))


def _strategy() -> Any:
    """Where averaged weights are swapped, the Model Garden wants a strategy."""
    return tf.distribute.OneDeviceStrategy("CPU:0").scope()


def _trainer(params: cfg.ExperimentConfig) -> base_trainer.Trainer:
    task = task_factory.get_task(params.task)
    model = task.build_model()
    with private_names.crops_of(params.task.train_data.crop_area_range):
        return base_trainer.Trainer(
            params, task, model, task.create_optimizer(params.trainer.optimizer_config, params.runtime), train=True
        )


def step_seconds(params: cfg.ExperimentConfig) -> float:
    """Seconds of a training step, of the second of two short loops."""
    with _strategy():
        trainer = _trainer(params)
        for _ in range(2):
            start = time.perf_counter()
            trainer.train(tf.constant(_STEPS, tf.int32))
            seconds = time.perf_counter() - start
    return seconds / _STEPS


def trained(params: cfg.ExperimentConfig) -> tuple[base_trainer.Trainer, dict[str, float], float]:
    """The trainer after all steps, its metrics, and the seconds of all training loops but the first, which traces."""
    with _strategy():
        trainer, warm = _trainer(params), 0.0
        for loop in range(params.trainer.train_steps // params.trainer.steps_per_loop):
            start = time.perf_counter()
            trainer.train(tf.constant(params.trainer.steps_per_loop, tf.int32))
            warm += (time.perf_counter() - start) * (loop > 0)
        metrics = trainer.evaluate(tf.constant(-1, tf.int32))
    return trainer, {name: float(value) for name, value in metrics.items()}, warm
