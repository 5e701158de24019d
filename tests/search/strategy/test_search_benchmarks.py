"""The benchmarks of strategies: what rows are of, and that only the same is continued. Nothing is measured."""

import importlib.util
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import ROOT
from search_helpers import fake_scorer

from asvit_tf import Topology
from asvit_tf.dataloaders import images
from asvit_tf.dataloaders.imagefiles.skipped import Skipped
from asvit_tf.errors import UserError
from search.runs import workers
from search.scoring import training_free
from search.study import run as study
from search.study import work
from search.study.settings import StudySettings

FOUND = "7,8,4,1|4,4,4,1|4,2,4,1|3,1,3,1|16,32"


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks/search" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module, *arguments):
    result = CliRunner().invoke(module.main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def strategies(monkeypatch):
    """Searches in no time, on images that are a number."""
    drawn = dict(value=0.0)
    monkeypatch.setattr(images, "Source", lambda data_path: data_path)
    monkeypatch.setattr(images, "sample", lambda *arguments: (np.full((2, 32, 32, 3), drawn["value"]), Skipped()))
    monkeypatch.setattr(training_free, "TrainingFreeScorer", lambda settings, taken: fake_scorer)
    return drawn


def test_strategies_continue_with_the_same_images_pool_and_settings_only(strategies, tmp_path):
    module, results = script("strategies"), tmp_path / "rows.jsonl"

    def searches(directory, pool):
        arguments = ("--images", tmp_path, "--save_dir", tmp_path / directory, "--results", results, "--pool", pool)
        return run(module, *arguments, "--scores", 12, "--seeds", 1).stdout

    first = searches("one", 10)
    assert len(rows_of(results)) == 3
    assert searches("one", 10) == first
    assert len(rows_of(results)) == 3
    searches("one", 11)
    assert len(rows_of(results)) == 6
    strategies["value"] = 1.0
    with pytest.raises(UserError, match=r"holds results of other settings \(images was"):
        searches("one", 10)
    other = searches("two", 10)
    assert len(rows_of(results)) == 9
    assert len({row["settings"] for row in rows_of(results)}) == 3
    # The table is of the rows of the same: one search of each strategy.
    assert [line.split(" | ")[1] for line in other.splitlines() if line.startswith(("| rein", "| evol", "| rand"))] == [
        "1"
    ] * 3


def test_a_topology_that_is_proposed_again_is_counted_once(strategies, tmp_path):
    module, results = script("strategies"), tmp_path / "rows.jsonl"
    arguments = ("--images", tmp_path, "--save_dir", tmp_path / "out", "--results", results, "--pool", 10)
    output = run(module, *arguments, "--scores", 200, "--seeds", 1).output
    distinct = {row["strategy"]: row["distinct"] for row in rows_of(results)}
    for strategy, count in distinct.items():
        trace = [row["topology"] for row in rows_of(tmp_path / "out" / f"{strategy}_0_200" / "trace.jsonl")]
        assert (len(trace), count) == (200, len(set(trace)))
        assert f"| {strategy} | 1 | {count:.1f} |" in output
    assert min(distinct.values()) < 200


def test_a_recipe_names_the_folder_and_its_classes_and_that_of_the_digits_is_as_before():
    module = script("search_against_chance")
    before = rows_of(ROOT / "benchmarks/results/search_against_chance.jsonl")[0]
    settings = StudySettings(space="published", base_stride=4, width=16, initialization="released")
    assert module.recipe(settings, 10) == before["recipe"]
    assert module.macs(settings, Topology.parse(before["topology"]), 10) == before["macs"]
    folders = [StudySettings(dataset=None, data_path=path) for path in ("/one", "/other")]
    recipes = [module.recipe(folders[0], 10), module.recipe(folders[1], 10), module.recipe(folders[0], 100)]
    assert all(one != other for i, one in enumerate(recipes) for other in recipes[:i])
    assert (recipes[2]["dataset"], recipes[2]["data_path"], recipes[2]["num_classes"]) == (None, "/one", 100)
    last = Topology.parse(FOUND).widths[-1]
    assert module.macs(folders[0], Topology.parse(FOUND), 100) - module.macs(folders[0], Topology.parse(FOUND), 10) == (
        90 * last
    )


@pytest.fixture
def trainings(monkeypatch):
    """Trainings in no time, on images of twenty classes."""
    done = []

    def train_again(settings, directory, topology, seed):
        done.append((settings, topology, seed))
        return dict(topology=topology, seed=seed, accuracy=0.5 + len(topology) / 1000, loss=1.0, failed={}, seconds={})

    class Pool:
        def __init__(self, settings):
            pass

        def map(self, function, calls):
            return (function(*call) for call in calls)

    monkeypatch.setattr(work, "train_again", train_again)
    monkeypatch.setattr(workers, "Pool", Pool)
    prepared = (np.zeros((16, 32, 32, 3), np.float32), [0.05] * 20, Skipped())
    monkeypatch.setattr(study, "prepare", lambda directory, settings: prepared)
    return done


def test_what_was_found_is_trained_on_a_folder(trainings, tmp_path):
    module, results = script("search_against_chance"), tmp_path / "rows.jsonl"
    arguments = ("--data_path", tmp_path, "--save_dir", tmp_path / "out", "--results", results, "--seeds", 2)
    output = run(module, *arguments, "--arch", FOUND, "--others", 2).output
    assert len(trainings) == 6
    assert {settings.data_path for settings, _, _ in trainings} == {str(tmp_path)}
    rows = rows_of(results)
    assert {row["recipe"]["num_classes"] for row in rows} == {20}
    assert {row["macs"] for row in rows} == {module.macs(trainings[0][0], Topology.parse(FOUND), 20)}
    assert [row["topology"] for row in rows if row["found"]] == [FOUND] * 2
    assert "rank 1 of 3" in output or "rank 2 of 3" in output or "rank 3 of 3" in output
    run(module, *arguments, "--arch", FOUND, "--others", 2)
    assert len(trainings) == 6


def test_a_strategy_searches_and_another_one_in_the_same_place_is_refused(trainings, tmp_path, monkeypatch):
    from search.scoring import predicting

    monkeypatch.setattr(predicting, "scorer_of", lambda settings, taken: fake_scorer)
    module, results = script("search_against_chance"), tmp_path / "rows.jsonl"
    arguments = ["--data_path", tmp_path, "--save_dir", tmp_path / "out", "--results", results, "--seeds", 2]
    arguments += ["--others", 2, "--steps", 20]
    run(module, *arguments, "--strategy", "random")
    trace = rows_of(tmp_path / "out/search/trace.jsonl")
    assert len(trace) == 20
    found = {row["topology"] for row in rows_of(results) if row["found"]}
    assert found == {json.loads((tmp_path / "out/search/result.json").read_text())["topology"]}
    assert found <= {row["topology"] for row in trace}
    assert {row["strategy"] for row in rows_of(results)} == {"random"}
    assert all(math.isfinite(row["scores"]["length_distortion"]) for row in trace)
    with pytest.raises(UserError, match="strategy was random, now evolution"):
        run(module, *arguments, "--strategy", "evolution")
    assert run(module, *arguments, "--strategy", "best").exit_code == 2
