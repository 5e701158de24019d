"""Growth: candidates, ranks, proxies, kills, failures."""

import dataclasses
import itertools

import pytest
from search_helpers import Counting, fake_scorer, without_seconds

from asvit_tf import Topology, UserError
from search.scoring.score import Remembered, Score
from search.strategy import growth as grow
from search.strategy import ranking
from search.strategy.limits import Limits
from search.strategy.settings import GrowthSettings

SEED = Topology.parse("8,2,3|4,1,2|4,1,4|4,1,6|16")  # Heads of 8 channels from a width of 16.
SMALL_GROWTH = GrowthSettings(width=16, proxy_divisor=2, stop_parameters=1_200_000)
SMALL = Limits(max_parameters=2_000_000, image_size=(32, 32), num_classes=10)


def test_dense_ranks_share_ranks():
    assert ranking.dense_ranks([3.0, 1.0, 3.0, 2.0], direction=1) == [0, 2, 0, 1]
    assert ranking.dense_ranks([3.0, 1.0, 3.0, 2.0], direction=-1) == [2, 0, 2, 1]


@pytest.mark.parametrize(
    ("length", "ntk", "chosen"),
    [
        ([1, 2, 3], [10, 20, 5], 2),  # Best by both.
        ([3, 2, 1], [30, 20, 10], 0),  # All tie; length spreads as much as NTK, and is the first measure.
        ([3.0, 2.9, 2.8], [30, 20, 10], 2),  # All tie; NTK spreads more, and smaller is better.
        ([9, 5, 1], [1.02, 1.01, 1.0], 0),  # All tie; length spreads more, and larger is better.
        ([2, 2], [5, 5], 0),  # Equal in everything: the first.
        ([0, 0], [5, 4], 1),
    ],
)
def test_choice_and_ties(length, ntk, chosen):
    rows = [{"length_distortion": a, "ntk_condition_number": b} for a, b in zip(length, ntk)]
    assert ranking.choose(rows) == chosen


def test_candidates_are_one_block_times_wider_widths():
    start = SEED.scaled(16, (1, 1, 1, 1))
    found = grow.candidates(start, SMALL_GROWTH, SMALL)
    # 8 * (1.05, 1.1, 1.15, 1.2), rounded: 8, 9, 9, 10; twice that at the real width.
    assert [c.width for c in found] == [16, 18, 20] * 4
    assert [sum(c.depths) for c in found] == [5] * 12
    assert len(set(map(str, found))) == 12
    tight = dataclasses.replace(SMALL, max_parameters=SMALL.count(found[0]).parameters)
    assert grow.candidates(start, SMALL_GROWTH, tight)[0] == found[0]
    assert len(grow.candidates(start, SMALL_GROWTH, tight)) < 12


def test_candidates_are_scored_as_proxies_and_chosen_at_their_own_width(tmp_path):
    received = []

    def scorer(topologies):
        received.extend(topologies)
        return fake_scorer(topologies)

    result = grow.grow(tmp_path, SEED, SMALL_GROWTH, scorer, SMALL)
    rows = without_seconds(tmp_path / "trace.jsonl")
    tried = [Topology.parse(candidate["topology"]) for row in rows for candidate in row["candidates"]]
    assert [topology.width for topology in received[:12]] == [8, 9, 10] * 4  # By hand: half of 16, 18 and 20.
    assert [topology.width for topology in received] == [topology.width // 2 for topology in tried]
    assert [topology.depths for topology in received] == [topology.depths for topology in tried]
    assert {Topology.parse(row["topology"]).width for row in rows} <= {topology.width for topology in tried}
    assert min(Topology.parse(member["topology"]).width for member in result["family"]) == 16


def test_a_killed_growth_ends_as_an_unbroken_one(tmp_path):
    results = {}
    for name, kills in (("unbroken", ()), ("killed", (5, 14))):
        directory = tmp_path / name
        directory.mkdir()
        for allowed in kills:
            scorer = Remembered(Counting(allowed), directory / "scores.jsonl")
            with pytest.raises(Counting.Killed):
                grow.grow(directory, SEED, SMALL_GROWTH, scorer, SMALL)
        results[name] = grow.grow(
            directory, SEED, SMALL_GROWTH, Remembered(fake_scorer, directory / "scores.jsonl"), SMALL
        )
    assert results["killed"] == results["unbroken"]
    assert without_seconds(tmp_path / "killed/trace.jsonl") == without_seconds(tmp_path / "unbroken/trace.jsonl")
    family = results["killed"]["family"]
    assert len(family) >= 3
    assert all(one["parameters"] < other["parameters"] for one, other in itertools.pairwise(family))
    assert 1_200_000 <= family[-1]["parameters"] <= 2_000_000


def test_growth_drops_failed_candidates_and_stops_when_none_is_left(tmp_path):
    def only_deep_first_stage(topologies):
        for topology in topologies:
            failed = topology.depths[0] == 1
            yield Score({"length_distortion": 1.0, "ntk_condition_number": None if failed else 2.0}, {}, 0.0)

    def none(topologies):
        return (Score({"length_distortion": None}, {}, 0.0) for _ in topologies)

    result = grow.grow(tmp_path, SEED, SMALL_GROWTH, only_deep_first_stage, SMALL)
    row = without_seconds(tmp_path / "trace.jsonl")[0]
    assert row["failed"] == 9
    assert Topology.parse(result["family"][1]["topology"]).depths[0] == 2

    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none of the 12 candidates of growth step 1"):
        grow.grow(tmp_path / "none", SEED, SMALL_GROWTH, none, SMALL)
    assert not list((tmp_path / "none").iterdir())


def test_expected_candidates_of_a_growth_in_the_middle(tmp_path):
    """A scorer that likes the middle candidate best makes the growth that is expected."""
    settings, limits = SMALL_GROWTH, SMALL
    asked = []

    def middle(topologies):
        asked.append(len(topologies))
        tried = grow.candidates(member[0], settings, limits)
        order = sorted(range(len(tried)), key=lambda i: limits.count(tried[i]).parameters)
        best = order[len(order) // 2]
        member[0] = tried[best]
        for i in range(len(topologies)):
            yield Score({"length_distortion": float(i == best), "ntk_condition_number": 2.0 - (i == best)}, {}, 0.0)

    member = [settings.start(SEED)]
    grow.grow(tmp_path, SEED, settings, middle, limits)
    assert grow.expected_candidates(SEED, settings, limits) == sum(asked)
    assert len(asked) > 1


def test_growth_stops_when_it_is_told_to_and_goes_on_from_there(tmp_path):
    settings, limits = GrowthSettings(16, 2, 10**9), Limits(None, image_size=(32, 32), num_classes=10)

    def sizes(topologies):
        for topology in topologies:
            yield Score({"length_distortion": float(topology.width), "ntk_condition_number": 1.0}, {}, 0.0)

    asked = []
    stop = lambda tried: asked.append(tried) or len(asked) > 2  # noqa: E731
    first = grow.grow(tmp_path, SEED, settings, sizes, limits, stop=stop)
    assert len(first["family"]) == 3
    assert asked[0] == len(grow.candidates(settings.start(SEED), settings, limits)) > 0
    again = grow.grow(tmp_path, SEED, settings, sizes, limits, stop=lambda _: True)
    assert again == first  # Steps of the journal are not asked about.
