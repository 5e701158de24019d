"""Fresh weights for the training-free measures, drawn from an explicit generator."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tf_keras

from asvit_tf.choices import INITIALIZATIONS
from asvit_tf.errors import UserError
from asvit_tf.modeling.backbone import AsViT
from asvit_tf.modeling.layers import PatchMerging

_RELEASED_DEVIATION = 0.02


def linear_layers(backbone: AsViT) -> Iterator[tf_keras.layers.Dense | PatchMerging]:
    """Every linear map, in the order in which `draw_linear` draws them: first all mergings, then block by block.

    Scores depend on this order: it decides which part of the generator's stream each kernel gets.
    """
    yield from backbone.mergings
    for stage in backbone.stages:
        for block in stage.blocks:
            yield from (block.attention.qkv, block.attention.proj, block.fc1, block.fc2)
    if backbone.representation is not None:
        yield backbone.representation


def drawn(shape: tuple[int, ...], generator: np.random.Generator, scheme: str = "released") -> np.ndarray:
    """A weight of a linear map, [..., outputs] float32, as `draw_linear` draws it.

    Raises:
      UserError: Unknown scheme.
    """
    if scheme not in INITIALIZATIONS:
        raise UserError(f"unknown initialization {scheme!r}; allowed are {', '.join(INITIALIZATIONS)}")
    deviation = _RELEASED_DEVIATION if scheme == "released" else int(np.prod(shape[:-1])) ** -0.5
    return deviation * generator.standard_normal(shape, np.float32)


def draw_linear(backbone: AsViT, generator: np.random.Generator, scheme: str = "released") -> None:
    """Redraws every linear map and zeroes its bias; stem and norms stay.

    Args:
      backbone: The backbone whose weights are drawn.
      generator: Source of randomness.
      scheme: "released", N(0, 0.02) whatever the fan-in (the released truncation at +-2 cuts nothing off); or "lecun",
        N(0, 1 / sqrt(fan_in)), where a merging's fan-in is k x k x C.

    Raises:
      UserError: Unknown scheme.
    """
    for layer in linear_layers(backbone):
        layer.kernel.assign(drawn(tuple(layer.kernel.shape), generator, scheme))
        if isinstance(layer, tf_keras.layers.Dense):
            layer.bias.assign(np.zeros(layer.bias.shape, np.float32))


def draw_stem(backbone: AsViT, generator: np.random.Generator) -> None:
    """Redraws the stem's kernel and bias, uniform in +-1 / sqrt(3 K^2) as the released code's framework does."""
    kernel, bias = backbone.stem.kernel, backbone.stem.bias
    bound = float(np.prod(kernel.shape[:-1])) ** -0.5
    for variable in (kernel, bias):
        variable.assign(generator.uniform(-bound, bound, variable.shape).astype(np.float32))
