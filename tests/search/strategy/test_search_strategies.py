"""Evolution and chance as search strategies; what a search of each does, also killed."""

import numpy as np
import pytest
from search_helpers import Counting, fake_scorer, without_seconds

from asvit_tf import Topology, cli
from asvit_tf.choices import SEARCH_STRATEGIES
from asvit_tf.errors import UserError
from search.scoring.score import Remembered, Score
from search.strategy import evolution, loop
from search.strategy.limits import Limits
from search.strategy.settings import SearchSettings
from search.strategy.space import PUBLISHED, Space

SPACE = Space(
    {
        name: options if name in ("kernel_size_1", "splits_1") else options[:1]
        for name, options in PUBLISHED.choices.items()
    }
)
MEASURES = ("length_distortion", "ntk_condition_number")


def evolved(space=SPACE):
    return evolution.Evolution(SearchSettings(strategy="evolution"), space)


def taught(strategy, scores):
    """Teaches topologies (kernel, splits) with two measures."""
    width = len(SPACE.choices)
    for (kernel, splits), values in scores:
        indices = tuple(kernel if i == 0 else splits if i == 4 else 0 for i in range(width))
        strategy.learn([indices], [dict(scores=dict(zip(MEASURES, values)))])


def test_evolution_changes_one_choice_of_the_best_of_a_tournament(monkeypatch):
    monkeypatch.setattr(evolution, "TOURNAMENT", evolution.POPULATION)  # Of all, so the parent is known.
    strategy = evolved()
    taught(strategy, [((n % 5, n % 3), (1.0, 9.0)) for n in range(evolution.POPULATION - 1)])
    taught(strategy, [((2, 1), (5.0, 1.0))])
    drawn = [strategy.propose(np.random.default_rng(seed)) for seed in range(400)]
    parent = strategy.best()
    assert (parent[0], parent[4]) == (2, 1)
    differing = [[i for i, (one, other) in enumerate(zip(parent, child)) if one != other] for child in drawn]
    assert all(len(changed) == 1 for changed in differing)
    # Free choices alone, each as often, and each other option as often.
    assert {changed[0] for changed in differing} == {0, 4}
    assert 160 < sum(changed == [0] for changed in differing) < 240
    counts = np.bincount([child[0] for child, changed in zip(drawn, differing) if changed == [0]], minlength=5)
    assert counts[2] == 0
    assert min(counts[[0, 1, 3, 4]]) > 25


def test_the_oldest_leaves_the_population_but_is_not_forgotten(monkeypatch):
    monkeypatch.setattr(evolution, "TOURNAMENT", evolution.POPULATION)
    strategy = evolved()
    taught(strategy, [((4, 2), (9.0, 1.0))])  # The best, and the oldest.
    taught(strategy, [((n % 3, 0), (2.0 + (n % 3 == 1), 5.0)) for n in range(evolution.POPULATION)])
    child = strategy.propose(np.random.default_rng(0))
    assert sum(one != other for one, other in zip(child, (1, *(0,) * 12))) == 1  # Of the best that is left.
    assert (strategy.best()[0], strategy.best()[4]) == (4, 2)
    assert strategy.found(lambda indices: indices[0] != 4)[0] == 1
    assert strategy.found(lambda indices: False) is None


def test_what_could_not_be_scored_is_no_parent():
    strategy = evolved()
    assert strategy.best() is None
    taught(strategy, [((n % 5, 0), (None, 1.0)) for n in range(30)])
    assert strategy.best() is None
    assert len({strategy.propose(np.random.default_rng(seed)) for seed in range(100)}) == 15  # Still any.


def test_chance_draws_every_topology_as_often():
    strategy = evolution.Chance(SearchSettings(strategy="random"), SPACE)
    drawn = [strategy.propose(np.random.default_rng(seed)) for seed in range(1500)]
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 15
    assert 60 < counts.min() < counts.max() < 145


def test_evolution_climbs_where_chance_does_not(tmp_path):
    target = PUBLISHED.indices_of(Topology.named("seed"))

    def scorer(topologies):
        for topology in topologies:
            hits = sum(one == other for one, other in zip(PUBLISHED.indices_of(topology), target))
            yield Score({"length_distortion": float(hits), "ntk_condition_number": 20.0 - hits}, {}, 0.0)

    reached = {}
    for strategy in ("evolution", "random"):
        (tmp_path / strategy).mkdir()
        settings = SearchSettings(total_steps=300, strategy=strategy)
        found = loop.search(tmp_path / strategy, settings, scorer, Limits())["topology"]
        reached[strategy] = next(scorer([Topology.parse(found)])).measures["length_distortion"]
    assert reached["evolution"] >= 11 > reached["random"]


@pytest.mark.parametrize("strategy", SEARCH_STRATEGIES)
def test_a_killed_search_of_each_strategy_ends_as_an_unbroken_one(strategy, tmp_path):
    options = SearchSettings(total_steps=20, samples_per_step=2, strategy=strategy)
    results = {}
    for name, kills in (("unbroken", ()), ("killed", (5, 24))):
        directory = tmp_path / name
        directory.mkdir()
        for allowed in kills:
            with pytest.raises(Counting.Killed):
                loop.search(directory, options, Remembered(Counting(allowed), directory / "scores.jsonl"), Limits())
        last = Remembered(Counting(), directory / "scores.jsonl")
        results[name] = loop.search(directory, options, last, Limits())
    assert results["killed"] == results["unbroken"]
    rows = [without_seconds(tmp_path / name / "trace.jsonl") for name in results]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 40


def test_limits_hold_for_every_strategy(tmp_path):
    limits = Limits(max_parameters=2_500_000)
    for strategy in ("evolution", "random"):
        (tmp_path / strategy).mkdir()
        settings = SearchSettings(total_steps=40, strategy=strategy)
        result = loop.search(tmp_path / strategy, settings, fake_scorer, limits)
        rows = without_seconds(tmp_path / strategy / "trace.jsonl")
        assert max(row["parameters"] for row in [*rows, result]) <= 2_500_000
        assert result["topology"] in {row["topology"] for row in rows}


def test_an_unknown_strategy_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="unknown strategy 'best'; allowed are reinforce, evolution, random"):
        SearchSettings(strategy="best")
    assert cli.main(["search", "--save-dir", str(tmp_path / "out"), "--dataset", "noise", "--strategy", "best"]) == 2
    assert "is not one of" in capsys.readouterr().err


def test_a_search_by_evolution_from_the_command_line(tmp_path, capsys):
    command = ["search", "--save_dir", str(tmp_path / "out"), "--dataset", "noise", "--image_size", "16"]
    command += ["--batch_size", "2", "--repeats", "1", "--points", "3", "--total_steps", "2"]
    assert cli.main([*command, "--strategy", "evolution"]) == 0
    assert "figure" in capsys.readouterr().out
    assert (tmp_path / "out/search.png").stat().st_size > 1000
    assert cli.main(command) == 2  # The directory is of another strategy.
    assert "strategy was evolution, now reinforce" in capsys.readouterr().err
