import itertools

import numpy as np
import pytest
from search_helpers import Counting, fake_scorer, without_seconds
from tensorboard.backend.event_processing import event_accumulator

from asvit_tf import Topology, UserError
from search.runs.settings import RunSettings
from search.scoring.score import Remembered, Score
from search.strategy import family, loop, reinforce
from search.strategy.limits import Limits
from search.strategy.settings import SearchSettings
from search.strategy.space import PUBLISHED

SEED = Topology.named("seed")


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
    quick = reinforce.Baseline(0.25)
    assert [quick(2.0), quick(1.0)] == pytest.approx([2.0, (0.25 * 1.5 + 0.75) / (1 - 0.0625)])


@pytest.mark.parametrize("seed", [0])
def test_policy_finds_the_optimum_of_a_toy_reward(seed):
    target = PUBLISHED.indices_of(SEED)
    policy = reinforce.Policy(0.08, seed)
    baseline = reinforce.Baseline(0.9)
    start = policy.entropy
    assert start == pytest.approx(np.log(PUBLISHED.size), abs=1e-3)
    for step in range(500):
        indices = policy.sample(np.random.default_rng([seed, step]))
        reward = sum(one == other for one, other in zip(indices, target))
        policy.update([(indices, reward - baseline(reward))])
    assert policy.best() == target
    assert policy.entropy < start / 2


def test_one_update_with_several_samples_is_their_mean():
    one, other = PUBLISHED.indices_of(SEED), tuple(0 for _ in PUBLISHED.choices)
    policies = [reinforce.Policy(0.08, seed=0) for _ in range(2)]
    policies[0].update([(one, 1.0), (other, -0.5)])
    gradients = [
        -(1.0 * (np.eye(len(p))[i] - p) - 0.5 * (np.eye(len(p))[j] - p)) / 2
        for p, i, j in zip(policies[1].probabilities, one, other)
    ]
    # Adam's first step is the learning rate times the sign of the gradient (where that is not 0).
    before, after = policies[1], policies[0]
    for p, q, gradient in zip(before.probabilities, after.probabilities, gradients):
        moved = np.exp(np.log(p) - 0.08 * gradient / (np.abs(gradient) + 1e-8))
        np.testing.assert_allclose(q, moved / moved.sum(), rtol=1e-5)


def test_search_with_samples_side_by_side_and_killed_inside_a_step(tmp_path):
    options = SearchSettings(total_steps=4, samples_per_step=3)
    for name in ("killed", "unbroken"):
        (tmp_path / name).mkdir()
    scorer = Remembered(Counting(7), tmp_path / "killed/scores.jsonl")
    with pytest.raises(Counting.Killed):
        loop.search(tmp_path / "killed", options, scorer, Limits())
    results = [
        loop.search(tmp_path / name, options, Remembered(Counting(), tmp_path / name / "s.jsonl"), Limits())
        for name in ("killed", "unbroken")
    ]
    assert results[0] == results[1]
    rows = without_seconds(tmp_path / "unbroken/trace.jsonl")
    assert rows == without_seconds(tmp_path / "killed/trace.jsonl")
    assert [(row["step"], row["sample"]) for row in rows] == list(itertools.product(range(4), range(3)))


def test_limits_hold_for_every_sample_and_for_the_result(tmp_path):
    limits = Limits(max_parameters=2_500_000, max_macs=400_000_000)
    result = loop.search(tmp_path, SearchSettings(total_steps=6), fake_scorer, limits)
    for row in [*without_seconds(tmp_path / "trace.jsonl"), result]:
        assert row["parameters"] <= 2_500_000
        assert row["macs"] <= 400_000_000
    with pytest.raises(UserError, match="not one is within the limits"):
        loop.search(tmp_path / "none", SearchSettings(total_steps=1), fake_scorer, Limits(max_parameters=10))
    with pytest.raises(UserError, match="max_macs is 0"):
        Limits(max_macs=0)


