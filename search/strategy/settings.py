"""What a search and a growth depend on besides scores and limits. No TensorFlow."""

from __future__ import annotations

import dataclasses

from asvit_tf.choices import SEARCH_STRATEGIES, SEARCHED
from asvit_tf.design.grids import ceil_div
from asvit_tf.design.topology import NUM_STAGES, Topology
from asvit_tf.errors import UserError

LEAST_HEAD_DIM = 8  # Channels of a head in a network that is trained; narrower ones tell hardly anything apart.


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of a search.

    Attributes:
      total_steps: Updates of the policy, >= 1; of the others, how often topologies are proposed.
      learning_rate: Adam's, > 0.
      ema_momentum: Momentum of the moving-average baseline, in [0, 1).
      buffer_size: Recent values whose range scales a measure's reward, >= 2.
      reward_types: Measures in the reward.
      seed: Seed of the policy and its samples.
      samples_per_step: Topologies that one update of the policy sees, >= 1; they are scored side by side.
      strategy: One of `choices.SEARCH_STRATEGIES`. Learning rate, momentum and buffer are REINFORCE's alone.

    Raises:
      UserError: A value is out of range.
    """

    total_steps: int = 500
    learning_rate: float = 0.08
    ema_momentum: float = 0.9
    buffer_size: int = 20
    reward_types: tuple[str, ...] = SEARCHED
    seed: int = 8
    samples_per_step: int = 1
    strategy: str = SEARCH_STRATEGIES[0]

    def __post_init__(self) -> None:
        if min(self.total_steps, self.samples_per_step) < 1:
            raise UserError("total_steps and samples_per_step must be at least 1")
        if self.strategy not in SEARCH_STRATEGIES:
            raise UserError(f"unknown strategy {self.strategy!r}; allowed are {', '.join(SEARCH_STRATEGIES)}")
        if self.buffer_size < 2:
            raise UserError(f"te_buffer_size is {self.buffer_size}; a change needs at least 2 values")
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 <= self.ema_momentum < 1:
            raise UserError(f"EMA_momentum is {self.ema_momentum}; allowed are numbers from 0 to below 1")


@dataclasses.dataclass(frozen=True)
class GrowthSettings:
    """Settings of the growth.

    Attributes:
      width: Real width of the first stage to start from; wider where heads would have fewer than `LEAST_HEAD_DIM`
        channels.
      proxy_divisor: Candidates are scored at their width over this; >= 1, and it divides `width`.
      stop_parameters: Growth ends when a member has as many.

    Raises:
      UserError: The divisor does not divide the width.
    """

    width: int = 32
    proxy_divisor: int = 4
    stop_parameters: int = 80_000_000

    def __post_init__(self) -> None:
        if self.proxy_divisor < 1 or self.width % self.proxy_divisor:
            raise UserError(f"width {self.width} is not a multiple of the proxy divisor {self.proxy_divisor}")

    def start(self, seed_topology: Topology) -> Topology:
        """The first member: the seed topology's choices, one block a stage."""
        least = ceil_div(LEAST_HEAD_DIM * seed_topology.heads[0], self.proxy_divisor) * self.proxy_divisor
        first = seed_topology.scaled(max(self.width, least), (1,) * NUM_STAGES)
        self.proxy(first)  # Refuses heads without a channel now, not after hours.
        return first

    def proxy(self, topology: Topology) -> Topology:
        """The narrow stand-in that is scored."""
        return topology.scaled(topology.width // self.proxy_divisor, topology.depths)
