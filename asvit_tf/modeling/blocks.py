"""The transformer block, and the stage: blocks on one token grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras

from asvit_tf import choices
from asvit_tf.design import grids
from asvit_tf.modeling import recomputation
from asvit_tf.modeling.attention import WindowedAttention, from_windows, to_windows
from asvit_tf.modeling.draws import StochasticDepth
from asvit_tf.modeling.layers import LayerNorm, dense, seed_stream


class Observed(NamedTuple):
    """What goes through a block: its input, after the attention, the FFN's hidden layer before the GELU, its output."""

    entry: tf.Tensor
    attended: tf.Tensor
    hidden: tf.Tensor
    output: tf.Tensor


class Block(tf_keras.layers.Layer):
    """Pre-norm transformer block: attention, then FFN, each added to its input.

    Args:
      width: Channels C.
      num_heads, head_dim: As `WindowedAttention`.
      expansion_ratio: Hidden width of the FFN over C.
      drop_rate: Probability that training skips a branch for an image (stochastic depth), in [0, 1).
      scores, initialization: As `WindowedAttention`; the latter also of the FFN.
      recomputed: In training, keep the input only, and compute what is inside again for the gradient.

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
        scores: str = choices.WHOLE,
        recomputed: bool = False,
        initialization: str = choices.RELEASED,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.recomputed = recomputed
        self.observer: Callable[[Observed], None] | None = None  # Called in every call, where there is one.
        seeds = seed_stream(seed)
        self.norm1 = LayerNorm(name="norm1")
        self.attention = WindowedAttention(num_heads, head_dim, next(seeds), scores, initialization, name="attention")
        self.norm2 = LayerNorm(name="norm2")
        self.fc1 = dense(width * expansion_ratio, next(seeds), "fc1", initialization)
        self.fc2 = dense(width, next(seeds), "fc2", initialization)
        self.drop_path = StochasticDepth(drop_rate, seed=next(seeds), name="drop_path")

    def call(self, x: tf.Tensor, windows: grids.Windows | None = None, training: bool | None = None) -> tf.Tensor:
        def branches(x: tf.Tensor, *factors: tf.Tensor) -> tf.Tensor:
            kept = iter(factors)
            attended = x + _scaled(self.attention(self.norm1(x), windows, training=training), kept)
            hidden = self.fc1(self.norm2(attended))
            output = attended + _scaled(self.fc2(tf.nn.gelu(hidden, approximate=False)), kept)
            if self.observer is not None:
                self.observer(Observed(x, attended, hidden, output))
            return output

        # Drawn outside: what is computed again has to skip the same branches.
        factors = [self.drop_path.factors(x) for _ in range(2)] if training and self.drop_path.rate else []
        return (recomputation.recomputed(branches) if training and self.recomputed else branches)(x, *factors)


def _scaled(branch: tf.Tensor, factors: Iterator[tf.Tensor]) -> tf.Tensor:
    """A branch times the next factor, if there is one."""
    factor = next(factors, None)
    return branch if factor is None else branch * factor


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

    def __init__(self, blocks: Sequence[Block], splits: int, fixed_edge: int | None = None, **kwargs: Any):
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
