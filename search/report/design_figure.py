"""A design as a picture: its stages from left to right, with tokens, attention windows, heads, FFN, depth and size."""

from __future__ import annotations

import dataclasses
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from asvit_tf.design import counting, grids
from asvit_tf.design.topology import Topology
from search.report.figures import WIDTH

_TINTS = ("#d6e8ee", "#f7e1d7", "#dcebdf", "#ece3f0")  # One for each stage,
_INKS = ("#1f6f8b", "#d1603d", "#3b7d4f", "#6c4f86")  # and a darker one of the same colour.
_GREY, _QUIET, _TEXT = "#9a9a9a", "#6a6a6a", "#222222"
_TIMES = "\u00d7"
_HEIGHT = 3.8
_SIDE, _LEFT, _TOP = 0.95, 0.63, 3.07  # Of a token grid; left edge of the first; upper edge of all.
_STEP = 1.46  # From one grid to the next.
_CARD = 0.05  # From a block to the one behind it.
_MOST_LINES = 32  # Tokens a side above which they are not drawn one by one.
_MOST_CARDS = 5  # Blocks that are drawn one behind the other.


@dataclasses.dataclass(frozen=True)
class Design:
    """What a picture of a classifier depends on.

    Attributes:
      topology: The topology.
      image_size: Rows and columns, in pixels.
      num_classes: Outputs of the head.
      stride: Pixels between tokens of the network as it answers.
      base_stride, position_embedding, representation, window: As of `counting.count`.
    """

    topology: Topology
    image_size: tuple[int, int]
    num_classes: int
    stride: int
    base_stride: int
    position_embedding: bool = True
    representation: bool = True
    window: str = "split"

    @property
    def count(self) -> counting.Count:
        """Its parameters and multiply-accumulates."""
        return counting.count(
            self.topology,
            self.image_size,
            self.num_classes,
            stride=self.stride,
            base_stride=self.base_stride,
            position_embedding=self.position_embedding,
            representation=self.representation,
            window=self.window,
        )


def draw(design: Design) -> Figure:
    """The picture. All lengths in it are inches.

    Every stage is a square, cut into its tokens by thin lines and into its attention windows by thick ones: the same
    image in all of them, so tokens grow from left to right. Squares behind it are further blocks.
    """
    figure = Figure(figsize=(WIDTH, _HEIGHT))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_xlim(0, WIDTH)
    axis.set_ylim(0, _HEIGHT)
    axis.axis("off")
    count, topology = design.count, design.topology
    _draw_image(axis, design)
    for index, (stage, counted) in enumerate(zip(topology.stages, count.stages)):
        left = _LEFT + index * _STEP
        behind = min(stage.depth, _MOST_CARDS) - 1
        _draw_tokenizer(axis, left, index, f"{stage.kernel_size}{_TIMES}{stage.kernel_size}", design.stride)
        for card in range(behind, 0, -1):
            _square(axis, left + _CARD * card, _TOP + _CARD * card, facecolor="white", edgecolor=_INKS[index], lw=0.6)
        _draw_grid(axis, left, index, grids.Windows(counted.token_grid, counted.window))
        _describe(axis, left, index, topology, counted)
        if index < len(topology.stages) - 1:
            _arrow(axis, left + _SIDE + _CARD * behind + 0.03, left + _STEP - 0.03, _INKS[index + 1])
    _draw_sizes(axis, count)
    return figure


def _text(axis: Axes, x: float, y: float, text: str, size: float = 7.5, **options: Any) -> None:
    axis.text(x, y, text, **{"fontsize": size, "color": _TEXT, "ha": "center", "va": "center", **options})


def _arrow(axis: Axes, start: float, end: float, colour: str) -> None:
    y = _TOP - _SIDE / 2
    axis.add_patch(
        FancyArrowPatch((start, y), (end, y), arrowstyle="-|>", mutation_scale=8, color=colour, lw=1.1, shrinkA=0)
    )


def _square(axis: Axes, left: float, top: float, **options: Any) -> None:
    """A square as large as a token grid."""
    axis.add_patch(Rectangle((left, top - _SIDE), _SIDE, _SIDE, **options))


def _draw_image(axis: Axes, design: Design) -> None:
    rows, columns = design.image_size
    side, middle = 0.3, _TOP - _SIDE / 2
    axis.add_patch(Rectangle((0.1, middle - side / 2), side, side, facecolor="#eeeeee", edgecolor=_GREY, lw=0.8))
    _text(axis, 0.1 + side / 2, middle + 0.25, "image", 7, color=_QUIET)
    _text(axis, 0.1 + side / 2, middle - 0.25, f"{rows}{_TIMES}{columns}", 7, color=_QUIET)
    _arrow(axis, 0.1 + side + 0.03, _LEFT - 0.03, _INKS[0])


