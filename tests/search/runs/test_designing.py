"""What is scored for a run's design, and what is not, after a kill."""

import pytest

from asvit_tf.dataloaders.classification import Dataset
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
