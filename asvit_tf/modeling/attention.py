"""Attention inside windows: a token grid cut into windows, and multi-head self-attention among the tokens of each."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf import choices
from asvit_tf.design import grids
from asvit_tf.modeling.layers import dense, seed_stream, statistics_dtype

CHUNKED_TOKENS = 512  # Of a window, from which "auto" keeps no scores.
_MASKED = -1e9  # Added to a score before the softmax; its exponential is exactly 0 in every float type used.


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


def attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    """`softmax(query key^T + bias) value` over the last two axes, with a gradient that touches fewer scores.

    The scores are by far the largest tensors of a network, and what moves them costs more than what computes them. The
    softmax's own gradient needs the sum of `weights * d_weights` over the keys. That is the sum of
    `mixed * d_mixed` over the channels, a factor of tokens / channels less.

    Source: the sum is rearranged as in FlashAttention (Dao et al. 2022, appendix B.2); the scores are still built, and
    kept for the gradient. `attend_in_chunks` keeps none.

    Args:
      query, key, value: [..., tokens, channels]; the query is scaled already.
      bias: Added to the scores, of a shape that broadcasts to them; not differentiated.

    Returns:
      [..., tokens, channels].
    """

    @tf.custom_gradient
    def attention(query, key, value):
        mixing = _Mixing.of(query, key, value, bias)
        return tf.cast(mixing.mixed, value.dtype), lambda d_mixed: mixing.gradients(d_mixed, query, key, value)

    return attention(query, key, value)


def attend_in_chunks(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    """`attend` of one index of the first axis after another; the gradient computes the scores of each again.

    No more than one chunk's scores exist at any time. Of five products of scores one is computed twice: what was mixed
    is kept. Where scores are large, not writing and reading them saves as much. For gradients, also of gradients;
    forward mode does not see through the loop.

    Args:
      query, key, value: [chunks, ..., tokens, channels]; the number of chunks is known.
      bias: As of `attend`, with an axis of chunks in front.

    Returns:
      [chunks, ..., tokens, channels].
    """

    def each(function, outputs, *inputs):
        signature = [tf.TensorSpec(tensor.shape[1:], dtype) for tensor, dtype in outputs]
        chunks = inputs if bias is None else (*inputs, bias)
        # Under XLA, and where memory matters, chunks must not be computed side by side.
        return tf.map_fn(lambda chunk: function(*chunk), chunks, fn_output_signature=signature, parallel_iterations=1)

    def forward(query, key, value, bias=None):
        mixing = _Mixing.of(query, key, value, bias)
        return [mixing.mixed, mixing.sums]

    def backward(d_mixed, query, key, value, mixed, sums, bias=None):
        weights = _Mixing.weigh(query, key, bias)
        return list(_Mixing(weights, sums, mixed).gradients(d_mixed, query, key, value))

    def backward_of_all(d_mixed, query, key, value, bias=None):
        return list(_Mixing.of(query, key, value, bias).gradients(d_mixed, query, key, value))

    @tf.custom_gradient
    def attention(query, key, value):
        dtype = statistics_dtype(query)
        mixed, sums = each(forward, [(value, dtype), (value[..., :1], dtype)], query, key, value)
        inputs = [(tensor, tensor.dtype) for tensor in (query, key, value)]

        @tf.custom_gradient
        def gradient(d_mixed, query, key, value):
            found = each(backward, inputs, d_mixed, query, key, value, mixed, sums)

            def second(*upstream):
                # What is kept depends on the arguments, too, and that is not recorded.
                sources = [d_mixed, query, key, value]
                with tf.GradientTape() as tape:
                    tape.watch(sources)
                    again = each(backward_of_all, inputs, *sources)
                return tape.gradient(again, sources, output_gradients=upstream)

            return tuple(found), second

        return tf.cast(mixed, value.dtype), lambda d_mixed: gradient(d_mixed, query, key, value)

    return attention(query, key, value)


@dataclasses.dataclass(frozen=True)
class _Mixing:
    """Values mixed by the softmax of scores, and what its gradient needs.

    With features narrower than the scores, so on an accelerator, the weights are not divided by their sums: the product
    with the values is, which has a factor of tokens / channels fewer numbers, and the sums come with it, as one more
    value that is 1 for every key. A compiler then computes the exponentials on their way into the product and never
    writes them. Not in float16, whose range is too small for sums over hundreds of keys, and for gradients over them.

    Attributes:
      weights: [..., tokens, tokens], of the statistics' type, to be divided by `sums`.
      sums: [..., tokens, 1].
      mixed: [..., tokens, channels], of the statistics' type.
    """

    weights: tf.Tensor
    sums: tf.Tensor
    mixed: tf.Tensor

    @classmethod
    def of(cls, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor | None) -> _Mixing:
        """That of `attend`'s arguments."""
        weights = cls.weigh(query, key, bias)
        dtype = weights.dtype
        if _divides(value.dtype):
            mixed = tf.cast(tf.matmul(tf.cast(weights, value.dtype), value), dtype)
            return cls(weights, tf.ones_like(weights[..., :1]), mixed)
        extended = tf.concat([value, tf.ones_like(value[..., :1])], axis=-1)
        products = tf.cast(tf.matmul(tf.cast(weights, value.dtype), extended), dtype)
        return cls(weights, products[..., -1:], products[..., :-1] / products[..., -1:])

    @staticmethod
    def weigh(query: tf.Tensor, key: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
        """`weights`."""
        scores = tf.matmul(query, key, transpose_b=True)
        dtype = statistics_dtype(scores)
        scores = tf.cast(scores, dtype)
        if bias is not None:
            scores += tf.cast(bias, dtype)
        if _divides(query.dtype):
            return tf.nn.softmax(scores)
        return tf.exp(scores - tf.reduce_max(scores, axis=-1, keepdims=True))

    def gradients(
        self, d_mixed: tf.Tensor, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Of query, key and value, from that of what was mixed."""
        dtype = self.weights.dtype
        d_products = tf.cast(d_mixed, dtype) / self.sums
        shared = tf.reduce_sum(self.mixed * d_products, axis=-1, keepdims=True)
        d_products = tf.cast(d_products, value.dtype)
        d_weights = tf.cast(tf.matmul(d_products, value, transpose_b=True), dtype)
        d_scores = tf.cast(self.weights * (d_weights - shared), value.dtype)
        return (
            tf.matmul(d_scores, key),
            tf.matmul(d_scores, query, transpose_a=True),
            tf.matmul(tf.cast(self.weights, value.dtype), d_products, transpose_a=True),
        )


def _divides(dtype: tf.DType) -> bool:
    """Whether weights are divided by their sums, of features of this type; see `_Mixing`."""
    return dtype != tf.bfloat16


class WindowedAttention(tf_keras.layers.Layer):
    """Multi-head self-attention among the tokens of a window.

    Args:
      num_heads: Number of heads.
      head_dim: Channels of a head; `num_heads * head_dim` may be less than the width.
      scores: In training, "whole" keeps all scores for the gradient, "chunked" computes them a window and head at a
        time, and again for the gradient; "auto" does so in windows of `CHUNKED_TOKENS` and more.
      initialization: Of the linear maps, as `layers.linear_initializer`.

    Call: windows of tokens [B, windows, tokens, C]; or, with the argument `windows`, a grid [B, H, W, C] that is cut
    into them. The result has the shape of the input.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        seed: int | None = None,
        scores: str = choices.WHOLE,
        initialization: str = choices.RELEASED,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.initialization = initialization
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.seed = seed
        self.scores = scores

    def build(self, input_shape):
        seeds = seed_stream(self.seed)
        inner = self.num_heads * self.head_dim
        self.qkv = dense(3 * inner, next(seeds), "qkv", self.initialization)
        self.proj = dense(input_shape[-1], next(seeds), "proj", self.initialization)
        # In scopes of their own, as if they were called: HDF5 files want names that differ.
        for layer, channels in ((self.qkv, input_shape[-1]), (self.proj, inner)):
            with tf.name_scope(layer.name):
                layer.build((*input_shape[:-1], channels))

    def call(self, x: tf.Tensor, windows: grids.Windows | None = None, training: bool | None = None) -> tf.Tensor:
        # One product each: a TPU then writes the heads where attention wants them. Mapped together, as the weights are
        # stored, they are moved afterwards, which there costs more than the products.
        maps = zip(tf.split(self.qkv.kernel, 3, axis=1), tf.split(self.qkv.bias, 3))
        tokens = [tf.nn.bias_add(tf.einsum("bwtc,cd->bwtd", x, kernel), offset) for kernel, offset in maps]
        if windows is not None:
            tokens = [to_windows(each, windows) for each in tokens]
        shape = tokens[0].shape[1:]
        query, key, value = (tf.reshape(each, [-1, *shape[:2], self.num_heads, self.head_dim]) for each in tokens)
        attention = self._in_chunks if training is True and self._chunked(shape[1]) else self._whole
        bias = padding_bias(windows) if windows is not None else None
        mixed = tf.reshape(attention(query * self.head_dim**-0.5, key, value, bias), [-1, *shape])
        if windows is not None:
            mixed = from_windows(mixed, windows)
        return tf.nn.bias_add(tf.einsum("bwtd,dc->bwtc", mixed, self.proj.kernel), self.proj.bias)

    def _chunked(self, tokens: int) -> bool:
        """Whether scores among so many tokens are not kept."""
        return self.scores == "chunked" or (self.scores == choices.AUTO and tokens >= CHUNKED_TOKENS)

    def _whole(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
        """Attention of [B, windows, tokens, heads, channels], all windows and heads at once."""
        heads = [0, 1, 3, 2, 4]  # Its own inverse.
        query, key, value = (tf.transpose(each, heads) for each in (query, key, value))
        return tf.transpose(attend(query, key, value, bias), heads)

    def _in_chunks(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
        """The same, a window and head at a time."""
        windows, tokens, heads, channels = query.shape[1:]

        def chunks(x: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tf.transpose(x, [1, 3, 0, 2, 4]), [windows * heads, -1, tokens, channels])

        if bias is not None:
            bias = tf.repeat(bias[:, 0], heads, axis=0)  # [chunks, 1, tokens]
        mixed = attend_in_chunks(chunks(query), chunks(key), chunks(value), bias)
        return tf.transpose(tf.reshape(mixed, [windows, heads, -1, tokens, channels]), [2, 0, 3, 1, 4])
