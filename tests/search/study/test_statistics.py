"""The study's statistics: correlations, their intervals, noise, and the choice of a measure."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from asvit_tf import choices
from search.scoring import names as study_names
from search.study import result as study_result
from search.study import selection as study_selection
from search.study import statistics
from search.study.settings import StudySettings


def pair_counting_tau(one, other):
    """Kendall's tau-b by its definition."""
    agree = ties_one = ties_other = 0
    pairs = list(itertools.combinations(range(len(one)), 2))
    for i, j in pairs:
        a, b = one[i] - one[j], other[i] - other[j]
        agree += int(np.sign(a * b))
        ties_one += a == 0
        ties_other += b == 0
    return agree / math.sqrt((len(pairs) - ties_one) * (len(pairs) - ties_other))


@pytest.mark.parametrize("options", [2, 4, 1000])
def test_tau_with_ties_is_that_of_scipy_and_of_counting_pairs(options):
    generator = np.random.default_rng(options)
    for _ in range(20):
        one, other = generator.integers(0, options, (2, 15)).astype(float)
        expected = pair_counting_tau(one, other)
        assert statistics.tau_b(one, other) == pytest.approx(expected, abs=1e-12)
        found = statistics.correlation(one, other, statistics.resamples(15, 10, 0))
        assert found.tau == pytest.approx(expected, abs=1e-12)
        assert found.spearman == pytest.approx(scipy.stats.spearmanr(one, other).statistic)


def test_tau_of_a_bootstrap_sample_is_that_of_the_drawn_topologies():
    generator = np.random.default_rng(0)
    one, other = generator.integers(0, 9, (2, 12)).astype(float)
    one[3] = np.nan  # Undefined: in no pair, however often it is drawn.
    weights = statistics.resamples(12, 30, seed=1)
    assert np.array_equal(weights, statistics.resamples(12, 30, seed=1))
    assert not np.array_equal(weights, statistics.resamples(12, 30, seed=2))
    for tau, row in zip(statistics.resampled_taus(one, other, weights), weights):
        drawn = [i for i in np.repeat(np.arange(12), row.astype(int)) if i != 3]
        assert tau == pytest.approx(scipy.stats.kendalltau(one[drawn], other[drawn]).statistic, abs=1e-12)


def test_constant_and_undefined_columns_are_reported_not_nan():
    rising, weights = np.arange(6.0), statistics.resamples(6, 200, 0)
    for values, accuracy, reason in (
        (np.ones(6), rising, "the measure is the same"),
        (rising, np.ones(6), "the accuracy is the same"),
        (np.full(6, np.nan), rising, "0 topologies have both"),
        (np.array([1, 2, np.inf, np.nan, np.nan, np.nan]), rising, "2 topologies have both"),
    ):
        found = statistics.correlation(values, accuracy, weights)
        assert (found.tau, found.spearman, found.interval) == (None, None, None)
        assert reason in found.reason
    some = statistics.correlation(np.array([0, 1, np.inf, np.nan, 2, 3]), rising, weights)
    assert (some.tau, some.ranked, some.reason) == (pytest.approx(1.0), 4, None)


def test_the_interval_covers_the_true_tau_about_as_often_as_it_says():
    generator, covered = np.random.default_rng(0), 0
    true = 2 / math.pi * math.asin(0.6)
    for _ in range(200):
        one = generator.standard_normal(60)
        other = 0.6 * one + 0.8 * generator.standard_normal(60)
        low, high = statistics.percentiles(
            statistics.resampled_taus(one, other, statistics.resamples(60, 200, int(generator.integers(2**31))))
        )
        covered += low <= true <= high
    assert 0.88 * 200 <= covered <= 200


def test_the_highest_tau_is_what_a_perfect_measure_reaches():
    generator = np.random.default_rng(0)
    for reliability in (0.3, 0.6, 0.9):
        true = math.sqrt(reliability) * generator.standard_normal(3000)
        noisy = true + math.sqrt(1 - reliability) * generator.standard_normal(3000)
        assert scipy.stats.kendalltau(true, noisy).statistic == pytest.approx(
            statistics.highest_tau(reliability), abs=0.02
        )
    assert statistics.highest_tau(1.0) == 1.0


def test_noise_finds_the_deviations_that_were_put_in():
    generator = np.random.default_rng(0)
    true = 0.7 + 0.03 * generator.standard_normal(2000)
    first, *others = (true + 0.02 * generator.standard_normal(2000) for _ in range(3))
    found = statistics.noise(first, list(zip(first, *others)), draws=100, seed=0)
    assert found.over_seeds == pytest.approx(0.02, rel=0.05)
    assert found.over_topologies == pytest.approx(math.hypot(0.03, 0.02), rel=0.05)
    assert found.reliability == pytest.approx(9 / 13, abs=0.05)
    low, high = found.interval
    assert low < found.highest_tau < high
    alone = statistics.noise(first, [], draws=100, seed=0)
    assert (alone.over_seeds, alone.reliability, alone.highest_tau) == (None, None, None)


@pytest.mark.parametrize("direction", [1, -1])
def test_regret_is_the_mean_over_ways_to_break_ties(direction):
    generator = np.random.default_rng(3)
    for _ in range(20):
        values, accuracy = generator.integers(0, 3, 7).astype(float), generator.random(7)
        values[0] = np.nan
        known = range(1, 7)
        ways = []
        for order in itertools.permutations(known):  # Sorting is stable: every order of the tied is there.
            top = sorted(order, key=lambda i: -direction * values[i])[:2]
            ways.append(accuracy.max() - accuracy[top].max())
        assert statistics.regret(values, accuracy, direction, top=2) == pytest.approx(np.mean(ways))
    assert statistics.regret(np.full(7, np.nan), accuracy, 1) is None


