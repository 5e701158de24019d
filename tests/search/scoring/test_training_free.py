"""What the scorers measure: pinned scores, the planes of the circles, the variables of the kernel."""

import itertools
import types

import numpy as np
import pytest

from asvit_tf import Topology, choices
from asvit_tf.measures import complexity, ntk
from search.scoring.battery import Battery
from search.scoring.settings import ScoringSettings
from search.scoring.training_free import TrainingFreeScorer

TOPOLOGIES = ("4,2,2|2,1,2|2,1,2|2,1,2|16,8", "4,2,2|3,1,2|2,1,2|2,1,2|16,8")


def images(count=4):
    return np.random.default_rng(0).standard_normal((count, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("topology", "initialization", "normalization", "length_distortion", "condition_number"),
    [
        ("4,2,2|2,1,2|2,1,2|2,1,2|16,8", "released", "identity", 0.00038195814770946695, 2.17528787012217),
        ("5,2,3|3,2,2|2,2,4|2,1,5,2|16,16", "lecun", "layer", 0.9168612195986565, 2.757152067491283),
        ("8,2,3|4,1,2|4,1,4|4,1,6|32", "released", "identity", 0.007360355556249742, 1.2921207314482432),
    ],
)
def test_scores_stay_what_they_were(topology, initialization, normalization, length_distortion, condition_number):
    """Numbers of an earlier version: whatever reorders the draws of weights or circles changes them."""
    settings = ScoringSettings(
        (16, 16), 1, points=4, seed=3, initialization=initialization, normalization=normalization
    )
    score = TrainingFreeScorer(settings, images()).score(Topology.parse(topology))
    expected = {"length_distortion": length_distortion, "ntk_condition_number": condition_number}
    assert score.measures == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def programs(monkeypatch):
    """Nothing is traced: which circles are measured, and the variables of each kernel, are noted down."""
    noted = types.SimpleNamespace(circles=[], variables=[])
    measured = types.SimpleNamespace(**dict.fromkeys(choices.CIRCLE_MEASURES, 1.0), undefined=None)

    def compile_measure(*_, **__):
        def measure(circle):
            noted.circles.append(circle)
            return measured

        return measure

    def compile_gram(_, variables):
        noted.variables.append(list(variables))
        return lambda pictures: np.eye(len(pictures))

    monkeypatch.setattr(complexity, "compile_measure", compile_measure)
    monkeypatch.setattr(ntk, "compile_gram", compile_gram)
    return noted


def plane(circle):
    """Orthonormal base of a circle's plane, [H W 3, 2]."""
    return np.stack([circle.u0.ravel(), circle.u1.ravel()], axis=1)


@pytest.mark.parametrize("kind", [TrainingFreeScorer, Battery])
def test_every_repeat_has_its_own_plane_and_all_topologies_have_the_same_ones(kind, programs):
    scorer = kind(ScoringSettings(image_size=(16, 16), repeats=3), images())
    for topology in TOPOLOGIES:
        scorer.score(Topology.parse(topology))
    times = 1 if kind is TrainingFreeScorer else len(choices.NORMALIZATIONS)
    once = len(programs.circles) // len(TOPOLOGIES)
    first, second = (list(map(plane, programs.circles[i * once : (i + 1) * once])) for i in range(2))
    np.testing.assert_array_equal(first, second)
    repeats = first[: 3 * times : times]  # Of the first scheme; a battery measures each circle twice.
    for one, other in itertools.combinations(repeats, 2):
        # The cosine of the smallest angle between two random planes of 768 dimensions is about 0.05, of the same 1.
        assert np.linalg.norm(one.T @ other, 2) < 0.25


def kernel_shapes(topology):
    """Of every linear map and the stem, from the topology alone."""
    widths = topology.widths
    yield (topology.stages[0].kernel_size, topology.stages[0].kernel_size, 3, widths[0])
    for stage, (before, after) in zip(topology.stages[1:], itertools.pairwise(widths)):
        yield (stage.kernel_size, stage.kernel_size, before, after)
    for index, stage in enumerate(topology.stages):
        inner, hidden = topology.heads[index] * topology.head_dims[index], stage.expansion_ratio * widths[index]
        one = [(widths[index], 3 * inner), (inner, widths[index]), (widths[index], hidden), (hidden, widths[index])]
        yield from one * stage.depth


def test_without_norms_the_kernel_loses_the_scales_of_the_norms_and_nothing_else(programs):
    topology = Topology.parse("4,2,2,2|3,1,2|2,1,2|2,1,2|16,8")
    Battery(ScoringSettings(image_size=(16, 16), repeats=1), images()).score(topology)
    without, with_norms = programs.variables[-2:]  # In the order of choices.NORMALIZATIONS.
    assert sorted(tuple(variable.shape) for variable in without) == sorted(kernel_shapes(topology))
    kept = {variable.ref() for variable in without}
    lost = [variable for variable in with_norms if variable.ref() not in kept]
    assert len(with_norms) == len(without) + len(lost)
    assert len(lost) == 1 + 3 + 2 * sum(topology.depths)  # Of the stem, the mergings, and two a block.
    assert all("gamma" in variable.name for variable in lost)
