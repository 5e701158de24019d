"""Integer arithmetic of token grids: how far a window slides, what it pads, where attention is cut.

Shared by the layers, which compute with these numbers, and by the counting, which adds them up, so
that both always speak of the same network.
"""

from __future__ import annotations

import dataclasses


def ceil_div(numerator: int, denominator: int) -> int:
    """Integer division, rounded up."""
    return -(-numerator // denominator)


def base_stride(image_size: tuple[int, int]) -> int:
    """Pixels between tokens at the finest tokenization of a network for such images.

    4, as published, from 96 pixels along the shorter side; 2 from 32; 1 below. So down to 16 pixels there are at least
    16 tokens a side: with fewer, the stages behind the first would have hardly any to mix.
    """
    shorter = min(image_size)
    return next((stride for least, stride in ((96, 4), (32, 2)) if shorter >= least), 1)


def same_padding(size: int, kernel_size: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Zeros before and after one axis so that `ceil(size / stride)` windows fit.

    This is TensorFlow's SAME rule (the odd zero goes last), which for the stem and for patch merging is
    also what the released PyTorch code pads.

    Args:
      size: Length of the axis, in pixels or tokens, >= 1.
      kernel_size: Taps of the window, >= 1.
      stride: Step between windows, >= 1.
      dilation: Step between the taps of one window, >= 1.

    Returns:
      `(before, after)`, both >= 0.
    """
    span = (kernel_size - 1) * dilation + 1
    total = max((ceil_div(size, stride) - 1) * stride + span - size, 0)
    return total // 2, total - total // 2


def token_grids(image_size: tuple[int, int], stride: int, stages: int = 4) -> tuple[tuple[int, int], ...]:
    """Rows and columns of tokens in every stage: the stem divides by `stride`, each merging by 2, rounding up."""
    rows, columns = (ceil_div(side, stride) for side in image_size)
    grids = [(rows, columns)]
    for _ in range(stages - 1):
        rows, columns = ceil_div(rows, 2), ceil_div(columns, 2)
        grids.append((rows, columns))
    return tuple(grids)


def window_edge(side: int, splits: int, fixed_edge: int | None = None) -> int:
    """Tokens along one side of an attention window.

    Where `splits` divides `side` this is exactly `side / splits`. Where it does not, the windows are rounded up
    and the last one is padded (and masked); a grid with fewer tokens than splits gets windows of one token.

    Args:
      side: Tokens along one side of the grid, >= 1.
      splits: Windows along that side, >= 1.
      fixed_edge: Use this edge whatever the grid, cut down to the grid when that is smaller.

    Returns:
      The edge, 1 <= edge <= side.
    """
    if fixed_edge is not None:
        return min(fixed_edge, side)
    return ceil_div(side, splits)


@dataclasses.dataclass(frozen=True)
class Windows:
    """A token grid cut into equal attention windows; where they do not divide it, it is padded at its far ends.

    Attributes:
      grid: Rows and columns of tokens.
      edges: Rows and columns of tokens in a window.
    """

    grid: tuple[int, int]
    edges: tuple[int, int]

    @classmethod
    def cut(cls, grid: tuple[int, int], splits: int, fixed_edge: int | None = None) -> Windows:
        """Windows of a grid; `splits` and `fixed_edge` as in `window_edge`."""
        rows, columns = (window_edge(side, splits, fixed_edge) for side in grid)
        return cls(grid, (rows, columns))

    @property
    def counts(self) -> tuple[int, int]:
        """Windows along the rows and along the columns."""
        rows, columns = (ceil_div(side, edge) for side, edge in zip(self.grid, self.edges))
        return rows, columns

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Tokens added before and after the rows and the columns."""
        rows, columns = (count * edge - side for count, edge, side in zip(self.counts, self.edges, self.grid))
        return (0, rows), (0, columns)

    @property
    def padded(self) -> bool:
        """Whether the grid is padded at all."""
        return self.padding != ((0, 0), (0, 0))

    @property
    def number(self) -> int:
        """Windows in all."""
        return self.counts[0] * self.counts[1]

    @property
    def tokens(self) -> int:
        """Tokens in a window, those of the padding included."""
        return self.edges[0] * self.edges[1]
