import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from asvit_tf import Topology, UserError
from asvit_tf.errors import UserError as LibraryUserError
from search import grow, records, reinforce, scoring, space
from search.scoring import Score
from search.settings import RunSettings

SEED = Topology.named("seed")


def fake_scorer(topology):
    """A score that depends on every number of the topology; no network is built."""
    numbers = [int(part) for part in str(topology).replace("|", ",").split(",")]
    mixed = sum((i + 1) * number for i, number in enumerate(numbers))
    return Score({"length_distortion": mixed % 17 + 0.5, "ntk_condition_number": mixed % 23 + 1.5}, {}, 0.0)


class Counting:
    """Counts calls; raises Killed after a number of them."""

    class Killed(Exception):
        pass

    def __init__(self, scorer, allowed=10**9):
        self.scorer, self.allowed, self.calls = scorer, allowed, 0

    def __call__(self, topology):
        if self.calls == self.allowed:
            raise self.Killed
        self.calls += 1
        return self.scorer(topology)


def test_the_space_has_the_released_size_and_contains_the_published_seed():
    assert space.SIZE == 4_556_250
    assert space.topology_at(space.indices_of(SEED)) == SEED
    generator = np.random.default_rng(0)
    for _ in range(50):
        indices = tuple(int(generator.integers(len(options))) for options in space.CHOICES.values())
        assert space.indices_of(space.topology_at(indices)) == indices


def test_a_topology_outside_the_space_is_refused():
    with pytest.raises(UserError, match=r"kernel_size_1 of .* is 9; the search space allows \(4, 5, 6, 7, 8\)"):
        space.indices_of(Topology.parse("9,2,3|4,1,2|4,1,4|4,1,6|32"))


def test_reward_against_a_hand_written_table():
    reward = reinforce.Reward({"length_distortion": 1, "ntk_condition_number": -1}, buffer_size=3)
    rows = [  # length distortion, NTK, reward: change over the range of the last three values
        (1.0, 10.0, 0.0),
        (3.0, 20.0, 2 / 2 - 10 / 10),
        (2.0, 15.0, -1 / 2 + 5 / 10),
        (4.0, 15.0, 2 / 2 - 0),
        (4.0, None, None),
        (4.0, 10.0, 0 + 5 / 5),
    ]
    for length, ntk, expected in rows:
        actual = reward({"length_distortion": length, "ntk_condition_number": ntk})
        if expected is None:
            assert actual is None
        else:
            assert actual == pytest.approx(expected, abs=1e-5)


def test_baseline_against_a_hand_written_table():
    baseline = reinforce.Baseline(0.9)
    assert baseline(2.0) == pytest.approx(2.0)
    assert baseline(1.0) == pytest.approx((0.9 * 0.2 + 0.1) / (1 - 0.81))
    assert baseline(0.0) == pytest.approx(0.9 * (0.9 * 0.2 + 0.1) / (1 - 0.729))


def test_dense_ranks_share_ranks():
    assert grow.dense_ranks([3.0, 1.0, 3.0, 2.0], direction=1) == [0, 2, 0, 1]
    assert grow.dense_ranks([3.0, 1.0, 3.0, 2.0], direction=-1) == [2, 0, 2, 1]


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
    assert grow.choose(rows) == chosen


def test_failed_repeats_are_counted_and_left_out():
    score = scoring.summarize({"length_distortion": [1.0, 3.0], "ntk_condition_number": [float("nan"), 8.0]}, 0.0)
    assert score.measures == {"length_distortion": 2.0, "ntk_condition_number": 8.0}
    assert score.failures == {"ntk_condition_number": 1}
    assert scoring.summarize({"ntk_condition_number": [float("inf")] * 2}, 0.0).measures == {
        "ntk_condition_number": None
    }


def test_policy_moves_to_the_optimum_of_a_toy_reward():
    target = space.indices_of(SEED)
    policy = reinforce.Policy(0.08, seed=0)
    baseline = reinforce.Baseline(0.9)
    start = policy.entropy
    assert start == pytest.approx(np.log(space.SIZE), abs=1e-3)
    for step in range(300):
        indices = policy.sample(np.random.default_rng([0, step]))
        reward = sum(one == other for one, other in zip(indices, target))
        policy.update(indices, reward - baseline(reward))
    agreeing = sum(one == other for one, other in zip(policy.best(), target))
    assert agreeing >= 11
    assert policy.entropy < start / 2


def without_seconds(path):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def test_a_killed_search_ends_as_an_unbroken_one(tmp_path):
    options = reinforce.Options(total_steps=12)
    results = {}
    for name, kills in (("unbroken", ()), ("killed", (3, 4))):
        directory = tmp_path / name
        directory.mkdir()
        for allowed in kills:
            scorer = scoring.Remembered(Counting(fake_scorer, allowed), directory / "scores.jsonl")
            with pytest.raises(Counting.Killed):
                reinforce.search(directory, options, scorer, (32, 32))
            with open(directory / "trace.jsonl", "a") as file:
                file.write('{"step": 99, "topo')  # What a process killed while writing leaves.
        last = Counting(fake_scorer)
        results[name] = reinforce.search(
            directory, options, scoring.Remembered(last, directory / "scores.jsonl"), (32, 32)
        )
        assert last.calls <= 12 - sum(kills)
    assert results["killed"] == results["unbroken"]
    assert without_seconds(tmp_path / "killed/trace.jsonl") == without_seconds(tmp_path / "unbroken/trace.jsonl")
    assert len(without_seconds(tmp_path / "killed/trace.jsonl")) == 12