def _draw_tokenizer(axis: Axes, left: float, index: int, kernel: str, stem_stride: int) -> None:
    """The title of a stage, and the convolution that makes its tokens."""
    center = left + _SIDE / 2
    name = f"stem {kernel}, stride {stem_stride}" if index == 0 else f"merging {kernel}, stride 2"
    _text(axis, center, _HEIGHT - 0.16, f"stage {index + 1}", 9, weight="bold", color=_INKS[index])
    _text(axis, center, _HEIGHT - 0.35, name)


def _draw_grid(axis: Axes, left: float, index: int, windows: grids.Windows) -> None:
    """Tokens, cut into windows; a window that is padded beyond the grid ends with the grid."""
    (rows, columns), (high, wide) = windows.grid, windows.edges
    height, width = _SIDE / rows, _SIDE / columns
    for row in range(windows.counts[0]):
        for column in range(windows.counts[1]):
            tokens_down, tokens_across = min(high, rows - row * high), min(wide, columns - column * wide)
            axis.add_patch(
                Rectangle(
                    (left + column * wide * width, _TOP - (row * high + tokens_down) * height),
                    tokens_across * width,
                    tokens_down * height,
                    facecolor=_TINTS[index] if (row + column) % 2 == 0 else "white",
                    edgecolor="none",
                    gid=f"window {index + 1}",
                )
            )
    if max(rows, columns) <= _MOST_LINES:
        for column in range(1, columns):
            axis.plot([left + column * width] * 2, [_TOP - _SIDE, _TOP], color=_INKS[index], lw=0.25, alpha=0.7)
        for row in range(1, rows):
            axis.plot([left, left + _SIDE], [_TOP - row * height] * 2, color=_INKS[index], lw=0.25, alpha=0.7)
    for column in range(1, windows.counts[1]):
        axis.plot([left + column * wide * width] * 2, [_TOP - _SIDE, _TOP], color=_INKS[index], lw=1.4)
    for row in range(1, windows.counts[0]):
        axis.plot([left, left + _SIDE], [_TOP - row * high * height] * 2, color=_INKS[index], lw=1.4)
    _square(axis, left, _TOP, fill=False, edgecolor=_INKS[index], lw=1.4)


def _describe(axis: Axes, left: float, index: int, topology: Topology, counted: counting.StageCount) -> None:
    """The numbers of a stage, below its grid: of its tokens, of a block, of all of it."""
    hidden = counted.width * topology.stages[index].expansion_ratio
    windows = grids.Windows(counted.token_grid, counted.window)
    grid, edges, across = (_TIMES.join(map(str, pair)) for pair in (windows.grid, windows.edges, windows.counts))
    lines = [
        ("tokens", grid),
        ("windows", "the whole grid" if windows.number == 1 else f"{across} of {edges}"),
        ("heads", f"{counted.num_heads} {_TIMES} {counted.head_dim} channels"),
        ("FFN", f"{counted.width} \u2192 {hidden} \u2192 {counted.width}"),
        ("blocks", str(counted.depth)),
        ("params", f"{counted.parameters:,}"),
    ]
    y = _TOP - _SIDE - 0.18
    for name, value in lines:
        _text(axis, left - 0.1, y, name, 6.5, ha="left", color=_QUIET)
        _text(axis, left + 0.35, y, value, 7.2, ha="left", weight="bold" if name == "blocks" else "normal")
        y -= 0.185


def _draw_sizes(axis: Axes, count: counting.Count) -> None:
    """A bar of all parameters, cut by stage; what is no stage's comes last."""
    rest = count.parameters - sum(stage.parameters for stage in count.stages)
    sizes = [*(stage.parameters for stage in count.stages), rest]
    left, width, y, height = 0.12, WIDTH - 0.24, 0.3, 0.2
    title = f"{count.parameters:,} parameters, {count.macs / 1e6:,.1f} M multiply-accumulates an image"
    _text(axis, left, y + 0.35, title, 8, ha="left", weight="bold")
    for parameters, colour in zip(sizes, (*_INKS, _GREY)):
        share = parameters / count.parameters
        axis.add_patch(
            Rectangle((left, y), share * width, height, facecolor=colour, edgecolor="white", lw=0.8, gid="size")
        )
        if share > 0.05:
            _text(axis, left + share * width / 2, y + height / 2, f"{share:.0%}", 7, color="white")
        left += share * width
    _text(axis, left, y - 0.14, f"grey: head, last norm, position embedding, {rest:,}", 6.5, ha="right", color=_QUIET)
