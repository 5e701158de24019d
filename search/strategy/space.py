"""The search space: which topologies REINFORCE may sample.

Source: the released search code. K1 in 4..8, K2 to K4 in 2..4; S1 in {2, 4, 8}, S2 in {1, 2, 4}, S3 in {1, 2},
S4 = 1; every E in 2..6; heads in {16, 32, 64}; one block a stage, width 32: 4,556,250 topologies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from asvit_tf.design.topology import DEFAULT_WIDTH, Stage, Topology
from asvit_tf.errors import UserError

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

SIZE = math.prod(map(len, CHOICES.values()))


def topology_at(indices: Sequence[int]) -> Topology:
    """The topology that takes option `indices[i]` of the i-th choice."""
    chosen = {name: options[index] for (name, options), index in zip(CHOICES.items(), indices, strict=True)}
    stages = tuple(
        Stage(chosen[f"kernel_size_{i}"], chosen[f"splits_{i}"], chosen[f"expansion_ratio_{i}"]) for i in range(1, 5)
    )
    return Topology(stages, chosen["num_heads"], DEFAULT_WIDTH)


def indices_of(topology: Topology) -> tuple[int, ...]:
    """Inverse of `topology_at`, whatever the width and the depths.

    Raises:
      UserError: A value is outside the space.
    """
    values = {"num_heads": topology.num_heads}
    for number, stage in enumerate(topology.stages, start=1):
        values[f"kernel_size_{number}"] = stage.kernel_size
        values[f"splits_{number}"] = stage.splits
        values[f"expansion_ratio_{number}"] = stage.expansion_ratio
    for name, options in CHOICES.items():
        if values[name] not in options:
            raise UserError(f"{name} of {topology} is {values[name]}; the search space allows {options}")
    return tuple(options.index(values[name]) for name, options in CHOICES.items())
