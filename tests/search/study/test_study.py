"""The study: rows that survive kills, and statistics that are right."""

import csv
import dataclasses
import json
import math
import socket

import numpy as np
import pytest

from asvit_tf import choices, journals
from asvit_tf.dataloaders.imagefiles.skipped import Skipped
from asvit_tf.errors import DivergedError, StoppedError, UserError
from search.scoring import names as study_names
from search.scoring.predictor import Predictor
from search.scoring.score import summarize
from search.study import figures as study_figures
from search.study import result as study_result
from search.study import run as study
from search.study import selection as study_selection
from search.study import tables as study_tables
from search.study import work as study_work
from search.study.settings import StudySettings


@pytest.fixture(autouse=True)
def few_splits(monkeypatch):
    monkeypatch.setattr(study_selection, "_OTHER_SPLITS", 5)


class Killed(BaseException):
    pass


@pytest.fixture
def work(monkeypatch):
    """Stand-ins for measuring and training: numbers that depend on the topology, some fail; no network is built."""
    state = dict(calls=0, allowed=10**9, diverging=set(), broken=set(), guessing=set())

    def number(topology, seed):
        return np.random.default_rng([seed, *topology.encode()]).random()

    def count():
        if state["calls"] == state["allowed"]:
            raise Killed
        state["calls"] += 1

    def measure(settings, images, topology):
        count()
        if topology in state["broken"]:
            raise ValueError("no such\nthing")
        values = {name: [1 + number(topology + name, 0)] for name in study_names.column_names()}
        values["curvature:released:layer"] = [3.0]
        reasons = {}
        if topology[0] == "4":
            values["ntk_condition_number:released:layer"] = [math.nan]
            reasons["ntk_condition_number:released:layer"] = "singular"
        return summarize(values, 1.0, reasons, {"build": 0.1})

    def train(settings, directory, topology, seed):
        count()
        if topology in state["diverging"]:
            raise DivergedError("the loss is not a number")
        if topology in state["guessing"]:
            return dict(accuracy=0.1, validation_loss=2.4)
        return dict(accuracy=number(topology, seed), validation_loss=1.0)

    def prepare(directory, settings):
        (directory / "data").mkdir(exist_ok=True)
        (directory / "data/dataset.json").touch()
        return np.zeros((2, 8, 8, 3)), [0.1] * 10, Skipped()

    monkeypatch.setattr(study_figures, "_DRAWN", ("curvature",))  # Drawing takes most of the time.
    monkeypatch.setattr(study_work, "_measure", measure)
    monkeypatch.setattr(study_work, "train_briefly", train)
    monkeypatch.setattr(study, "prepare", prepare)
    return state


def without_seconds(directory):
    paths = (directory / name for name in ("topologies.jsonl", "repeats.jsonl"))
    rows = [row for path in paths if path.exists() for row in journals.Journal(path).rows]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


SMALL = StudySettings(
    space="published",
    base_stride=4,
    width=16,
    initialization="released",
    topologies=12,
    repeated_topologies=2,
    seed_repeats=3,
    draws=100,
)


def test_a_killed_study_ends_with_the_rows_of_an_unbroken_one(work, tmp_path):
    expected = study.run(str(tmp_path / "unbroken"), SMALL)
    assert work["calls"] == 2 * 12 + 2 * 2
    for allowed, rows in ((5, 2), (9, 6), (13, 13)):  # While measuring, training, repeating.
        work.update(calls=0, allowed=allowed)
        with pytest.raises(Killed):
            study.run(str(tmp_path / "killed"), SMALL)
        assert len(without_seconds(tmp_path / "killed")) == rows
        (tmp_path / "killed" / study_work.SCRATCH / "left").mkdir(parents=True, exist_ok=True)
        for path in (tmp_path / "killed").glob("*.jsonl"):
            with open(path, "a") as file:
                file.write('{"topology": "4,2')  # What a process killed while writing leaves.
    work.update(calls=0, allowed=10**9)
    result = study.run(str(tmp_path / "killed"), SMALL)
    assert without_seconds(tmp_path / "killed") == without_seconds(tmp_path / "unbroken")
    assert not (tmp_path / "killed" / study_work.SCRATCH).exists()
    for one, other in zip(expected["measures"].values(), result["measures"].values()):
        assert one["tau"] == other["tau"]
        assert one["interval"] == other["interval"]
    assert expected["noise"] == result["noise"]


def test_a_study_leaves_a_predictor_behind_if_one_half_can_judge(work, tmp_path):
    assert study.run(str(tmp_path), SMALL)["predictor"] is None  # Twelve are too few.
    result = study.run(str(tmp_path), dataclasses.replace(SMALL, topologies=20))
    found = Predictor.read(result["predictor"])
    assert (found.image_size, found.images, found.num_classes, found.topologies) == ((32, 32), 16, 10, 20)
    assert "fitted on 10 topologies" in found.evidence
    assert set(found.line.names) <= {*study_names.measure_names(), *choices.SIZE_MEASURES}


