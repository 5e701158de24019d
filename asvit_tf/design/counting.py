"""Parameters and multiply-accumulates of a topology, by arithmetic alone. No TensorFlow.

Counted are every matrix product and convolution: stem, patch merging, projections, attention scores, weighted sums,
FFN and head. Where attention windows are padded, the padded scores that are really computed are counted.
"""

from __future__ import annotations

import dataclasses

from asvit_tf.choices import WINDOWS
from asvit_tf.design import grids
from asvit_tf.design.topology import REFERENCE_IMAGE_SIDE, STRIDE, Topology
from asvit_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class StageCount:
    """One stage with the stem or patch merging before it.

    Attributes:
      token_grid: Rows and columns of tokens.
      width: Channels.
      depth: Blocks.
      num_heads: Attention heads.
      head_dim: Channels of a head.
      window: Rows and columns of tokens in one attention window.
      parameters: Trainable scalars.
      macs: Multiply-accumulates of one image.
    """

    token_grid: tuple[int, int]
    width: int
    depth: int
    num_heads: int
    head_dim: int
    window: tuple[int, int]
    parameters: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Count:
    """Totals of a classifier and its stages; the totals include position embedding, final norm and head."""

    parameters: int
    macs: int
    stages: tuple[StageCount, ...]


def position_grid(image_size: tuple[int, int], window: str = "split", base_stride: int = STRIDE) -> tuple[int, int]:
    """Rows and columns of the learned position embedding; it is resized to whatever grid the stem produces.

    They are those of the image's tokens at the base stride. With fixed windows, they and the windows stay what they are
    at 224 x 224; only so does the published detector at 1024 x 1024 have its 138.8 M parameters.
    """
    if window == "fixed":
        return grids.token_grids((REFERENCE_IMAGE_SIDE, REFERENCE_IMAGE_SIDE), STRIDE)[0]
    return grids.token_grids(image_size, base_stride)[0]


def check_sizes(image_size: tuple[int, int], num_classes: int) -> None:
    """Refuses sizes below 1.

    Raises:
      UserError: One is.
    """
    if min(image_size) < 1:
        raise UserError(f"image size is {image_size[0]} x {image_size[1]}; both sides must be at least 1")
    if num_classes < 1:
        raise UserError(f"num_classes is {num_classes}; it must be at least 1")


def count(
    topology: Topology,
    image_size: tuple[int, int] = (224, 224),
    num_classes: int = 1000,
    *,
    stride: int | None = None,
    base_stride: int = STRIDE,
    position_embedding: bool = True,
    representation: bool = True,
    window: str = "split",
) -> Count:
    """Counts a classifier.

    Args:
      topology: What to count.
      image_size: Height and width in pixels, >= 1.
      num_classes: Outputs of the head, >= 1.
      stride: Pixels between tokens; None for the base stride. Parameters do not depend on it.
      base_stride: That of the finest tokenization (`grids.base_stride`).
      position_embedding: Count the learned position embedding, one vector per token of `position_grid`.
      representation: Count the head's Linear(C, C) before the classes.
      window: "split": the number of attention windows is fixed; "fixed": their edge is (see `Topology`).

    Returns:
      Trainable scalars, and multiply-accumulates of one forward pass of one image.

    Raises:
      UserError: A size below 1, or an unknown window.
    """
    check_sizes(image_size, num_classes)
    if window not in WINDOWS:
        raise UserError(f"unknown window {window!r}; allowed are {', '.join(WINDOWS)}")

    fixed_edges = topology.fixed_window_edges() if window == "fixed" else (None,) * len(topology.stages)
    stages = []
    previous_width = 3
    for index, (stage, grid) in enumerate(zip(topology.stages, grids.token_grids(image_size, stride or base_stride))):
        width, heads, head_dim = topology.widths[index], topology.heads[index], topology.head_dims[index]
        windows = grids.Windows.cut(grid, stage.splits, fixed_edges[index])
        tokens = grid[0] * grid[1]
        inner = heads * head_dim
        hidden = width * stage.expansion_ratio
        patch = stage.kernel_size**2 * previous_width
        # The stem's convolution has a bias and its norm follows; merging has no bias and its norm comes before.
        tokenizer_parameters = patch * width + (width + 2 * width if index == 0 else 2 * patch)
        block_parameters = (
            4 * width  # two norms
            + (width + 1) * 3 * inner
            + (inner + 1) * width
            + (width + 1) * hidden
            + (hidden + 1) * width
        )
        block_macs = tokens * width * (4 * inner + 2 * hidden) + 2 * windows.number * windows.tokens**2 * inner
        stages.append(
            StageCount(
                token_grid=grid,
                width=width,
                depth=stage.depth,
                num_heads=heads,
                head_dim=head_dim,
                window=windows.edges,
                parameters=tokenizer_parameters + stage.depth * block_parameters,
                macs=tokens * patch * width + stage.depth * block_macs,
            )
        )
        previous_width = width

    rows, columns = position_grid(image_size, window, base_stride)
    last = topology.widths[-1]
    parameters = sum(stage.parameters for stage in stages) + 2 * last + (last + 1) * num_classes
    macs = sum(stage.macs for stage in stages) + last * num_classes
    if position_embedding:
        parameters += rows * columns * topology.width
    if representation:
        parameters += (last + 1) * last
        macs += last * last
    return Count(parameters, macs, tuple(stages))
