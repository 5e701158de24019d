"""The topology string and what follows from it: widths, heads, token grids. No TensorFlow.

`K,S,E[,L]|K,S,E[,L]|K,S,E[,L]|K,S,E[,L]|heads[,width]`: per stage the kernel size K of the stem (stage 1) or of
the patch merging before the stage (stages 2 to 4), attention splits S, FFN expansion ratio E and blocks L
(1 when left out); then the heads of the last stage and the width of the first (32 when left out).
"""

from __future__ import annotations

import dataclasses
import re

from asvit_tf.design import grids
from asvit_tf.errors import UserError

NUM_STAGES = 4
MAX_WIDTH = 1024
DEFAULT_WIDTH = 32
STRIDE = 4
REFERENCE_IMAGE_SIDE = 224

# Large is given by the authors. Small and Base are inferred: the only members of the same family whose parameter
# counts agree with the published 29.0 M and 52.6 M. Seed is the published search result.
NAMED = {
    "seed": "8,2,3|4,1,2|4,1,4|4,1,6|32",
    "small": "8,2,3,3|4,1,2,1|4,1,4,4|4,1,6,2|32,88",
    "base": "8,2,3,3|4,1,2,1|4,1,4,5|4,1,6,2|32,116",
    "large": "8,2,3,5|4,1,2,2|4,1,4,5|4,1,6,2|32,180",
}

FORM = "K,S,E[,L]|K,S,E[,L]|K,S,E[,L]|K,S,E[,L]|heads[,width]"
_BOUNDS = {
    "kernel_size": (1, 32),
    "splits": (1, 64),
    "expansion_ratio": (1, 32),
    "depth": (1, 256),
    "num_heads": (8, 1024),
    "width": (1, MAX_WIDTH),
}


def _check(name: str, value: object, where: str) -> None:
    low, high = _BOUNDS[name]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{name} of {where} is {value}; allowed are whole numbers from {low} to {high}")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One token grid: how it is tokenized, and the blocks that work on it.

    Attributes:
      kernel_size: Taps per side of the stem convolution or of the patch merging before this stage, 1 to 32.
      splits: Attention windows per side of the grid, 1 to 64.
      expansion_ratio: Hidden width of the FFN over the width of the stage, 1 to 32.
      depth: Blocks, 1 to 256.
    """

    kernel_size: int
    splits: int
    expansion_ratio: int
    depth: int = 1

    def __str__(self) -> str:
        return f"{self.kernel_size},{self.splits},{self.expansion_ratio},{self.depth}"


@dataclasses.dataclass(frozen=True)
class Topology:
    """An As-ViT architecture, apart from image size and classes.

    Attributes:
      stages: The four stages, from the finest grid to the coarsest.
      num_heads: Attention heads of the last stage, a multiple of 8; stage i has `num_heads / 2**(3 - i)`.
      width: Channels of the first stage, 1 to 1024; stage i has `min(1024, width * 2**i)`.

    Raises:
      UserError: A value is outside its range, or a stage would have more heads than channels.
    """

    stages: tuple[Stage, ...]
    num_heads: int
    width: int = DEFAULT_WIDTH

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if len(self.stages) != NUM_STAGES:
            raise UserError(f"a topology has {NUM_STAGES} stages, not {len(self.stages)}; the form is {FORM}")
        for number, stage in enumerate(self.stages, start=1):
            for name in ("kernel_size", "splits", "expansion_ratio", "depth"):
                _check(name, getattr(stage, name), f"stage {number}")
        _check("num_heads", self.num_heads, "the topology")
        _check("width", self.width, "the topology")
        if self.num_heads % 8:
            raise UserError(
                f"num_heads is {self.num_heads}; it must be a multiple of 8, because stage 1 has an eighth of it"
            )
        for number, (width, heads) in enumerate(zip(self.widths, self.heads), start=1):
            if heads > width:
                raise UserError(
                    f"stage {number} would have {heads} heads for {width} channels; a head needs at least one channel"
                )

    @classmethod
    def parse(cls, text: str) -> Topology:
        """Reads a topology string, or the name of a published size.

        Args:
          text: `K,S,E[,L]|...|heads[,width]` or one of the keys of `NAMED`.

        Returns:
          The topology; `Topology.parse(str(topology)) == topology`.

        Raises:
          UserError: The text does not have that form, or a value is out of range.
        """
        text = text.strip()
        if text in NAMED:
            text = NAMED[text]
        if not re.search(r"[|,]", text):
            raise UserError(
                f"unknown topology {text!r}; allowed are {', '.join(NAMED)}, or a string of the form {FORM}"
            )
        parts = text.split("|")
        if len(parts) != NUM_STAGES + 1:
            raise UserError(
                f"topology {text!r} has {len(parts)} parts between |, not {NUM_STAGES + 1}; the form is {FORM}"
            )
        stages = tuple(
            Stage(*_integers(part, f"stage {number}", lengths=(3, 4)))
            for number, part in enumerate(parts[:-1], start=1)
        )
        return cls(stages, *_integers(parts[-1], "the last part (heads, width)", lengths=(1, 2)))

    @classmethod
    def named(cls, name: str) -> Topology:
        """The published size `name`: "small", "base", "large" or "seed" (see `NAMED` for which are inferred)."""
        if name not in NAMED:
            raise UserError(f"unknown size {name!r}; allowed are {', '.join(NAMED)}")
        return cls.parse(NAMED[name])

    def __str__(self) -> str:
        return "|".join(map(str, self.stages)) + f"|{self.num_heads},{self.width}"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every stage."""
        return tuple(min(MAX_WIDTH, self.width * 2**i) for i in range(NUM_STAGES))

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of every stage."""
        return tuple(self.num_heads // 2 ** (NUM_STAGES - 1 - i) for i in range(NUM_STAGES))

    @property
    def head_dims(self) -> tuple[int, ...]:
        """Channels of one head in every stage; `heads * head_dim` may be less than the width."""
        return tuple(width // heads for width, heads in zip(self.widths, self.heads))

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of every stage."""
        return tuple(stage.depth for stage in self.stages)

    def fixed_window_edges(self) -> tuple[int, ...]:
        """Attention window edges, in tokens, that every stage has on a 224 x 224 image at stride 4.

        Detection keeps these edges at any image size (`window="fixed"`), because with a fixed number of splits the
        cost of attention grows with the square of the number of tokens.
        """
        reference = grids.token_grids((REFERENCE_IMAGE_SIDE, REFERENCE_IMAGE_SIDE), STRIDE)
        return tuple(grids.window_edge(rows, stage.splits) for (rows, _), stage in zip(reference, self.stages))

    def scaled(self, width: int, depths: tuple[int, ...]) -> Topology:
        """The same topology at another width and other depths."""
        stages = tuple(
            dataclasses.replace(stage, depth=depth) for stage, depth in zip(self.stages, depths, strict=True)
        )
        return Topology(stages, self.num_heads, width)


def _integers(part: str, where: str, lengths: tuple[int, int]) -> list[int]:
    """Comma-separated whole numbers of one part of a topology string."""
    words = part.split(",")
    if len(words) not in lengths:
        raise UserError(
            f"{where} is {part!r}: {len(words)} numbers, not {lengths[0]} or {lengths[1]}; the form is {FORM}"
        )
    # Not int(): it would also take "1_0", "+3" and digits of other scripts, which do not come back from str().
    bad = [word for word in words if not re.fullmatch(r"\s*[0-9]{1,6}\s*", word)]
    if bad:
        raise UserError(f"{where} holds {bad[0]!r}, which is not a whole number; the form is {FORM}")
    return [int(word) for word in words]