def test_a_predictor_of_more_topologies_does_not_stay(work, tmp_path):
    study.run(str(tmp_path), dataclasses.replace(SMALL, topologies=20))
    assert (tmp_path / "predictor.json").exists()
    study.run(str(tmp_path), dataclasses.replace(SMALL, topologies=5))
    assert not (tmp_path / "predictor.json").exists()


def test_a_topology_without_measures_takes_them_from_no_other(work, tmp_path):
    work["broken"].add(str(study.sample(SMALL.sampled, 20, SMALL.seed)[3]))
    result = study.run(str(tmp_path), dataclasses.replace(SMALL, topologies=20))
    line = json.loads((tmp_path / "predictor.json").read_text())
    assert 16 <= line["topologies"] <= 19
    assert set(line["line"]["names"]) & set(study_names.measure_names())
    assert [row["part"] for row in result["failed"]] == ["measuring"]


def test_a_study_of_which_a_half_lacks_measures_ends_and_says_so(work, tmp_path):
    drawn = list(map(str, study.sample(SMALL.sampled, 20, SMALL.seed)))
    (choosing, _) = study_selection._halves(20, SMALL.seed, 0)
    work["broken"].update(drawn[i] for i in choosing[:3])
    result = study.run(str(tmp_path), dataclasses.replace(SMALL, topologies=20))
    assert (result["selection"], result["predictor"], len(result["failed"])) == (None, None, 3)
    (line,) = [line for line in study_tables.in_lines(result) if "no measure was chosen" in line]
    assert line.endswith("or no measure is defined for 80% of both halves")
    assert json.loads((tmp_path / "result.json").read_text())["selection"] is None


def test_what_else_lies_in_the_directory_stays(work, tmp_path, monkeypatch):
    images = [tmp_path / name for name in ("data/cat/a.png", "training-images/cat/a.png")]
    for image in images:
        image.parent.mkdir(parents=True)
        image.touch()
    study.run(str(tmp_path), dataclasses.replace(SMALL, topologies=3, repeated_topologies=0))
    monkeypatch.undo()
    for name in ("topologies.jsonl", "data/dataset.json"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="data exists, but no data set was prepared there"):
        study.run(str(tmp_path), dataclasses.replace(SMALL, topologies=3, repeated_topologies=0))
    assert all(image.exists() for image in images)


def test_more_topologies_continue_and_another_study_is_refused(work, tmp_path):
    study.run(str(tmp_path), SMALL)
    work["calls"] = 0
    more = dataclasses.replace(SMALL, topologies=14, repeated_topologies=3)
    result = study.run(str(tmp_path), more)
    assert work["calls"] == 2 * 2 + 2
    assert result["topologies"] == 14
    assert result["noise"]["repeated"] == 3
    with pytest.raises(UserError, match="epochs was 8, now 9"):
        study.run(str(tmp_path), dataclasses.replace(SMALL, epochs=9))


def test_a_study_of_an_earlier_version_continues_as_what_it_was(work, tmp_path):
    study.run(str(tmp_path), SMALL)
    path = tmp_path / "settings.json"
    later = ("base_stride", "space", "initialization")
    earlier = {name: value for name, value in json.loads(path.read_text()).items() if name not in later}
    path.write_text(json.dumps(earlier))
    work["calls"] = 0
    study.run(str(tmp_path), SMALL)
    assert work["calls"] == 0
    with pytest.raises(UserError, match="base_stride was 4, now 2; space was published, now fitting"):
        study.run(str(tmp_path), dataclasses.replace(SMALL, base_stride=2, space="fitting"))


