"""Search by what was scored itself: regularised evolution, and chance, which it has to beat.

Evolution keeps the last `POPULATION` topologies that could be scored. Each step draws `TOURNAMENT` of them, takes the
best by the sum of ranks over the measures, and changes one of its choices; the oldest leaves, however good it is.
Source: "Regularized Evolution for Image Classifier Architecture Search" (AAAI 2019), whose numbers, 100 and 25, were
for 20,000 topologies; ours are for hundreds. Both strategies find the best of all that was scored, by the sum of ranks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from search.strategy.ranking import choose
from search.strategy.settings import SearchSettings
from search.strategy.space import Space
from search.strategy.strategy import Indices

POPULATION, TOURNAMENT = 20, 5

Scored = tuple[Indices, dict[str, float]]


class Chance:
    """Every topology of the space is as likely, whatever was scored; see `strategy.Strategy`.

    Args:
      settings: Of the search.
      space: That is searched.
    """

    def __init__(self, settings: SearchSettings, space: Space):
        self._measures = settings.reward_types
        self._options = [len(options) for options in space.choices.values()]
        self._scored: dict[Indices, dict[str, float]] = {}

    def propose(self, generator: np.random.Generator) -> Indices:
        """Any topology."""
        return tuple(int(generator.integers(options)) for options in self._options)

    def learn(self, proposed: Sequence[Indices], rows: Sequence[dict[str, Any]]) -> None:
        """Remembers what could be scored."""
        for indices, row in zip(proposed, rows, strict=True):
            measures = {name: row["scores"].get(name) for name in self._measures}
            if None not in measures.values():
                self._remember((indices, measures))

    def _remember(self, scored: Scored) -> None:
        indices, measures = scored
        self._scored[indices] = measures

    def best(self) -> Indices | None:
        """The best of all that was scored."""
        return _best(list(self._scored.items()))

    def found(self, allowed: Callable[[Indices], bool]) -> Indices | None:
        """The best; what was proposed was allowed."""
        return _best([(indices, measures) for indices, measures in self._scored.items() if allowed(indices)])


class Evolution(Chance):
    """Regularised evolution; arguments as of `Chance`."""

    def __init__(self, settings: SearchSettings, space: Space):
        super().__init__(settings, space)
        self._population: deque[Scored] = deque(maxlen=POPULATION)
        self._free = [number for number, options in enumerate(self._options) if options > 1]

    def propose(self, generator: np.random.Generator) -> Indices:
        """A change of the best of a few; until there are enough, any topology."""
        if len(self._population) < POPULATION or not self._free:
            return super().propose(generator)
        drawn = generator.choice(POPULATION, TOURNAMENT, replace=False)
        parent = _best([self._population[number] for number in drawn])
        assert parent is not None
        number = int(generator.choice(self._free))
        other = int(generator.integers(self._options[number] - 1))
        return (*parent[:number], other + (other >= parent[number]), *parent[number + 1 :])

    def _remember(self, scored: Scored) -> None:
        super()._remember(scored)
        self._population.append(scored)


def _best(scored: Sequence[Scored]) -> Indices | None:
    return scored[choose([measures for _, measures in scored])][0] if scored else None
