"""The search space: which topologies REINFORCE may sample.

Source: the released search code. K1 in 4..8, K2 to K4 in 2..4; S1 in {2, 4, 8}, S2 in {1, 2, 4}, S3 in {1, 2},
S4 = 1; every E in 2..6; heads in {16, 32, 64}; one block a stage, width 32: 4,556,250 topologies.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from asvit_tf.design import grids
from asvit_tf.design.topology import DEFAULT_WIDTH, NUM_STAGES, STRIDE, Stage, Topology
from asvit_tf.errors import UserError

LEAST_WINDOW = 9  # Tokens of an attention window that is not the whole grid: with fewer, attention hardly mixes.

_EXPANSION_RATIOS = tuple(range(2, 7))

CHOICES: dict[str, tuple[int, ...]] = {
    "kernel_size_1": tuple(range(4, 9)),
    "kernel_size_2": tuple(range(2, 5)),
    "kernel_size_3": tuple(range(2, 5)),
    "kernel_size_4": tuple(range(2, 5)),
    "splits_1": (2, 4, 8),
    "splits_2": (1, 2, 4),
    "splits_3": (1, 2),
    "splits_4": (1,),
    "expansion_ratio_1": _EXPANSION_RATIOS,
    "expansion_ratio_2": _EXPANSION_RATIOS,
    "expansion_ratio_3": _EXPANSION_RATIOS,
    "expansion_ratio_4": _EXPANSION_RATIOS,
    "num_heads": (16, 32, 64),
}


@dataclasses.dataclass(frozen=True)
class Space:
    """Topologies by their choices; one block a stage.

    Attributes:
      choices: Options of every choice, by name.
      width: Channels of the first stage.
    """

    choices: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=lambda: CHOICES)
    width: int = DEFAULT_WIDTH

    @property
    def size(self) -> int:
        """Number of topologies."""
        return math.prod(map(len, self.choices.values()))

    @property
    def free(self) -> tuple[str, ...]:
        """The choices that have more than one option."""
        return tuple(name for name, options in self.choices.items() if len(options) > 1)

    def topology_at(self, indices: Sequence[int]) -> Topology:
        """The topology that takes option `indices[i]` of the i-th choice."""
        chosen = {name: options[index] for (name, options), index in zip(self.choices.items(), indices, strict=True)}
        stages = tuple(
            Stage(chosen[f"kernel_size_{i}"], chosen[f"splits_{i}"], chosen[f"expansion_ratio_{i}"])
            for i in range(1, NUM_STAGES + 1)
        )
        return Topology(stages, chosen["num_heads"], self.width)

    def indices_of(self, topology: Topology) -> tuple[int, ...]:
        """Inverse of `topology_at`, whatever the width and the depths.

        Raises:
          UserError: A value is outside the space.
        """
        values = {"num_heads": topology.num_heads}
        for number, stage in enumerate(topology.stages, start=1):
            values[f"kernel_size_{number}"] = stage.kernel_size
            values[f"splits_{number}"] = stage.splits
            values[f"expansion_ratio_{number}"] = stage.expansion_ratio
        for name, options in self.choices.items():
            if values[name] not in options:
                raise UserError(f"{name} of {topology} is {values[name]}; the search space allows {options}")
        return tuple(options.index(values[name]) for name, options in self.choices.items())


PUBLISHED = Space()


def single_token_share(space: Space, image_size: tuple[int, int], base_stride: int = STRIDE) -> float:
    """Share of a space's topologies that have attention windows of a single token in a stage whose grid has more.

    Args:
      space: The space.
      image_size: Rows and columns, in pixels.
      base_stride: Pixels between tokens.
    """
    sound = 1.0
    for number, (rows, columns) in enumerate(grids.token_grids(image_size, base_stride), start=1):
        options = space.choices[f"splits_{number}"]
        several = [
            splits for splits in options if rows * columns == 1 or grids.Windows.cut((rows, columns), splits).tokens > 1
        ]
        sound *= len(several) / len(options)
    return 1 - sound


def fitting(
    image_size: tuple[int, int], base_stride: int = STRIDE, width: int = DEFAULT_WIDTH, least_head_dim: int = 1
) -> Space:
    """The part of the published space that fits an image size; at 224 x 224 all of it.

    Splits are left out whose windows have fewer than `LEAST_WINDOW` tokens; where that leaves none, the window is the
    whole grid. Heads are left out that would be narrower than `least_head_dim`.

    Args:
      image_size: Rows and columns, in pixels.
      base_stride: Pixels between tokens.
      width: Channels of the first stage.
      least_head_dim: Least channels of a head, in every stage.

    Raises:
      UserError: Not even the fewest heads are wide enough.
    """
    choices = dict(CHOICES)
    for number, grid in enumerate(grids.token_grids(image_size, base_stride), start=1):
        name = f"splits_{number}"
        fit = [splits for splits in CHOICES[name] if grids.Windows.cut(grid, splits).tokens >= LEAST_WINDOW]
        choices[name] = tuple(fit) or (1,)
    stage_1 = 2 ** (NUM_STAGES - 1)  # It has this share of the heads.
    choices["num_heads"] = tuple(
        heads for heads in CHOICES["num_heads"] if width // (heads // stage_1) >= least_head_dim
    )
    if not choices["num_heads"]:
        raise UserError(
            f"width is {width}; heads of {least_head_dim} channels need at least "
            f"{least_head_dim * min(CHOICES['num_heads']) // stage_1}"
        )
    return Space(choices, width)
