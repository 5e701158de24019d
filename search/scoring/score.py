"""The score of a topology as data: means over repeats, their errors, what was undefined, seconds. No TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from asvit_tf.design.topology import Topology
from asvit_tf.journals import Journal


@dataclasses.dataclass(frozen=True)
class Score:
    """The measures of one topology.

    Attributes:
      measures: Mean of each measure over the repeats; None if it was undefined in one of them, and then the topology
        must not be ranked.
      failures: Repeats in which a measure was undefined, by measure.
      seconds: It took.
      errors: Standard error of each mean; None for one repeat.
      reasons: Why a measure was undefined, by measure.
      split: Seconds by cost: `trace` (building, and what first passes took beyond warm ones), `measures`, `ntk` and
        `published` (warm, one repeat), each published measure by name with the passes that it shares (likewise), and
        `forward` if it was profiled.
    """

    measures: dict[str, float | None]
    failures: dict[str, int]
    seconds: float
    errors: dict[str, float | None] = dataclasses.field(default_factory=dict)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    split: dict[str, float] = dataclasses.field(default_factory=dict)


def summarize(
    values: dict[str, list[float]],
    seconds: float,
    reasons: dict[str, str] | None = None,
    split: dict[str, float] | None = None,
) -> Score:
    """The score of several repeats; a measure that is not finite in one of them has no mean, and is counted."""
    measures: dict[str, float | None] = {}
    errors: dict[str, float | None] = {}
    failures = {}
    for name, repeats in values.items():
        undefined = len(repeats) - sum(map(math.isfinite, repeats))
        measures[name] = None if undefined else statistics.fmean(repeats)
        spread = not undefined and len(repeats) > 1
        errors[name] = statistics.stdev(repeats) / len(repeats) ** 0.5 if spread else None
        if undefined:
            failures[name] = undefined
    return Score(measures, failures, seconds, errors, reasons or {}, split or {})


class Clock:
    """Seconds of every call, by name."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}
        self._parts: dict[str, list[float]] = {}
        self._processor = time.process_time()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds.setdefault(name, []).append(time.perf_counter() - start)

    def add_part(self, name: str, seconds: float) -> None:
        """Seconds of a part of a call; parts may overlap."""
        self._parts.setdefault(name, []).append(seconds)

    def totals(self) -> dict[str, float]:
        """Seconds of all calls and parts by name; as `processor` the processor's, of all threads, since this was made.

        Where other work shares the cores, the latter says better what a thing costs.
        """
        totals = {name: sum(seconds) for name, seconds in {**self._seconds, **self._parts}.items()}
        return {**totals, "processor": time.process_time() - self._processor}

    def split(self) -> dict[str, float]:
        """Warm seconds of a call, or part, by name, and, as `trace`, all that first calls took beyond that."""
        split = {"trace": 0.0}
        for name, (first, *warm) in self._parts.items():
            split[name] = statistics.median(warm) if warm else first
        for name, (first, *warm) in self._seconds.items():
            if name != "build":
                split[name] = statistics.median(warm) if warm else first
            split["trace"] += max(first - split.get(name, 0.0), 0.0)
        return split


# Scores topologies, in their order; lazily, so that each can be kept as soon as it is there.
Scorer = Callable[[Sequence[Topology]], Iterator[Score]]


class Remembered:
    """A scorer that measures no topology twice, also not after being killed and started again.

    Args:
      scorer: Does the measuring.
      path: Journal of the scores.
    """

    def __init__(self, scorer: Scorer, path: Path):
        self._scorer = scorer
        self._journal = Journal(path)
        self._scores = {row.pop("topology"): Score(**row) for row in map(dict, self._journal.rows)}

    def __call__(self, topologies: Sequence[Topology]) -> Iterator[Score]:
        keys = [str(topology) for topology in topologies]
        new = {key: topology for key, topology in zip(keys, topologies) if key not in self._scores}
        fresh = zip(new, self._scorer(list(new.values()))) if new else iter(())
        for key in keys:
            while key not in self._scores:
                measured, score = next(fresh)
                self._journal.append({"topology": measured, **dataclasses.asdict(score)})
                self._scores[measured] = score
            yield self._scores[key]
