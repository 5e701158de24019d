"""What a study is made of: the topologies it samples, the measures it takes, the sizes it compares with, its images."""

import math

import numpy as np
import pytest
import scipy.stats
from helpers import COUNTS

from asvit_tf import Topology, choices
from asvit_tf.dataloaders import clutter
from asvit_tf.dataloaders.images import Source, sample
from asvit_tf.measures import ntk
from search.scoring import battery as study_measures
from search.scoring import names as study_names
from search.scoring.settings import ScoringSettings
from search.scoring.training_free import TrainingFreeScorer
from search.strategy.space import PUBLISHED
from search.study import result as study_result
from search.study import run as study
from search.study.settings import StudySettings


def test_topologies_are_different_and_of_the_space_and_more_begin_with_fewer():
    space = StudySettings(space="published", width=16).sampled
    drawn = study.sample(space, 300, seed=1)
    assert len(set(map(str, drawn))) == 300
    assert drawn[:20] == study.sample(space, 20, seed=1) != study.sample(space, 20, seed=2)
    for position, options in enumerate(PUBLISHED.choices.values()):
        taken = [PUBLISHED.indices_of(topology)[position] for topology in drawn]
        counts = np.bincount(taken, minlength=len(options))
        if len(options) > 1:
            assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert {topology.width for topology in drawn} == {16}


def test_the_effective_rank_counts_images_that_differ():
    assert ntk.effective_rank(3.0 * np.eye(5)) == pytest.approx(5)
    assert ntk.effective_rank(np.ones((5, 5))) == pytest.approx(1)
    assert ntk.effective_rank(np.diag([1.0, 1.0, 0.0])) == pytest.approx(2)
    assert math.isnan(ntk.effective_rank(np.zeros((2, 2))))


def name_of(measure):
    return study_names.name_of(measure, "released", "identity")


def test_every_variant_is_what_a_search_with_those_settings_sees():
    generator = np.random.default_rng(0)
    images = generator.standard_normal((3, 16, 16, 3)).astype(np.float32)
    topology = Topology.parse("4,2,2|2,1,2|2,1,2|2,1,2|16,8")
    settings = ScoringSettings(image_size=(16, 16), repeats=2, points=4, seed=1)
    battery = study_measures.Battery(settings, images).score(topology)
    assert list(battery.measures) == study_names.measure_names()
    assert all(study_names.direction(name_of(name)) == choices.DIRECTIONS[name] for name in choices.RELEASED_MEASURES)
    assert {"build", "circle:identity", "circle:layer", "ntk:identity", "ntk:layer"} <= set(battery.split)
    for scheme, norms in (("released", "identity"), ("lecun", "layer")):
        alone = ScoringSettings(
            image_size=(16, 16),
            repeats=2,
            points=4,
            seed=1,
            initialization=scheme,
            normalization=norms,
            measures=("length_distortion", "curvature", "nonlinearity", "ntk_condition_number"),
        )
        for measure, value in TrainingFreeScorer(alone, images).score(topology).measures.items():
            if measure != "ntk_condition_number" or norms == "layer":
                assert battery.measures[study_names.name_of(measure, scheme, norms)] == value
        turning = battery.measures[study_names.name_of("turning_number", scheme, norms)]
        third = battery.measures[study_names.name_of("length_distortion_with_curvature", scheme, norms)]
        assert turning == pytest.approx(third / (2 * math.pi))
        rank = battery.measures[study_names.name_of("ntk_effective_rank", scheme, norms)]
        assert 1 <= rank <= len(images)


def test_the_baselines_are_those_of_the_classifier():
    row = dict(topology=COUNTS[0]["topology"], measures={}, reasons={})
    columns = study_result.columns_of(StudySettings(image_size=224), [row] * 3, num_classes=1000)
    assert columns["product_of_kernel_sizes"].tolist() == [8 * 4 * 4 * 4] * 3  # small
    assert columns["parameters"][0] == COUNTS[0]["params_with_position_embedding"]
    assert columns["macs"][0] == COUNTS[0]["macs_matmul_and_conv"]
    assert np.isnan(columns["rank_sum"]).all()


def test_the_two_splits_of_cluttered_digits_share_no_scan_and_are_the_same_everywhere():
    pools = {split: {scan.tobytes() for scan in clutter.scans(split)[0]} for split in clutter.EXAMPLES}
    assert not pools["train"] & pools["validation"]
    assert sum(len(clutter.scans(split)[0]) for split in clutter.EXAMPLES) == 1797
    examples = clutter.Split("validation")
    labels = [examples[i][0] for i in range(100)]
    assert np.bincount(labels).tolist() == [10] * 10
    assert np.array_equal(examples[7][1], clutter.Split("validation")[7][1])
    assert not np.array_equal(examples[7][1], clutter.Split("train")[7][1])
    images, skipped = sample(Source("cluttered_digits"), 8, (32, 32), seed=0)
    assert images.shape == (8, 32, 32, 3)
    assert not skipped.reasons
