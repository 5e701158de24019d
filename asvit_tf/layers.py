"""The layers of As-ViT. They take plain numbers; every feature map is [batch, rows, columns, channels].

Only operations that XLA compiles for a TPU and that can be differentiated twice are used. Two library layers are
deliberately not: tf_keras's LayerNormalization stops the gradient of the mean (its second derivatives are wrong), and
its Conv2D refuses a stride together with a dilation.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf import grids

NORM_EPSILON = 1e-5
_MASKED = -1e9  # Added to a score before the softmax; its exponential is exactly 0 in every float type used.


def seed_stream(seed: int | None) -> Iterator[int | None]:
    """One seed after another for the parts of a layer or model that was given one seed (or none, and so are they)."""
    if seed is None:
        yield from itertools.repeat(None)
    generator = np.random.default_rng(seed)
    while True:
        yield int(generator.integers(2**31))


def linear_initializer(seed: int | None) -> tf_keras.initializers.Initializer:
    """Truncated normal of deviation 0.02, the usual start of a transformer's linear weights. One for each weight."""
    return tf_keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)


def _statistics_dtype(x: tf.Tensor) -> tf.DType:
    """Means and variances need at least float32, whatever the features are computed in."""
    return tf.float64 if x.dtype == tf.float64 else tf.float32


def _dense(units: int, seed: int | None, name: str) -> tf_keras.layers.Dense:
    return tf_keras.layers.Dense(units, kernel_initializer=linear_initializer(seed), name=name)


