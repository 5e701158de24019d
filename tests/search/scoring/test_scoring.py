"""Scores of topologies, and how they are kept on disk."""

import gc
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import func_graph

from asvit_tf import Topology, UserError, journals, precision, storage
from search.runs import workers
from search.runs.search_settings import WorkerSettings
from search.scoring import battery as study_measures
from search.scoring import training_free
from search.scoring.score import summarize
from search.scoring.settings import ScoringSettings
from search.scoring.training_free import TrainingFreeScorer


def test_a_measure_that_fails_in_one_repeat_has_no_mean_and_is_counted():
    score = summarize({"length_distortion": [1.0, 3.0], "ntk_condition_number": [float("nan"), 8.0]}, 0.0)
    assert score.measures == {"length_distortion": 2.0, "ntk_condition_number": None}
    assert score.errors == {"length_distortion": pytest.approx(1.0), "ntk_condition_number": None}
    assert score.failures == {"ntk_condition_number": 1}
    assert summarize({"curvature": [float("inf")] * 2}, 0.0).measures == {"curvature": None}


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        ({"measures": ("speed",)}, 4, "unknown measure 'speed'; allowed are length_distortion, curvature"),
        ({"engine": "reverse"}, 4, "jet, accumulator, tape"),
        ({"normalization": "batch"}, 4, "identity, layer"),
        ({"initialization": "zeros"}, 4, "released, lecun"),
        ({"points": 2}, 4, "at least 3"),
        ({"radius": "two"}, 4, "sqrt_n, unit"),
        ({"repeats": 0}, 4, "at least 1"),
        ({}, 1, "at least 2 images"),
    ],
)
def test_bad_scoring_settings_are_refused(options, images, message):
    with pytest.raises(UserError, match=message):
        TrainingFreeScorer(ScoringSettings(**{"image_size": (8, 8), **options}), np.zeros((images, 8, 8, 3)))


def test_scores_depend_on_seed_and_images_only():
    generator = np.random.default_rng(0)
    images = generator.standard_normal((4, 16, 16, 3)).astype(np.float32)
    topology = Topology.parse("4,2,2|2,1,2|2,1,2|2,1,2|16,8")

    def score(seed=1, images=images):
        settings = ScoringSettings(image_size=(16, 16), repeats=2, points=4, seed=seed)
        return TrainingFreeScorer(settings, images).score(topology)

    first = score()
    assert all(value > 0 for value in (*first.measures.values(), *first.errors.values()))
    assert {"trace", "measures", "ntk"} == set(first.split)
    assert score().measures == first.measures
    assert all(value != first.measures[name] for name, value in score(seed=2).measures.items())
    other = score(images=images[::-1] * 2)
    assert other.measures["length_distortion"] == first.measures["length_distortion"]
    assert other.measures["ntk_condition_number"] != first.measures["ntk_condition_number"]
    alike = score(images=np.zeros_like(images))
    assert alike.measures["ntk_condition_number"] is None
    assert alike.failures == {"ntk_condition_number": 2}
    assert "alike" in alike.reasons["ntk_condition_number"]


@pytest.mark.parametrize("kind", [TrainingFreeScorer, study_measures.Battery])
def test_what_a_score_traces_is_forgotten(kind):
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    scorer = kind(ScoringSettings(image_size=(16, 16), repeats=1, points=3), images)

    def graphs_after_a_score():
        scorer.score(Topology.parse("4,2,2,1|3,1,2,1|3,1,2,1|3,1,2,1|16,8"))
        return sum(isinstance(it, func_graph.FuncGraph) for it in gc.get_objects())

    assert graphs_after_a_score() == graphs_after_a_score()


class Seen(Exception):
    """Ends a score where its network would be built."""


