"""Weights of the released PyTorch implementation, read into these models; and the features its measures use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.modeling.backbone import AsViT


class Classifier(tf_keras.Model):
    """The released classifier: backbone, Linear(C, C), tanh, Linear(C, classes). Images [B, H, W, 3] to logits."""

    def __init__(self, backbone: AsViT, num_classes: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.backbone = backbone
        self.head = tf_keras.layers.Dense(num_classes, name="head")

    def call(self, images, training=None):
        return self.head(self.backbone(images, training=training)["pre_logits"][:, 0, 0])


def build_classifier(
    topology: Topology, image_size: int | tuple[int, int], num_classes: int, position_embedding: bool
) -> Classifier:
    """A classifier with the layers of the released implementation, returning logits [B, num_classes]."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    backbone = AsViT(
        topology,
        tf_keras.layers.InputSpec(shape=[None, height, width, 3]),
        position_embedding=position_embedding,
        representation_size=topology.widths[-1],
    )
    model = Classifier(backbone, num_classes)
    model(tf_keras.Input((height, width, 3)))
    return model


class _Pair(NamedTuple):
    """A variable here, its name there, and the map from the array there to the array here."""

    name: str
    variable: tf.Variable
    convert: Callable[[np.ndarray], np.ndarray]


def _pairs(backbone: AsViT, head: tf_keras.layers.Dense | None) -> Iterator[_Pair]:
    """Every variable with its released name, in the order of the forward pass."""

    def same(array):
        return array

    def norm(name, layer):
        yield _Pair(f"{name}.weight", layer.gamma, same)
        yield _Pair(f"{name}.bias", layer.beta, same)

    def linear(name, layer):
        yield _Pair(f"{name}.weight", layer.kernel, np.transpose)
        yield _Pair(f"{name}.bias", layer.bias, same)

    def patch_kernel(merging):
        """Unfolded patches are ordered channel, row, column there; row, column, channel here."""
        size, _, channels = merging.gamma.shape
        return lambda array: array.reshape(-1, channels, size, size).transpose(2, 3, 1, 0)

    def patch_norm(merging):
        return lambda array: patch_kernel(merging)(array)[..., 0]

    yield _Pair("patch_embed.proj.weight", backbone.stem.kernel, lambda array: array.transpose(2, 3, 1, 0))
    yield _Pair("patch_embed.proj.bias", backbone.stem.bias, same)
    yield from norm("patch_embed.norm", backbone.stem.norm)
    if backbone.position_embedding is not None:
        variable = backbone.position_embedding.embedding
        yield _Pair("absolute_pos_embed", variable, lambda array: array.reshape(variable.shape))
    for index, stage in enumerate(backbone.stages):
        for depth, block in enumerate(stage.blocks):
            name = f"layers.{index}.blocks.{depth}"
            yield from norm(f"{name}.norm1", block.norm1)
            yield from linear(f"{name}.attn.qkv", block.attention.qkv)
            yield from linear(f"{name}.attn.proj", block.attention.proj)
            yield from norm(f"{name}.mlps.0.0", block.norm2)
            yield from linear(f"{name}.mlps.0.1.fc1", block.fc1)
            yield from linear(f"{name}.mlps.0.1.fc2", block.fc2)
        if index < len(backbone.mergings):
            merging = backbone.mergings[index]
            name = f"layers.{index}.downsample"
            yield _Pair(f"{name}.norm.weight", merging.gamma, patch_norm(merging))
            yield _Pair(f"{name}.norm.bias", merging.beta, patch_norm(merging))
            yield _Pair(f"{name}.reduction.weight", merging.kernel, patch_kernel(merging))
    yield from norm("norm", backbone.norm)
    if backbone.representation is not None:
        yield from linear("head.0", backbone.representation)
    if head is not None:
        yield from linear("head.2", head)


def load(model: Classifier, state_dict: Mapping[str, np.ndarray]) -> None:
    """Copies a released state dict into a classifier, all of it or nothing.

    Args:
      model: From `build_classifier`.
      state_dict: Arrays in PyTorch's layout under the released names (a checkpoint's tensors, as NumPy arrays).

    Raises:
      UserError: A name is missing or left over, or an array has another shape.
    """
    pairs = list(_pairs(model.backbone, model.head))
    missing = sorted({pair.name for pair in pairs} - set(state_dict))
    unused = sorted(set(state_dict) - {pair.name for pair in pairs})
    if missing or unused:
        raise UserError(f"the state dict does not fit {model.backbone.topology}: missing {missing}, unused {unused}")
    arrays = []
    for pair in pairs:
        try:
            array = pair.convert(np.asarray(state_dict[pair.name]))
        except ValueError:
            array = None
        if array is None or array.shape != tuple(pair.variable.shape):
            shape = np.shape(state_dict[pair.name])
            raise UserError(f"{pair.name} has shape {shape}, which does not fit {tuple(pair.variable.shape)} here")
        arrays.append(array)
    for pair, array in zip(pairs, arrays):
        pair.variable.assign(array)


def _backbone(model: Classifier | AsViT) -> AsViT:
    return model if isinstance(model, AsViT) else model.backbone


def pooled_features(model: Classifier | AsViT, images: tf.Tensor, normalization: str = "layer") -> tf.Tensor:
    """Mean over the tokens of the last stage, before the final norm: what the released measures differentiate.

    Args:
      model: A classifier or a backbone.
      images: [B, H, W, 3].
      normalization: "layer", or "identity" to replace every norm.

    Returns:
      [B, C].
    """
    backbone = _backbone(model)
    with backbone.normalized_by(normalization):
        last = max(backbone.output_specs)
        return tf.reduce_mean(backbone(images, training=False)[last], axis=(1, 2))


def ntk_variables(model: Classifier | AsViT, normalization: str = "layer") -> list[tf.Variable]:
    """The variables over which the released NTK is taken: weights and norm scales that `pooled_features` depends on.

    Biases, position embedding, final norm and head are out; the scales of the norms too where `normalization` is
    "identity", which the released code has no NTK for.
    """
    pairs = _pairs(_backbone(model), head=None)
    return [
        pair.variable
        for pair in pairs
        if "weight" in pair.name
        and not pair.name.startswith(("norm.", "head."))
        and (normalization == "layer" or "gamma" not in pair.variable.name)
    ]