class LayerNorm(tf_keras.layers.Layer):
    """Normalizes the last axis: `(x - mean) / sqrt(var + eps) * gamma + beta`.

    Every derivative is right, also of the mean. With `identity` set the layer returns its input; its variables stay,
    so that one set of weights serves measures with and without norms.

    Input and output: [..., C], same dtype; statistics in float32 or wider.
    """

    def __init__(self, epsilon: float = NORM_EPSILON, **kwargs):
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
        dtype = _statistics_dtype(x)
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
      seed: Of the initial weights.

    Input [B, H, W, 3], output [B, ceil(H / stride), ceil(W / stride), width].
    """

    def __init__(self, width: int, kernel_size: int, stride: int, dilation: int, seed: int | None = None, **kwargs):
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

    def __init__(self, grid: tuple[int, int], seed: int | None = None, **kwargs):
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

    Input [B, H, W, C], output [B, ceil(H / 2), ceil(W / 2), width].
    """

    def __init__(self, width: int, kernel_size: int, epsilon: float = NORM_EPSILON, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.kernel_size = kernel_size
        self.epsilon = epsilon
        self.seed = seed
        self.identity = False

    def build(self, input_shape):
        patch = (self.kernel_size, self.kernel_size, input_shape[-1])
        self.gamma = self.add_weight("gamma", patch, initializer="ones")
        self.beta = self.add_weight("beta", patch, initializer="zeros")
        self.kernel = self.add_weight("kernel", (*patch, self.width), initializer=linear_initializer(self.seed))

    def _pool(self, tokens: tf.Tensor) -> tf.Tensor:
        """Mean of padded [B, H, W, 1] over each patch."""
        return tf.nn.avg_pool2d(tokens, self.kernel_size, 2, "VALID")

    def call(self, x):
        if self.identity:
            return tf.nn.conv2d(x, self.kernel, 2, "SAME")
        sides = [grids.same_padding(side, self.kernel_size, 2) for side in x.shape[1:3]]
        dtype = _statistics_dtype(x)
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


class WindowedAttention(tf_keras.layers.Layer):
    """Multi-head self-attention among the tokens of a window.

    Args:
      num_heads: Heads.
      head_dim: Channels of a head; `num_heads * head_dim` may be less than the width.

    Call: windows of tokens [B, windows, tokens, C]; or, with the argument `windows`, a grid [B, H, W, C] that is cut
    into them. The result has the shape of the input.
    """

    def __init__(self, num_heads: int, head_dim: int, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.seed = seed

    def build(self, input_shape):
        seeds = seed_stream(self.seed)
        inner = self.num_heads * self.head_dim
        self.qkv = _dense(3 * inner, next(seeds), "qkv")
        self.proj = _dense(input_shape[-1], next(seeds), "proj")
        self.qkv.build(input_shape)
        self.proj.build((*input_shape[:-1], inner))

    def call(self, x, windows: grids.Windows | None = None):
        # One product each: a TPU then writes the heads where attention wants them. Mapped together, as the weights are
        # stored, they are moved afterwards, which there costs more than the products.
        maps = zip(tf.split(self.qkv.kernel, 3, axis=1), tf.split(self.qkv.bias, 3))
        tokens = [tf.nn.bias_add(tf.einsum("bwtc,cd->bwtd", x, kernel), offset) for kernel, offset in maps]
        if windows is not None:
            tokens = [to_windows(each, windows) for each in tokens]
        heads = [-1, *tokens[0].shape[1:3], self.num_heads, self.head_dim]
        query, key, value = (tf.transpose(tf.reshape(each, heads), [0, 1, 3, 2, 4]) for each in tokens)

        bias = padding_bias(windows) if windows is not None else None
        mixed = attend(query * self.head_dim**-0.5, key, value, bias)  # [B, windows, heads, tokens, head_dim]
        mixed = tf.reshape(tf.transpose(mixed, [0, 1, 3, 2, 4]), [-1, *tokens[0].shape[1:]])
        if windows is not None:
            mixed = from_windows(mixed, windows)
        return tf.nn.bias_add(tf.einsum("bwtd,dc->bwtc", mixed, self.proj.kernel), self.proj.bias)


def attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    """`softmax(query key^T + bias) value` over the last two axes, with a gradient that touches fewer scores.

    The scores are by far the largest tensors of a network, and what moves them costs more than what computes them. The
    softmax's own gradient needs the sum of `weights * d_weights` over the keys. That is the sum of
    `mixed * d_mixed` over the channels, a factor of tokens / channels less.

    With features narrower than the scores, so on an accelerator, the weights are not divided by their sums: the product
    with the values is, which has that factor fewer numbers, and the sums come with it, as one more value that is 1 for
    every key. A compiler then computes the exponentials on their way into the product and never writes them.

    Source: the sum is rearranged as in FlashAttention (Dao et al. 2022, appendix B.2); the scores are still built.

    Args:
      query, key, value: [..., tokens, channels]; the query is scaled already.
      bias: Added to the scores, of a shape that broadcasts to them; not differentiated.

    Returns:
      [..., tokens, channels].
    """

    @tf.custom_gradient
    def attention(query, key, value):
        scores = tf.matmul(query, key, transpose_b=True)  # [..., tokens, tokens]
        dtype = _statistics_dtype(scores)
        scores = tf.cast(scores, dtype)
        if bias is not None:
            scores += tf.cast(bias, dtype)
        if dtype == value.dtype:
            weights = tf.nn.softmax(scores)
            sums = tf.ones_like(weights[..., :1])
            mixed = tf.matmul(weights, value)
        else:
            weights = tf.exp(scores - tf.reduce_max(scores, axis=-1, keepdims=True))
            extended = tf.concat([value, tf.ones_like(value[..., :1])], axis=-1)
            products = tf.cast(tf.matmul(tf.cast(weights, value.dtype), extended), dtype)
            sums = products[..., -1:]
            mixed = products[..., :-1] / sums

        def gradient(d_mixed):
            d_products = tf.cast(d_mixed, dtype) / sums
            shared = tf.reduce_sum(mixed * d_products, axis=-1, keepdims=True)
            d_products = tf.cast(d_products, value.dtype)
            d_weights = tf.cast(tf.matmul(d_products, value, transpose_b=True), dtype)
            d_scores = tf.cast(weights * (d_weights - shared), value.dtype)
            return (
                tf.matmul(d_scores, key),
                tf.matmul(d_scores, query, transpose_a=True),
                tf.matmul(tf.cast(weights, value.dtype), d_products, transpose_a=True),
            )

        return tf.cast(mixed, value.dtype), gradient

    return attention(query, key, value)


def to_windows(x: tf.Tensor, windows: grids.Windows) -> tf.Tensor:
    """[B, rows, columns, C] -> [B, windows, tokens of a window, C], zeros behind the last row and column if need be."""
    if windows.padded:
        x = tf.pad(x, [(0, 0), *windows.padding, (0, 0)])
    (rows, columns), (height, width), channels = windows.counts, windows.edges, x.shape[-1]
    if windows.number > 1:
        x = tf.reshape(x, [-1, rows, height, columns, width, channels])
        x = tf.transpose(x, [0, 1, 3, 2, 4, 5])
    return tf.reshape(x, [-1, windows.number, windows.tokens, channels])


def from_windows(x: tf.Tensor, windows: grids.Windows) -> tf.Tensor:
    """Inverse of `to_windows`."""
    (rows, columns), (height, width), channels = windows.counts, windows.edges, x.shape[-1]
    if windows.number > 1:
        x = tf.reshape(x, [-1, rows, columns, height, width, channels])
        x = tf.transpose(x, [0, 1, 3, 2, 4, 5])
    x = tf.reshape(x, [-1, rows * height, columns * width, channels])
    return x[:, : windows.grid[0], : windows.grid[1]] if windows.padded else x


def padding_bias(windows: grids.Windows) -> tf.Tensor | None:
    """Score offsets [windows, 1, 1, tokens], 0 for real keys and a large negative number for padding; None without."""
    if not windows.padded:
        return None
    (rows, columns), (height, width) = windows.counts, windows.edges
    bias = np.pad(np.zeros(windows.grid), windows.padding, constant_values=_MASKED)
    bias = bias.reshape(rows, height, columns, width).transpose(0, 2, 1, 3)
    return tf.constant(bias.reshape(windows.number, 1, 1, windows.tokens))


class Block(tf_keras.layers.Layer):
    """Pre-norm transformer block: attention, then FFN, each added to its input.

    Args:
      width: Channels C.
      num_heads, head_dim: As `WindowedAttention`.
      expansion_ratio: Hidden width of the FFN over C.
      drop_rate: Probability that training skips a branch for an image (stochastic depth), in [0, 1).

    Call: as `WindowedAttention`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        head_dim: int,
        expansion_ratio: int,
        drop_rate: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        seeds = seed_stream(seed)
        self.norm1 = LayerNorm(name="norm1")
        self.attention = WindowedAttention(num_heads, head_dim, seed=next(seeds), name="attention")
        self.norm2 = LayerNorm(name="norm2")
        self.fc1 = _dense(width * expansion_ratio, next(seeds), "fc1")
        self.fc2 = _dense(width, next(seeds), "fc2")
        # Dropout of a whole branch, one draw per image, is stochastic depth.
        self.drop_path = tf_keras.layers.Dropout(
            drop_rate, noise_shape=(None, 1, 1, 1), seed=next(seeds), name="drop_path"
        )

    def call(self, x, windows: grids.Windows | None = None, training=None):
        x = x + self.drop_path(self.attention(self.norm1(x), windows), training=training)
        hidden = tf.nn.gelu(self.fc1(self.norm2(x)), approximate=False)
        return x + self.drop_path(self.fc2(hidden), training=training)


class Stage(tf_keras.layers.Layer):
    """Blocks on one token grid, which is cut into windows once for all of them.

    Windows that do not divide the grid are cut by each attention for itself, padded behind the last row and column and
    masked there, so that nothing else is computed for what is padded.

    Args:
      blocks: In order.
      splits: Attention windows per side of the grid.
      fixed_edge: Tokens per side of a window instead, whatever the grid.

    Input and output: [B, H, W, C].
    """

    def __init__(self, blocks: Sequence[Block], splits: int, fixed_edge: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.blocks = list(blocks)
        self.splits = splits
        self.fixed_edge = fixed_edge

    def call(self, x, training=None):
        windows = grids.Windows.cut((x.shape[1], x.shape[2]), self.splits, self.fixed_edge)
        if windows.padded:
            for block in self.blocks:
                x = block(x, windows, training=training)
            return x
        x = to_windows(x, windows)
        for block in self.blocks:
            x = block(x, training=training)
        return from_windows(x, windows)
