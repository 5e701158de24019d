"""What a search strategy is: it proposes topologies and learns from their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Indices = tuple[int, ...]  # The option of every choice of a space.
DRAWS = 1000  # Until one is within the limits.


class Strategy(Protocol):
    """A strategy. What it does depends on its settings, on the generators it is given and on the scores alone."""

    def propose(self, generator: np.random.Generator) -> Indices:
        """The next topology; asked again, with the same generator, if it is beyond the limits."""

    def learn(self, proposed: Sequence[Indices], rows: Sequence[dict[str, Any]]) -> None:
        """Takes in the rows of a trace, with `scores`, of what it proposed; what it thinks of them it writes there."""

    def best(self) -> Indices | None:
        """The best so far, within limits or not; None before anything could be scored."""

    def found(self, allowed: Callable[[Indices], bool]) -> Indices | None:
        """The best that is allowed; None where it knows none."""
