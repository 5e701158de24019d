"""Fresh weights for the training-free measures, drawn from an explicit generator."""

from __future__ import annotations

import numpy as np
import tf_keras

from asvit_tf import private_names
from asvit_tf.choices import INITIALIZATIONS
from asvit_tf.errors import UserError
from asvit_tf.modeling.backbone import AsViT
from asvit_tf.modeling.layers import PatchMerging

_RELEASED_DEVIATION = 0.02


def draw_linear(backbone: AsViT, generator: np.random.Generator, scheme: str = "released") -> None:
    """Redraws every linear map and zeroes its bias; stem and norms stay.

    Args:
      backbone: Whose weights to draw.
      generator: Source of randomness.
      scheme: "released", N(0, 0.02) whatever the fan-in (the released truncation at +-2 cuts nothing off); or "lecun",
        N(0, 1 / sqrt(fan_in)).

    Raises:
      UserError: Unknown scheme.
    """
    if scheme not in INITIALIZATIONS:
        raise UserError(f"unknown initialization {scheme!r}; allowed are {', '.join(INITIALIZATIONS)}")
    for layer in private_names.layers_of(backbone):
        if isinstance(layer, (tf_keras.layers.Dense, PatchMerging)):
            shape = tuple(layer.kernel.shape)
            fan_in = int(np.prod(shape[:-1]))
            deviation = _RELEASED_DEVIATION if scheme == "released" else fan_in**-0.5
            layer.kernel.assign(deviation * generator.standard_normal(shape, np.float32))
        if isinstance(layer, tf_keras.layers.Dense):
            layer.bias.assign(np.zeros(layer.bias.shape, np.float32))


def draw_stem(backbone: AsViT, generator: np.random.Generator) -> None:
    """Redraws the stem's kernel and bias, uniform in +-1 / sqrt(3 K^2) as the released code's framework does."""
    kernel, bias = backbone.stem.kernel, backbone.stem.bias
    bound = float(np.prod(kernel.shape[:-1])) ** -0.5
    for variable in (kernel, bias):
        variable.assign(generator.uniform(-bound, bound, variable.shape).astype(np.float32))
