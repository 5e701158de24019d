"""What `asvit report` says of directories that hold no finished run, and the command that a report gives."""

import json
import shlex

import pytest
import tensorflow as tf

from asvit_tf import cli
from asvit_tf.training.saving.best import BestKeeper
from search.runs import reporting
from search.runs.settings import RunSettings

SETTINGS = {**vars(RunSettings(data_path="/my images", epochs=12, flip=True)), "budget": 2.5}


def refused(capsys, directory):
    status = cli.main(["report", str(directory)])
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    return err


def test_no_directory_a_file_and_a_directory_of_something_else(tmp_path, capsys):
    assert f"{tmp_path}/none is no directory; expected one that asvit run wrote" in refused(capsys, tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "is no directory" in refused(capsys, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "is not a directory of asvit run" in refused(capsys, tmp_path / "empty")
    (tmp_path / "empty/settings.json").write_text('{"total_steps": 3}')  # As of asvit search.
    assert "is not a directory of asvit run" in refused(capsys, tmp_path / "empty")
    (tmp_path / "empty/settings.json").write_text("[1, 2]")
    assert "settings.json is damaged" in refused(capsys, tmp_path / "empty")


@pytest.mark.parametrize(
    ("done", "missing"),
    [
        ([], "the images are not read"),
        (["data/dataset.json"], "the search is not done"),
        (["data/dataset.json", "search/result.json"], "growth is not done"),
        (["data/dataset.json", "search/result.json", "grow/result.json"], "training is not done"),
        (
            ["data/dataset.json", "search/result.json", "grow/result.json", "train/result.json"],
            "what comes after training is not done",
        ),
    ],
)
def test_an_unfinished_run_is_told_what_lacks_and_how_to_go_on(tmp_path, capsys, done, missing):
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    for name in done:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    err = refused(capsys, tmp_path)
    assert f"the run in {tmp_path} is unfinished: {missing}; continue with: asvit run" in err
    # The command has the settings of the run: the same directory takes it.
    words = shlex.split(err.partition("continue with: ")[2])
    options = cli.app.cli.commands["run"].make_context("run", words[2:], token_normalize_func=None).params
    kept = {name: value for name, value in options.items() if name in SETTINGS}
    assert vars(RunSettings(**kept)) == SETTINGS
    assert options["output"] == str(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("keeps_best", [True, False])
def test_the_command_of_the_report_takes_the_network_of_the_report(tmp_path, monkeypatch, keeps_best):
    """Its words go through the command's own parser; in a directory whose name has a space."""
    run = tmp_path / "a run"
    (run / "train").mkdir(parents=True)
    if keeps_best:
        metrics = dict(accuracy=0.5, validation_loss=1.0)
        BestKeeper(run / "train").maybe_export_checkpoint(tf.train.Checkpoint(n=tf.Variable(1)), metrics, 10)
    words = shlex.split(reporting._quantizing(run))
    assert words[:2] == ["asvit", "export"]
    options = cli.app.cli.commands["export"].make_context("export", words[2:], token_normalize_func=None).params
    assert options["model_dir"] == str(run / "train")
    assert options["checkpoint"] == (str(run / "train/best") if keeps_best else None)
    assert (options["export_dir"], options["tflite_type"]) == (str(run / "quantized"), "int8")