@pytest.mark.parametrize(
    ("kind", "network"), [(TrainingFreeScorer, training_free), (study_measures.Battery, study_measures)]
)
def test_factors_are_not_rounded_while_a_score_is_measured(kind, network, monkeypatch):
    """By the flag alone: only GPUs round them."""
    allowed = tf.config.experimental.tensor_float_32_execution_enabled
    seen = []

    def see(*arguments):
        seen.append(allowed())
        raise Seen

    monkeypatch.setattr(network, "Probe", see)
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    scorer = kind(ScoringSettings(image_size=(16, 16), repeats=1, points=3), images)
    with precision.tensor_float_32(True):
        with pytest.raises(Seen):
            scorer.score(Topology.parse("4,2,2,1|3,1,2,1|3,1,2,1|3,1,2,1|16,8"))
        assert allowed()  # As before, also when it fails.
    assert seen == [False]


def test_a_workspace_has_one_owner_and_one_configuration(tmp_path):
    code = (
        "import sys\nfrom asvit_tf.errors import UserError\nfrom asvit_tf.journals import workspace\n"
        "try:\n    with workspace(sys.argv[1], {'steps': 1}): print('mine')\nexcept UserError as error: print(error)"
    )

    def other_process():
        return subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True).stdout

    with journals.workspace(tmp_path, {"steps": 1}):
        assert "another process is working" in other_process()
    assert other_process() == "mine\n"
    (tmp_path / "trace.jsonl").touch()
    with pytest.raises(UserError, match=r"steps was 1, now 2"), journals.workspace(tmp_path, {"steps": 2}):
        pass


def test_settings_that_earlier_versions_did_not_have_are_what_they_were(tmp_path):
    (tmp_path / "settings.json").write_text('{"steps": 1}')
    (tmp_path / "made").touch()
    with journals.workspace(tmp_path, {"steps": 1, "kind": "plain"}, {"kind": "plain"}):
        pass
    with (
        pytest.raises(UserError, match=r"\(kind was plain, now new\)"),
        journals.workspace(tmp_path, {"steps": 1, "kind": "new"}, {"kind": "plain"}),
    ):
        pass
    (tmp_path / "settings.json").write_text('{"steps": 1, "kind": "new"}')
    with journals.workspace(tmp_path, {"steps": 1, "kind": "new"}, {"kind": "plain"}):
        pass


def test_a_workspace_in_which_nothing_was_made_takes_other_settings(tmp_path):
    """As behind a command that was refused for one of them."""
    for settings in ({"steps": 1}, {"steps": 2}):
        with journals.workspace(tmp_path, settings):
            pass
    (tmp_path / "trace.jsonl").touch()
    with journals.workspace(tmp_path, {"steps": 2}):
        pass
    with pytest.raises(UserError, match=r"steps was 2, now 1"), journals.workspace(tmp_path, {"steps": 1}):
        pass


def test_a_damaged_journal_is_named(tmp_path):
    (tmp_path / "trace.jsonl").write_text('{"a": 1}\ngarbage\n')
    with pytest.raises(UserError, match=r"line 2 of .*trace.jsonl is not what a run wrote"):
        journals.Journal(tmp_path / "trace.jsonl")


def test_one_worker_scores_in_this_process_and_other_images_are_others():
    generator = np.random.default_rng(0)
    settings = ScoringSettings(image_size=(16, 16), repeats=1, points=3, measures=("ntk_condition_number",))
    topology = Topology.parse("4,2,2|2,1,2|2,1,2|2,1,2|16,8")
    for _ in range(2):
        images = generator.standard_normal((2, 16, 16, 3)).astype(np.float32)
        (parallel,) = workers.ParallelScorer(settings, images, workers.Pool(WorkerSettings(1, 1)))([topology])
        assert parallel.measures == TrainingFreeScorer(settings, images).score(topology).measures


def test_json_holds_no_nan(tmp_path):
    storage.write_json(tmp_path / "a.json", {"a": [float("nan"), 1.0], "b": float("inf")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, 1.0], "b": None}


_held = []


def hold(number):
    """Grows by 80 MB; a process is looked at once a second."""
    _held.append(np.ones(10_000_000))
    time.sleep(0.6)
    return number, os.getpid()


def test_a_worker_that_grows_is_replaced_and_nothing_is_lost():
    done = list(workers.Pool(WorkerSettings(2, 1), growth=5e7).map(hold, [(number,) for number in range(8)]))
    assert [number for number, _ in done] == list(range(8))
    assert len({process for _, process in done}) > 2
