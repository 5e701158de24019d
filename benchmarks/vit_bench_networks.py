"""The networks of ViT-Bench-101, built as their authors describe them, for measures that were made for As-ViT.

AutoFormer (Chen et al., ICCV 2021): patches of 16 pixels, a class token, a position embedding, pre-norm blocks whose
heads have 64 channels whatever the width, the mean of the patches' tokens before the head. Its relative positions are
left out, as the benchmark's description does. PiT (Heo et al., ICCV 2021): patches of 16 pixels every 8 pixels, three
stages of `base_dim` channels a head; between stages a depth-wise convolution (3 x 3, stride 2) for the patches' tokens
and a linear map for the class token widen both by the ratio of heads; the class token is classified.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf.measures.registry import ATTENTION, FFN, OTHER, STEM, Kernel, Network, Trace
from asvit_tf.modeling import attention, initialization, layers
from search.scoring.networks import CLASSES

HEAD_DIM, PATCH = 64, 16


@dataclasses.dataclass(frozen=True)
class AutoFormer:
    """Attributes: width; heads and expansion ratio of every block."""

    width: int
    heads: tuple[int, ...]
    ratios: tuple[float, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> AutoFormer:
        """That of a row of the benchmark."""
        return cls(row["hidden_dim"], tuple(row["num_heads"]), tuple(row["mlp_ratio"]))

    def parameters(self, image_size: int, classes: int) -> int:
        """By a closed formula."""
        c, tokens = self.width, (image_size // PATCH) ** 2
        blocks = sum(
            4 * c + 3 * HEAD_DIM * h * (c + 1) + c * (HEAD_DIM * h + 1) + _hidden(c, r) * (2 * c + 1) + c
            for h, r in zip(self.heads, self.ratios, strict=True)
        )
        return (3 * PATCH**2 + 1) * c + c + (tokens + 1) * c + blocks + 2 * c + (c + 1) * classes

    def macs(self, image_size: int) -> int:
        """Multiply-accumulates up to the head."""
        c, patches = self.width, (image_size // PATCH) ** 2
        blocks = sum(_block_macs(patches + 1, c, HEAD_DIM * h, r) for h, r in zip(self.heads, self.ratios, strict=True))
        return patches * 3 * PATCH**2 * c + blocks

    @property
    def depth(self) -> int:
        """Blocks."""
        return len(self.heads)

    def build(self, image_size: int, classes: int, seed: int) -> Transformer:
        """The network."""
        widths = [(self.width, heads, HEAD_DIM, ratio) for heads, ratio in zip(self.heads, self.ratios, strict=True)]
        return Transformer([widths], PATCH, image_size, classes, seed, by_class_token=False)


@dataclasses.dataclass(frozen=True)
class PiT:
    """Attributes: channels of a head; expansion ratio; blocks and heads of every stage."""

    base_dim: int
    ratio: float
    depths: tuple[int, ...]
    heads: tuple[int, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> PiT:
        """That of a row of the benchmark."""
        return cls(row["base_dim"], row["mlp_ratio"], tuple(row["depth"]), tuple(row["num_heads"]))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every stage."""
        return tuple(self.base_dim * heads for heads in self.heads)

    def parameters(self, image_size: int, classes: int) -> int:
        """By a closed formula."""
        first, *_, last = self.widths
        side = (image_size - PATCH) // (PATCH // 2) + 1
        total = (3 * PATCH**2 + 1) * first + first + side**2 * first + 2 * last + (last + 1) * classes
        for c, depth in zip(self.widths, self.depths, strict=True):
            total += depth * (4 * c + 3 * c * (c + 1) + c * (c + 1) + _hidden(c, self.ratio) * (2 * c + 1) + c)
        for c, wider in zip(self.widths, self.widths[1:]):
            total += (3 * 3 + 1) * wider + (c + 1) * wider
        return total

    def macs(self, image_size: int) -> int:
        """Multiply-accumulates up to the head."""
        side = (image_size - PATCH) // (PATCH // 2) + 1
        total = side**2 * 3 * PATCH**2 * self.widths[0]
        for stage, (c, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            total += depth * _block_macs(side**2 + 1, c, c, self.ratio)
            if stage + 1 < len(self.widths):
                side, wider = -(-side // 2), self.widths[stage + 1]
                total += side**2 * 9 * wider + c * wider
        return total

    @property
    def depth(self) -> int:
        """Blocks."""
        return sum(self.depths)

    def build(self, image_size: int, classes: int, seed: int) -> Transformer:
        """The network."""
        stages = [
            [(width, heads, self.base_dim, self.ratio)] * depth
            for width, heads, depth in zip(self.widths, self.heads, self.depths, strict=True)
        ]
        return Transformer(stages, PATCH // 2, image_size, classes, seed, by_class_token=True)


def _hidden(width: int, ratio: float) -> int:
    return int(width * ratio)


def _block_macs(tokens: int, width: int, inner: int, ratio: float) -> int:
    """Of a block whose heads have `inner` channels together."""
    return tokens * (4 * width * inner + 2 * width * _hidden(width, ratio)) + 2 * tokens**2 * inner


class _Block(tf_keras.layers.Layer):
    """A pre-norm block of tokens [B, N, C]."""

    def __init__(self, width: int, heads: int, head_dim: int, ratio: float, seed: int, **kwargs: Any):
        super().__init__(**kwargs)
        seeds = layers.seed_stream(seed)
        self.norm1, self.norm2 = layers.LayerNorm(name="norm1"), layers.LayerNorm(name="norm2")
        self.attention = attention.WindowedAttention(heads, head_dim, seed=next(seeds), name="attention")
        self.fc1 = layers.dense(_hidden(width, ratio), next(seeds), "fc1")
        self.fc2 = layers.dense(width, next(seeds), "fc2")

    def call(self, x):
        return self.observed(x)[-1]

    def observed(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What attention leaves, what the GELU is given, and the output."""
        attended = x + self.attention(self.norm1(x)[:, None])[:, 0]  # One window.
        hidden = self.fc1(self.norm2(attended))
        return attended, hidden, attended + self.fc2(tf.nn.gelu(hidden, approximate=False))


class _Pooling(tf_keras.layers.Layer):
    """Patches' tokens [B, H, W, C] to half as many a side; the class token [B, 1, C] along with them."""

    def __init__(self, width: int, seed: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.width, self.seeds = width, layers.seed_stream(seed)
        self.class_map = layers.dense(width, next(self.seeds), "class_map")

    def build(self, input_shape):
        initializer = layers.linear_initializer(next(self.seeds))
        self.kernel = self.add_weight("kernel", (3, 3, self.width), initializer=initializer)
        self.bias = self.add_weight("bias", (self.width,), initializer="zeros")

    def call(self, grid, token):
        rows, columns = (-(-side // 2) for side in grid.shape[1:3])
        # As sums of shifted grids: a depth-wise convolution has no rule for derivatives along a curve.
        padded = tf.pad(tf.repeat(grid, self.width // grid.shape[-1], axis=-1), [(0, 0), (1, 1), (1, 1), (0, 0)])
        shifted = [
            padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] * self.kernel[i, j]
            for i in range(3)
            for j in range(3)
        ]
        return tf.add_n(shifted) + self.bias, self.class_map(token)


class Transformer(tf_keras.Model):
    """A Vision Transformer of stages, each of blocks `(width, heads, channels of a head, expansion ratio)`.

    Call: images [B, H, W, 3], normalized, to logits. It is a `battery.Subject`.
    """

    def __init__(self, stages: list, stride: int, image_size: int, classes: int, seed: int, by_class_token: bool):
        super().__init__()
        seeds = layers.seed_stream(seed)
        width = stages[0][0][0]
        self.by_class_token = by_class_token
        self.patches = tf_keras.layers.Conv2D(
            width, PATCH, stride, kernel_initializer=layers.linear_initializer(next(seeds)), name="patches"
        )
        side = (image_size - PATCH) // stride + 1
        tokens = (side, side, width) if by_class_token else (side * side + 1, width)
        initial = (layers.linear_initializer(next(seeds)) for _ in range(2))
        self.class_token = self.add_weight("class_token", (width,), initializer=next(initial))
        self.positions = self.add_weight("positions", tokens, initializer=next(initial))
        self.stages = [
            [_Block(*block, next(seeds), name=f"block_{i}_{j}") for j, block in enumerate(stage)]
            for i, stage in enumerate(stages)
        ]
        self.poolings = [_Pooling(stage[0][0], next(seeds), name=f"pooling_{i}") for i, stage in enumerate(stages[1:])]
        self.norm = layers.LayerNorm(name="norm")
        self.head = layers.dense(classes, next(seeds), "head")
        self(tf.zeros((1, image_size, image_size, 3)))

    def call(self, images):
        return self.head(self.traced(images).features)

    def traced(self, images: tf.Tensor) -> Trace:
        """What is classified, behind the final norm, with what goes through the blocks."""
        token, grid, trace = self._through(images)
        features = self._classified(*(self.norm(tokens) for tokens in (token, grid)))
        return Trace(features, trace.outputs, trace.gates, trace.entries)

    def features(self, images: tf.Tensor, normalization: str) -> tf.Tensor:
        """What is classified, before the final norm, as it is measured of As-ViT."""
        with self._normalized_by(normalization):
            return self._classified(*self._through(images)[:2])

    def ntk_variables(self, normalization: str) -> list[tf.Variable]:
        """Weights and scales of norms that `features` depends on, without biases, embeddings and tokens."""
        layer = normalization == "layer"
        scales = [norm.gamma for norm in self._norms() if norm is not self.norm] if layer else []
        return [kernel.variable for kernel in self._kernels()] + scales

    def network(self) -> Network:
        """The network as published measures see it."""

        def through(normalization: str) -> Callable[[tf.Tensor], Trace]:
            def call(images: tf.Tensor) -> Trace:
                with self._normalized_by(normalization):
                    return self.traced(images)

            return call

        kernels = self._kernels()
        known = {kernel.variable.ref() for kernel in kernels} | {v.ref() for v in self.head.trainable_variables}
        others = [variable for variable in self.trainable_variables if variable.ref() not in known]
        head = tf.Variable(tf.zeros((self.head.kernel.shape[0], CLASSES)), name="measured_head")
        return Network(through("layer"), kernels, others, head, through("identity"))

    def draw_stem(self, generator: np.random.Generator) -> None:
        """The patches' map, uniform in +-1 / sqrt(fan_in), bias included."""
        bound = float(np.prod(self.patches.kernel.shape[:-1])) ** -0.5
        for variable in (self.patches.kernel, self.patches.bias):
            variable.assign(generator.uniform(-bound, bound, variable.shape).astype(np.float32))

    def draw_linear(self, generator: np.random.Generator, scheme: str) -> None:
        """All other weights by the scheme; class token and positions by the usual deviation of 0.02."""
        for kernel in self._kernels():
            if kernel.role != STEM:
                kernel.variable.assign(initialization.drawn(tuple(kernel.variable.shape), generator, scheme))
        for variable in (self.class_token, self.positions):
            variable.assign(initialization.drawn(tuple(variable.shape), generator))

    def _through(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Trace]:
        """Class token [B, 1, C] and patches' tokens [B, N, C] behind the last block, and what went through blocks."""
        grid = self.patches(images)
        outputs, gates, entries = {}, {}, {}
        if self.by_class_token:
            grid = grid + self.positions
        batch = tf.shape(images)[0]
        token = tf.tile(self.class_token[None, None], [batch, 1, 1])
        for index, blocks in enumerate(self.stages):
            if index:
                grid, token = self.poolings[index - 1](grid, token)
            rows, columns, width = grid.shape[1:]
            x = tf.concat([token, tf.reshape(grid, [-1, rows * columns, width])], axis=1)
            if not self.by_class_token:
                x = x + self.positions
            for block in blocks:
                entries[f"{block.name}.attention"] = x
                attended, hidden, x = block.observed(x)
                entries[f"{block.name}.ffn"] = attended
                outputs |= {f"{block.name}.attention": attended, f"{block.name}.ffn": x}
                gates[block.name] = hidden
            token, grid = x[:, :1], tf.reshape(x[:, 1:], [-1, rows, columns, width])
        return token, x[:, 1:], Trace(x, outputs, gates, entries)

    def _classified(self, token: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
        return token[:, 0] if self.by_class_token else tf.reduce_mean(tokens, axis=1)

    def _kernels(self) -> list[Kernel]:
        kernels = [Kernel(self.patches.kernel, STEM)]
        for index, blocks in enumerate(self.stages):
            if index:
                pooling = self.poolings[index - 1]
                kernels += [Kernel(pooling.kernel, OTHER), Kernel(pooling.class_map.kernel, OTHER)]
            for block in blocks:
                kernels += [Kernel(layer.kernel, ATTENTION) for layer in (block.attention.qkv, block.attention.proj)]
                kernels += [Kernel(layer.kernel, FFN) for layer in (block.fc1, block.fc2)]
        return kernels

    def _norms(self) -> list[layers.LayerNorm]:
        return [layer for layer in self.submodules if isinstance(layer, layers.LayerNorm)]

    @contextlib.contextmanager
    def _normalized_by(self, normalization: str) -> Iterator[None]:
        norms = self._norms()
        for norm in norms:
            norm.identity = normalization == "identity"
        try:
            yield
        finally:
            for norm in norms:
                norm.identity = False
