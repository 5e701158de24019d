"""Which choices explain the accuracy, and what a study says of a space in which some cannot."""

import numpy as np
import pytest

from search.strategy.space import PUBLISHED, fitting
from search.study import run as study
from search.study.explained import KINDS, TOGETHER, explained
from search.study.settings import StudySettings

SPACE = fitting((32, 32), 2, 32, 8)


def drawn(count):
    topologies = study.sample(SPACE, count, seed=3)
    indices = np.array([SPACE.indices_of(topology) for topology in topologies])
    return list(map(str, topologies)), dict(zip(SPACE.choices, indices.T))


def test_the_shares_are_those_that_were_put_in():
    topologies, indices = drawn(2000)
    generator = np.random.default_rng(0)

    def scaled(column, share):
        return np.sqrt(share) * (column - column.mean()) / column.std()

    accuracy = scaled(indices["kernel_size_1"] ** 2.0, 0.5) + scaled(1.0 * (indices["splits_2"] == 0), 0.2)
    accuracy += scaled(generator.standard_normal(2000), 0.3)
    accuracy[:5] = np.nan
    found = explained(SPACE, topologies, accuracy, draws=200, seed=0)
    assert list(found) == [*KINDS, TOGETHER]
    expected = {"kernel_size": 0.5, "splits": 0.2, "expansion_ratio": 0.0, "num_heads": 0.0, TOGETHER: 0.7}
    assert {kind: each["share"] for kind, each in found.items()} == pytest.approx(expected, abs=0.05)
    assert all(0 < each["by_chance"] < 0.02 for each in found.values())
    taus = found["splits"]["taus"]
    assert list(taus) == ["splits_1", "splits_2"]  # The others have one option.
    assert taus["splits_2"] < -0.3
    assert abs(taus["splits_1"]) < 0.1


def test_a_share_is_that_of_least_squares():
    topologies, indices = drawn(60)
    accuracy = np.random.default_rng(1).standard_normal(60)
    found = explained(SPACE, topologies, accuracy, draws=100, seed=0)["kernel_size"]
    names = [name for name in SPACE.choices if name.startswith("kernel_size")]
    columns = [indices[name] == option for name in names for option in range(1, len(SPACE.choices[name]))]
    design = np.stack([np.ones(60), *columns], axis=1).astype(float)
    residual = np.linalg.lstsq(design, accuracy, rcond=None)[1][0]
    unadjusted = 1 - residual / np.sum((accuracy - accuracy.mean()) ** 2)
    assert found["share"] == pytest.approx(1 - (1 - unadjusted) * 59 / (60 - design.shape[1]))
    assert found["share"] < found["by_chance"]


def test_choices_without_effect_have_no_share_on_average_and_one_in_twenty_is_above_chance():
    topologies, _ = drawn(40)
    generator = np.random.default_rng(2)
    found = [explained(SPACE, topologies, generator.standard_normal(40), 40, seed)["splits"] for seed in range(200)]
    assert abs(np.mean([each["share"] for each in found])) < 0.01
    assert 0.01 < np.mean([each["share"] > each["by_chance"] for each in found]) < 0.12


def test_too_few_topologies_have_no_share():
    topologies, _ = drawn(8)
    found = explained(SPACE, topologies, np.arange(8.0), draws=100, seed=0)
    assert found["expansion_ratio"]["share"] is None is found["expansion_ratio"]["by_chance"]
    assert found["num_heads"]["share"] is not None
    alike = explained(SPACE, [topologies[0]] * 8, np.arange(8.0), draws=100, seed=0)
    assert {each["share"] for each in alike.values()} == {None}
    constant = explained(SPACE, topologies, np.ones(8), draws=100, seed=0)
    assert {each["share"] for each in constant.values()} == {None}
    assert constant["num_heads"]["taus"] == {"num_heads": None}


def test_a_degenerate_space_is_told():
    assert list(study.warnings(StudySettings())) == []
    (windows,) = study.warnings(StudySettings(space="published", base_stride=4, width=16))
    assert "78% of the space have attention windows of a single token at 32 pixels and a base stride of 4" in windows
    (fixed,) = study.warnings(StudySettings(width=16))
    assert "the same for all topologies at width 16: splits_3, splits_4, num_heads" in fixed
    assert StudySettings(space="published").sampled.choices == PUBLISHED.choices