def planted(count=120, seed=0):
    """Columns of which one pair predicts, and accuracies."""
    generator = np.random.default_rng(seed)
    names = [*study_names.column_names(), *choices.SIZE_MEASURES]
    columns = {name: np.exp(generator.standard_normal(count)) for name in names}
    columns[study_names.RANK_SUM] = study_selection.rank_sum(columns, study_names.SEARCHED_VARIANTS, (1, -1))
    true = np.log(columns["curvature:lecun:layer"]) - np.log(columns["ntk_trace:lecun:layer"])
    return columns, 0.7 + 0.02 * (true + 0.5 * generator.standard_normal(count))


@pytest.fixture(autouse=True)
def few_splits(monkeypatch):
    monkeypatch.setattr(study_selection, "_OTHER_SPLITS", 5)


def test_selection_finds_what_predicts_and_says_by_how_much():
    columns, accuracy = planted()
    found = study_selection.held_out(columns, accuracy, seed=0, draws=300)
    assert found["choosing"] + found["judging"] == len(accuracy)
    assert found["kinds"]["rank sum"]["name"] == "curvature:lecun:layer + ntk_trace:lecun:layer"
    assert found["tau_judging"] > 0.5
    for name in study_selection.AGAINST:
        low, high = found["against"][name]["interval"]
        assert 0 < low < found["against"][name]["difference"] < high
        assert found["other_splits"]["differences"][name]["above_zero"] == 1.0
    assert found == study_selection.held_out(columns, accuracy, seed=0, draws=300)
    few = {name: column[:10] for name, column in columns.items()}
    assert study_selection.held_out(few, accuracy[:10], 0, 300) is None
    assert study_selection.held_out(columns, np.ones_like(accuracy), 0, 300) is None


def test_the_judging_half_has_no_say_in_the_choice():
    columns, accuracy = planted()
    halves = study_selection._halves(len(accuracy), seed=0, number=0)
    split = study_selection._Split(columns, accuracy, halves)
    changed = accuracy.copy()
    changed[split.judging] = changed[split.judging][::-1] ** 2
    other = study_selection._Split(columns, changed, halves)
    assert not set(split.choosing) & set(split.judging)
    for one, two in zip(split.candidates, other.candidates):
        assert (one.name, one.tau) == (two.name, two.tau)
        assert np.array_equal(one.scores, two.scores, equal_nan=True)
    assert split.against.keys() == other.against.keys() == set(study_selection.AGAINST)
    for name, scores in split.against.items():
        assert np.array_equal(scores, other.against[name], equal_nan=True)


def test_a_half_of_which_too_many_lack_measures_chooses_nothing_and_others_do():
    columns, accuracy = planted(count=20)
    halves = [study_selection._halves(20, 0, number) for number in range(6)]
    for half in halves[0]:
        broken = half[:3]  # Of ten.
        lacking = {name: column.copy() for name, column in columns.items()}
        for name in [*study_names.column_names(), study_names.RANK_SUM]:
            lacking[name][broken] = np.nan
        assert study_selection.held_out(lacking, accuracy, seed=0, draws=100) is None
        # In another halving of the same topologies both halves may have enough.
        enough = [all(len(set(part) & set(broken)) <= 2 for part in other) for other in halves[1:]]
        assert study_selection._other_splits(lacking, accuracy, seed=0)["splits"] == sum(enough) > 0
        lacking["curvature:lecun:layer"][broken[0]] = 1.0
        assert study_selection.held_out(lacking, accuracy, seed=0, draws=100) is not None


def test_noise_is_not_found_to_predict():
    columns, _ = planted()
    drawn = [np.random.default_rng(seed).random(120) for seed in range(12)]
    found = [study_selection.held_out(columns, accuracy, seed=0, draws=100) for accuracy in drawn]
    assert np.mean([row["tau_choosing"] for row in found]) > 0.15  # The best of many, on the half that chose it.
    assert abs(np.mean([row["tau_judging"] for row in found])) < 0.08  # Three standard errors.


@pytest.mark.parametrize("kind", list(study_selection.RIDGES))
def test_the_choosing_half_chooses_the_kind_of_regression_also_where_the_judging_half_disagrees(kind):
    columns, accuracy = planted()
    (other,) = set(study_selection.RIDGES) - {kind}
    selection = dict(
        choosing=60,
        judging=60,
        against={},
        kinds={
            kind: dict(name=kind, tau_choosing=0.5, tau_judging=0.1),
            other: dict(name=other, tau_choosing=0.4, tau_judging=0.9),
            "measure": dict(name="curvature:lecun:layer", tau_choosing=0.6, tau_judging=0.95),  # No regression.
        },
    )
    rows = [dict(accuracy=value) for value in accuracy]
    found = study_result.predictor_of(StudySettings(), rows, columns, num_classes=10, selection=selection)
    assert found.evidence.startswith(f"{kind}; fitted on 60 topologies, tau +0.10 on 60 others")
    assert set(choices.SIZE_MEASURES) & set(found.line.names) == set(study_selection.RIDGES[kind])