def test_what_fails_is_listed_and_what_is_undefined_is_counted(work, tmp_path):
    drawn = list(map(str, study.sample(SMALL.sampled, 12, SMALL.seed)))
    work.update(diverging={drawn[1]}, broken={drawn[2]})
    result = study.run(str(tmp_path), SMALL)
    assert result["trained"] == 11
    failed = {(row["topology"], row["seed"], row["part"]): row["reason"] for row in result["failed"]}
    diverged = "the loss is not a number"
    assert failed == {
        (drawn[1], 8, "training"): diverged,
        (drawn[1], 9, "training"): diverged,
        (drawn[1], 10, "training"): diverged,
        (drawn[2], 8, "measuring"): "ValueError: no such thing",
    }
    undefined = [topology for topology in drawn if topology[0] == "4" and topology != drawn[2]]
    ntk = result["measures"]["ntk_condition_number:released:layer"]
    assert undefined
    assert ntk["undefined"] == len({*undefined, drawn[2]})
    assert ntk["ranked"] == len({*drawn} - {*undefined, drawn[1], drawn[2]})
    assert ntk["reasons"] == {"singular": len(undefined)}
    assert result["measures"]["rank_sum"]["ranked"] == ntk["ranked"]
    constant = result["measures"]["curvature:released:layer"]
    assert (constant["tau"], constant["reason"]) == (None, "the measure is the same for all topologies")
    result["measures"]["axis_ratio:released:layer"]["relative_range"] = 3e-6
    text = "\n".join(study_tables.in_lines(result))
    assert "axis ratio, released, norms on: all topologies have the same to 3e-06" in text
    assert f"failed: {drawn[2]} seed 8, measuring: ValueError: no such thing" in text
    assert "the measure is the same for all topologies" in text
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["failed"] == result["failed"]
    assert set(written["measures"]) == {
        *study_names.column_names(),
        *choices.SIZE_MEASURES,
        "rank_sum",
    }
    with open(tmp_path / "topologies.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["topology"] for row in table] == drawn
    assert table[1]["accuracy"] == ""
    assert table[2]["failed"] == "measuring: ValueError: no such thing"
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("published.png", "measures.png"))


def test_a_training_that_learned_nothing_failed_and_is_named(work, tmp_path):
    ends = ((0.1, 2.3027), (0.5, 1.2), (0.6, 2.5), (None, None))
    rows = [dict(topology="a", seed=1, accuracy=a, loss=b, failed={}) for a, b in ends]
    guessing, learned, overfitted, failed = study_result.without_guessing(rows, shares=[0.1] * 10)
    assert guessing["accuracy"] is None
    assert "learned nothing: accuracy 0.100, loss 2.303" in guessing["failed"]["training"]
    assert (learned, overfitted, failed) == tuple(rows[1:])
    # Nine of ten images are of one class: that alone is a loss of 0.325, far below log(2) = 0.693.
    ends = ((0.9, 0.325), (0.9, 0.2), (0.95, 0.4))
    rows = [dict(topology="a", seed=1, accuracy=a, loss=b, failed={}) for a, b in ends]
    guessing, *learned = study_result.without_guessing(rows, shares=[0.9, 0.1, 0.0])
    assert (guessing["accuracy"], learned) == (None, rows[1:])
    work["guessing"].add(str(study.sample(SMALL.sampled, 12, SMALL.seed)[0]))
    result = study.run(str(tmp_path), SMALL)
    assert result["trained"] == 11
    assert {row["seed"] for row in result["failed"]} == {8, 9, 10}
    assert result["noise"]["repeated"] == 1


@pytest.mark.parametrize("change", [dict(accuracy="0.5"), dict(measures=[]), dict(failed=None), dict(topology=["a"])])
def test_rows_of_something_else_are_refused(change, work, tmp_path):
    study.run(str(tmp_path), dataclasses.replace(SMALL, topologies=3, repeated_topologies=0))
    rows = (tmp_path / "topologies.jsonl").read_text()
    (tmp_path / "topologies.jsonl").write_text(
        rows + json.dumps({**json.loads(rows.splitlines()[-1]), **change}) + "\n"
    )
    with pytest.raises(UserError, match=r"line 4 of .*topologies\.jsonl is not what a run wrote"):
        study.run(str(tmp_path), SMALL)


def test_a_full_disk_stops_the_study_and_is_no_failed_topology(work, tmp_path, monkeypatch):
    def full(*arguments):
        raise StoppedError("the disk is full")

    monkeypatch.setattr(study_work, "train_briefly", full)
    with pytest.raises(StoppedError, match="the disk is full"):
        study.run(str(tmp_path), SMALL)
    assert without_seconds(tmp_path) == []


@pytest.mark.parametrize("seed", [None, 1])
def test_a_worker_that_does_not_see_the_directory_says_so_before_it_measures(seed, work, tmp_path):
    with pytest.raises(UserError, match=rf"^{socket.gethostname()} has no {tmp_path}/data/dataset\.json; it must be"):
        study_work.work(SMALL, str(tmp_path), np.zeros((2, 8, 8, 3)), "8,2,3|4,1,2|4,1,4|4,1,6|32", seed)
    assert work["calls"] == 0
    assert not list(tmp_path.iterdir())


def test_a_study_in_which_nothing_trains_says_why(work, tmp_path):
    work["diverging"].update(map(str, study.sample(SMALL.sampled, 12, SMALL.seed)))
    with pytest.raises(UserError, match="0 of 12 topologies could be trained: the loss is not a number"):
        study.run(str(tmp_path), SMALL)