def test_search_depends_on_the_seed(tmp_path):
    found = set()
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        options = reinforce.Options(total_steps=5, seed=seed)
        found.add(reinforce.search(tmp_path / str(seed), options, fake_scorer, (32, 32))["topology"])
    assert len(found) == 2


def test_a_failed_measure_moves_nothing_and_is_counted(tmp_path):
    def failing(topology):
        return Score({"length_distortion": 1.0, "ntk_condition_number": None}, {"ntk_condition_number": 5}, 0.0)

    with pytest.raises(UserError, match="none of 3 topologies could be scored"):
        reinforce.search(tmp_path, reinforce.Options(total_steps=3), failing, (32, 32))
    rows = without_seconds(tmp_path / "trace.jsonl")
    assert all(row["reward"] is None and row["scores"]["ntk_condition_number"] is None for row in rows)
    assert rows[0]["entropy"] == rows[2]["entropy"]


SMALL_GROWTH = grow.Options(
    width=16, proxy_divisor=2, stop_parameters=1_200_000, max_parameters=2_000_000, num_classes=10, image_size=(32, 32)
)


def test_candidates_are_one_block_times_wider_widths():
    start = SEED.scaled(16, (1, 1, 1, 1))
    found = grow.candidates(start, SMALL_GROWTH)
    # 8 * (1.05, 1.1, 1.15, 1.2), rounded: 8, 9, 9, 10; twice that at the real width.
    assert [c.width for c in found] == [16, 18, 20] * 4
    assert [sum(c.depths) for c in found] == [5] * 12
    assert len(set(map(str, found))) == 12
    tight = grow.Options(
        width=16,
        proxy_divisor=2,
        max_parameters=SMALL_GROWTH.count(found[0]).parameters,
        image_size=(32, 32),
        num_classes=10,
    )
    assert grow.candidates(start, tight)[0] == found[0]
    assert len(grow.candidates(start, tight)) < 12


def test_a_killed_growth_ends_as_an_unbroken_one(tmp_path):
    results = {}
    for name, kills in (("unbroken", ()), ("killed", (5, 14))):
        directory = tmp_path / name
        directory.mkdir()
        for allowed in kills:
            scorer = scoring.Remembered(Counting(fake_scorer, allowed), directory / "scores.jsonl")
            with pytest.raises(Counting.Killed):
                grow.grow(directory, SEED, SMALL_GROWTH, scorer)
        results[name] = grow.grow(
            directory, SEED, SMALL_GROWTH, scoring.Remembered(fake_scorer, directory / "scores.jsonl")
        )
    assert results["killed"] == results["unbroken"]
    assert without_seconds(tmp_path / "killed/trace.jsonl") == without_seconds(tmp_path / "unbroken/trace.jsonl")
    family = results["killed"]["family"]
    assert len(family) >= 3
    assert all(one["parameters"] < other["parameters"] for one, other in itertools.pairwise(family))
    assert 1_200_000 <= family[-1]["parameters"] <= 2_000_000


def test_growth_drops_failed_candidates_and_stops_when_none_is_left(tmp_path):
    def only_deep_first_stage(topology):
        failed = topology.depths[0] == 1
        return Score({"length_distortion": 1.0, "ntk_condition_number": None if failed else 2.0}, {}, 0.0)

    result = grow.grow(tmp_path, SEED, SMALL_GROWTH, only_deep_first_stage)
    row = without_seconds(tmp_path / "trace.jsonl")[0]
    assert row["failed"] == 9
    assert Topology.parse(result["family"][1]["topology"]).depths[0] == 2

    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none of the 12 candidates of growth step 1"):
        grow.grow(tmp_path / "none", SEED, SMALL_GROWTH, lambda topology: Score({"length_distortion": None}, {}, 0.0))
    assert not list((tmp_path / "none").iterdir())


def test_scores_depend_on_seed_and_images_only():
    generator = np.random.default_rng(0)
    images = generator.standard_normal((4, 16, 16, 3)).astype(np.float32)
    topology = Topology.parse("4,2,2|2,1,2|2,1,2|2,1,2|16,8")

    def score(seed=1, images=images):
        settings = scoring.Settings(image_size=(16, 16), repeats=2, points=4, seed=seed)
        return scoring.TrainingFreeScorer(settings, images)(topology).measures

    first = score()
    assert all(value > 0 for value in first.values())
    assert score() == first
    assert all(score(seed=2)[name] != first[name] for name in first)
    other = score(images=images[::-1] * 2)
    assert other["length_distortion"] == first["length_distortion"]
    assert other["ntk_condition_number"] != first["ntk_condition_number"]


def test_a_workspace_has_one_owner_and_one_configuration(tmp_path):
    code = (
        "import sys\nfrom asvit_tf.errors import UserError\nfrom search.records import workspace\n"
        "try:\n    with workspace(sys.argv[1], {'steps': 1}): print('mine')\nexcept UserError as error: print(error)"
    )

    def other_process():
        return subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout

    with records.workspace(tmp_path, {"steps": 1}):
        assert "another process is working" in other_process()
    assert other_process() == "mine\n"
    with pytest.raises(LibraryUserError, match=r"steps was 1, now 2"), records.workspace(tmp_path, {"steps": 2}):
        pass


def test_json_holds_no_nan(tmp_path):
    records.write_json(tmp_path / "a.json", {"a": [float("nan"), 1.0], "b": float("inf")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, 1.0], "b": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size is 0; it must be at least 1"),
        ({"epochs": 2}, "needs at least 3"),
        ({"budget": 0.0}, "above 0"),
        ({"budget": float("nan")}, "above 0"),
        ({"width": 17}, "must be even"),
        ({"retokenization": "halves"}, "allowed are none, published, thirds"),
    ],
)
def test_bad_run_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        RunSettings(**options)