def test_tensorboard_has_the_released_names(tmp_path):
    loop.search(tmp_path, SearchSettings(total_steps=3), fake_scorer, Limits())
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = {"TE/NTK", "TE/Exp", "TE/flops", "TE/params", "reinforce/entropy", "reward/reward"}
    assert names <= set(events.Tags()["tensors"])
    assert [event.step for event in events.Tensors("TE/NTK")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("29,x", "expected millions"),
        ("0.1", "0.1 M is out of reach"),
        ("200", "starts at 20.00 M and stops at 110.00 M"),
    ],
)
def test_targets_out_of_reach_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        family.parse_targets(text, 20_000_000, 110_000_000)


def test_targets_take_the_nearest_member(tmp_path):
    sizes = {"small": 29.05, "base": 52.62, "large": 88.15}
    members = [dict(topology=str(Topology.named(n)), parameters=p * 1e6, macs=5e9) for n, p in sizes.items()]
    targets = family.parse_targets("29,53,70", 20_000_000, 110_000_000)
    written, missed = family.write_configs(tmp_path / "configs", members, targets, Limits())
    assert set(written) == {"29", "53"}
    assert missed == ["no member is within 10% of 70 M; the nearest has 52.62 M"]
    # That the YAML trains is tested in test_training.
    assert str(Topology.named("small")) in (tmp_path / "configs/asvit_29m.yaml").read_text()


def test_a_killed_search_ends_as_an_unbroken_one(tmp_path):
    options = SearchSettings(total_steps=12)
    results = {}
    for name, kills in (("unbroken", ()), ("killed", (3, 4))):
        directory = tmp_path / name
        directory.mkdir()
        for allowed in kills:
            scorer = Remembered(Counting(allowed), directory / "scores.jsonl")
            with pytest.raises(Counting.Killed):
                loop.search(directory, options, scorer, Limits())
            with open(directory / "trace.jsonl", "a") as file:
                file.write('{"step": 99, "topo')  # What a process killed while writing leaves.
        last = Counting()
        results[name] = loop.search(directory, options, Remembered(last, directory / "scores.jsonl"), Limits())
        assert last.calls <= 12 - sum(kills)
    assert results["killed"] == results["unbroken"]
    assert without_seconds(tmp_path / "killed/trace.jsonl") == without_seconds(tmp_path / "unbroken/trace.jsonl")
    assert len(without_seconds(tmp_path / "killed/trace.jsonl")) == 12


def test_search_depends_on_the_seed(tmp_path):
    found = set()
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        options = SearchSettings(total_steps=5, seed=seed)
        found.add(loop.search(tmp_path / str(seed), options, fake_scorer, Limits())["topology"])
    assert len(found) == 2


def test_a_failed_measure_moves_nothing_and_is_counted(tmp_path):
    (tmp_path / "long").mkdir()

    def failing(topologies):
        for _ in topologies:
            yield Score({"length_distortion": 1.0, "ntk_condition_number": None}, {"ntk_condition_number": 5}, 0.0)

    with pytest.raises(UserError, match=r"none of 20 topologies could be scored.*have no NTK condition number"):
        loop.search(tmp_path / "long", SearchSettings(total_steps=500), failing, Limits())
    with pytest.raises(UserError, match="none of 3 topologies could be scored"):
        loop.search(tmp_path, SearchSettings(total_steps=3), failing, Limits())
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"none of 3 topologies could be scored \(see \S*trace\.jsonl\)$"):
        loop.search(tmp_path / "other", SearchSettings(total_steps=3, reward_types=("snip",)), failing, Limits())
    rows = without_seconds(tmp_path / "trace.jsonl")
    assert all(row["reward"] is None and row["scores"]["ntk_condition_number"] is None for row in rows)
    assert rows[0]["entropy"] == rows[2]["entropy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size is 0; it must be at least 1"),
        ({"epochs": 1}, "needs at least 2"),
        ({"budget": 0.0}, "above 0"),
        ({"budget": float("nan")}, "above 0"),
        ({"width": 17}, "must be even"),
        ({"retokenization": "halves"}, "allowed are none, published, thirds"),
    ],
)
def test_bad_run_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        RunSettings(**options)
