"""Scorers that measure nothing, and journals without their times."""

import json

from search.scoring.score import Score


def fake_score(topology):
    """A score that depends on every number of the topology; no network is built."""
    numbers = [int(part) for part in str(topology).replace("|", ",").split(",")]
    mixed = sum((i + 1) * number for i, number in enumerate(numbers))
    return Score({"length_distortion": mixed % 17 + 0.5, "ntk_condition_number": mixed % 23 + 1.5}, {}, 0.0)


def fake_scorer(topologies):
    return map(fake_score, topologies)


class Counting:
    """Counts topologies; raises Killed after a number of them."""

    class Killed(Exception):
        pass

    def __init__(self, allowed=10**9):
        self.allowed, self.calls = allowed, 0

    def __call__(self, topologies):
        for topology in topologies:
            if self.calls == self.allowed:
                raise self.Killed
            self.calls += 1
            yield fake_score(topology)


def without_seconds(path):
    rows = map(json.loads, path.read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in ("seconds", "split")} for row in rows]
