"""What is scored for a run's design, and what is not, after a kill."""

import pytest

from asvit_tf.dataloaders.classification import Dataset
from asvit_tf.journals import Journal
from search.runs import designing
from search.runs.search_settings import WorkerSettings
from search.runs.settings import RunSettings
from search.scoring.score import Remembered, Score

DATASET = Dataset("nowhere", ("cat", "dog"), 100, 20)


def test_where_search_and_growth_are_done_no_scheduler_is_needed(tmp_path):
    for step in ("search", "grow"):
        (tmp_path / step).mkdir()
        (tmp_path / step / "result.json").write_text('{"topology": "..."}')
    gone = WorkerSettings(cluster="127.0.0.1:1")
    settings = RunSettings(data_path=".")
    with designing.scoring(tmp_path, settings, DATASET, gone) as scored:
        found = designing.search(tmp_path, settings, scored, 2, 20)
    assert found == {"topology": "..."}
    with pytest.raises(AssertionError, match="nobody needs scores"):
        scored([])


def test_seconds_of_a_score_are_those_it_took_also_when_it_is_remembered(tmp_path):
    seconds = iter([9.0, 4.0])

    def score(topologies):
        return (Score({}, {}, next(seconds)) for _ in topologies)

    for _ in range(2):  # The second time as a start does behind a kill.
        scored = Remembered(score, tmp_path / "scores.jsonl")
        assert designing.seconds_of_a_score(RunSettings(data_path=".", hours=1), scored) == 4.0


def test_growth_is_as_fast_as_its_workers_are_together(tmp_path, monkeypatch):
    """Each score takes 6 s; eight workers have sixteen of them in 12 s, which nobody knows before."""
    now = [100.0]
    monkeypatch.setattr(designing.time, "monotonic", lambda: now[0])
    journal = Journal(tmp_path / "scores.jsonl")
    journal.append({"seconds": 6.0})
    rate = designing.GrowthRate(tmp_path, 2)
    assert rate() == 3.0
    now[0] += 0.1  # Remembered: nothing was scored.
    assert rate() == 3.0
    for _ in range(16):
        journal.append({"seconds": 6.0})
    now[0] += 12.0
    assert rate() == 0.75
