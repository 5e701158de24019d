"""Norm, stem, position embedding and patch merging; they take plain numbers and [batch, rows, columns, channels].

Only operations that XLA compiles for a TPU and that can be differentiated twice are used. Two library layers are
deliberately not: tf_keras's LayerNormalization stops the gradient of the mean (its second derivatives are wrong), and
its Conv2D refuses a stride together with a dilation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf import choices
from asvit_tf.design import grids

NORM_EPSILON = 1e-5


def seed_stream(seed: int | None) -> Iterator[int | None]:
    """One seed after another for the parts of a layer or model that was given one seed (or none, and so are they)."""
    if seed is None:
        yield from itertools.repeat(None)
    generator = np.random.default_rng(seed)
    while True:
        yield int(generator.integers(2**31))


def linear_initializer(seed: int | None, initialization: str = choices.RELEASED) -> tf_keras.initializers.Initializer:
    """The start of a linear map's weights: truncated normal. One for each weight.

    Args:
      seed: Its seed.
      initialization: "released", deviation 0.02, the usual one of transformers, which are hundreds of channels wide; or
        "lecun", 1 / sqrt(fan_in), which narrow networks need to learn soon (docs/benchmarks.md, "Photographs").
    """
    if initialization == choices.LECUN:
        return tf_keras.initializers.LecunNormal(seed)
    return tf_keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)


def statistics_dtype(x: tf.Tensor) -> tf.DType:
    """Means, variances and softmax need at least float32, whatever the features are computed in."""
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def dense(units: int, seed: int | None, name: str, initialization: str = choices.RELEASED) -> tf_keras.layers.Dense:
    """A linear map of the last axis, [..., C] to [..., units], with a bias and `linear_initializer`."""
    return tf_keras.layers.Dense(units, kernel_initializer=linear_initializer(seed, initialization), name=name)


class LayerNorm(tf_keras.layers.Layer):
    """Normalizes the last axis: `(x - mean) / sqrt(var + eps) * gamma + beta`.

    Every derivative is right, also of the mean. With `identity` set the layer returns its input; its variables stay,
    so that one set of weights serves measures with and without norms.

    Input and output: [..., C], same dtype; statistics in float32 or wider.
    """

    def __init__(self, epsilon: float = NORM_EPSILON, **kwargs: Any):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.identity = False

    def build(self, input_shape):
        channels = input_shape[-1]
        self.gamma = self.add_weight("gamma", (channels,), initializer="ones")
        self.beta = self.add_weight("beta", (channels,), initializer="zeros")

    def call(self, x):
        if self.identity:
            return x
        dtype = statistics_dtype(x)
        wide = tf.cast(x, dtype)
        centred = wide - tf.reduce_mean(wide, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        normalized = centred * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast(normalized * tf.cast(self.gamma, dtype) + tf.cast(self.beta, dtype), x.dtype)


def sampled_conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int, dilation: int) -> tf.Tensor:
    """Convolution with SAME padding and any pair of stride and dilation.

    TensorFlow on a CPU has no gradient for a dilated convolution outside XLA. Here a dilated window is first
    gathered: rows, then columns, so that its taps lie side by side and a plain convolution, whose stride is its kernel
    size, sees each window once. Undilated windows need no gather.

    Args:
      images: [B, H, W, C].
      kernel: [K, K, C, D].
      stride: Pixels between windows, >= 1.
      dilation: Pixels between taps, >= 1.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), D].
    """
    if dilation == 1:
        return tf.nn.conv2d(images, kernel, stride, "SAME")
    size = kernel.shape[0]
    paddings = [grids.same_padding(side, size, stride, dilation) for side in images.shape[1:3]]
    sampled = tf.pad(images, [(0, 0), *paddings, (0, 0)])
    for axis, side in ((1, images.shape[1]), (2, images.shape[2])):
        starts = np.arange(grids.ceil_div(side, stride)) * stride
        taps = (starts[:, None] + np.arange(size) * dilation).reshape(-1)  # [windows * K]
        sampled = tf.gather(sampled, taps, axis=axis)
    return tf.nn.conv2d(sampled, kernel, size, "VALID")  # [B, h * K, w * K, C] -> [B, h, w, D]


class Stem(tf_keras.layers.Layer):
    """Images to tokens: a K x K convolution whose stride and dilation can change while its kernel stays, then a norm.

    `stride` and `dilation` are plain attributes: what a traced program computes is what they were when it was traced.

    Args:
      width: Channels of a token.
      kernel_size: Taps per side.
      stride: Pixels between tokens.
      dilation: Pixels between taps.
      seed: Seed of the initial weights.

    Input [B, H, W, 3], output [B, ceil(H / stride), ceil(W / stride), width].
    """

    def __init__(
        self, width: int, kernel_size: int, stride: int, dilation: int, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.width = width
        self.kernel_size = kernel_size
        self.stride = stride
        self.dilation = dilation
        self.seed = seed
        self.norm = LayerNorm(name="norm")

    def build(self, input_shape):
        fan_in = self.kernel_size**2 * input_shape[-1]
        # The released code leaves the stem at its framework's default: uniform in +-1/sqrt(fan_in), bias included.
        bound = fan_in**-0.5
        for name, shape, seed in zip(
            ("kernel", "bias"),
            ((self.kernel_size, self.kernel_size, input_shape[-1], self.width), (self.width,)),
            seed_stream(self.seed),
        ):
            uniform = tf_keras.initializers.RandomUniform(-bound, bound, seed=seed)
            setattr(self, name, self.add_weight(name, shape, initializer=uniform))

    def call(self, images):
        return self.norm(sampled_conv2d(images, self.kernel, self.stride, self.dilation) + self.bias)


def interpolation_matrix(target: int, source: int) -> np.ndarray:
    """Weights [target, source] that resize a line of samples with a triangle filter, widened when shrinking.

    Source: the antialiased bilinear resize of TensorFlow (`tf.image.resize(..., antialias=True)`), which not every XLA
    backend compiles; as a constant matrix it is a matrix product anywhere. Equal sizes give the identity.
    """
    step = source / target
    centres = (np.arange(target) + 0.5) * step
    distances = np.abs(np.arange(source) + 0.5 - centres[:, None]) / max(step, 1.0)
    weights = np.maximum(1.0 - distances, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


class PositionEmbedding(tf_keras.layers.Layer):
    """Adds one learned vector to each token, resized from the stride-4 grid to whatever grid the stem produces.

    Args:
      grid: Rows and columns of the stored embedding.

    Input and output: [B, rows, columns, C].
    """

    def __init__(self, grid: tuple[int, int], seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        self.seed = seed

    def build(self, input_shape):
        self.embedding = self.add_weight(
            "embedding", (1, *self.grid, input_shape[-1]), initializer=linear_initializer(self.seed)
        )

    def call(self, x):
        embedding = tf.cast(self.embedding, x.dtype)
        grid = tuple(x.shape[1:3])
        if grid != self.grid:
            rows, columns = (tf.constant(interpolation_matrix(*sides), x.dtype) for sides in zip(grid, self.grid))
            embedding = tf.einsum("yr,xc,brcd->byxd", rows, columns, embedding)
        return x + embedding


class PatchMerging(tf_keras.layers.Layer):
    """Norm over each k x k patch of tokens, then a bias-free linear map: half the grid, more channels.

    The [tokens, k * k * C] patches are never built. With p a patch, mu and s its mean and deviation, W the map, and
    gamma and beta the norm's scale and offset over the k * k * C entries,

        W (gamma * (p - mu) / s + beta) = (conv(x, W gamma) - mu * sum(W gamma)) / s + W beta,

    and mu and s follow from two averages pooled over the patch: of the tokens' means and of their mean squares. The
    variance is pooled from each token's own variance plus the spread of the token means, which loses fewer digits than
    a plain mean of squares. Zeros padded at the border count as tokens, as they do in the released code. First each
    image's mean is taken off: that changes no patch's result, and without it large features would cancel to noise.

    Args:
      width: Output channels.
      kernel_size: k, tokens per side of a patch; the stride is 2.
      initialization: Of the linear map, as `linear_initializer`.

    Input [B, H, W, C], output [B, ceil(H / 2), ceil(W / 2), width].
    """

    def __init__(
        self,
        width: int,
        kernel_size: int,
        epsilon: float = NORM_EPSILON,
        seed: int | None = None,
        initialization: str = choices.RELEASED,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.initialization = initialization
        self.width = width
        self.kernel_size = kernel_size
        self.epsilon = epsilon
        self.seed = seed
        self.identity = False

    def build(self, input_shape):
        patch = (self.kernel_size, self.kernel_size, input_shape[-1])
        self.gamma = self.add_weight("gamma", patch, initializer="ones")
        self.beta = self.add_weight("beta", patch, initializer="zeros")
        initializer = linear_initializer(self.seed, self.initialization)
        self.kernel = self.add_weight("kernel", (*patch, self.width), initializer=initializer)

    def _pool(self, tokens: tf.Tensor) -> tf.Tensor:
        """Mean of padded [B, H, W, 1] over each patch."""
        return tf.nn.avg_pool2d(tokens, self.kernel_size, 2, "VALID")

    def call(self, x):
        if self.identity:
            return tf.nn.conv2d(x, self.kernel, 2, "SAME")
        sides = [grids.same_padding(side, self.kernel_size, 2) for side in x.shape[1:3]]
        dtype = statistics_dtype(x)
        wide = tf.cast(x, dtype)
        # The result does not depend on the shift, so its gradient is 0 to every order.
        shift = tf.stop_gradient(tf.reduce_mean(wide, axis=(1, 2, 3), keepdims=True))
        shifted = tf.pad(wide, [(0, 0), *sides, (0, 0)]) - shift
        token_mean = tf.reduce_mean(shifted, axis=-1, keepdims=True)
        token_variance = tf.reduce_mean(tf.square(shifted - token_mean), axis=-1, keepdims=True)
        mean = self._pool(token_mean)  # [B, h, w, 1]
        spread = tf.nn.relu(self._pool(tf.square(token_mean)) - tf.square(mean))  # Rounding can make 0 negative.
        inverse = tf.math.rsqrt(self._pool(token_variance) + spread + self.epsilon)

        kernel = self.gamma[..., None] * self.kernel
        projected = tf.cast(tf.nn.conv2d(tf.cast(shifted, x.dtype), kernel, 2, "VALID"), dtype)
        offset = tf.einsum("yxc,yxcd->d", self.beta, self.kernel)
        column_sums = tf.cast(tf.reduce_sum(kernel, axis=(0, 1, 2)), dtype)
        merged = (projected - mean * column_sums) * inverse + tf.cast(offset, dtype)
        return tf.cast(merged, x.dtype)
