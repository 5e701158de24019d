"""Files and directories are whole or absent, also where a process dies between two steps."""

import json
import os
from pathlib import Path

import pytest
import tensorflow as tf
from helpers import files_no_larger_than

from asvit_tf import storage
from asvit_tf.errors import StoppedError, UserError


class Killed(BaseException):
    """What no handler of errors catches."""


def write(target, text, fail=False):
    with storage.whole_directory(target) as partial:
        Path(partial, "file").write_text(text)
        if fail:
            raise ZeroDivisionError


def content(root):
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_directory_is_replaced_whole_and_nothing_else_stays(tmp_path):
    write(tmp_path / "target", "old")
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "target", "half", fail=True)
    assert content(tmp_path) == {"target/file": "old"}
    write(tmp_path / "target", "new")
    assert content(tmp_path) == {"target/file": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_at_either_rename_loses_nothing(tmp_path, monkeypatch, renames):
    target = tmp_path / "target"
    write(target, "old")
    rename, done = tf.io.gfile.rename, []

    def killed(source, destination, **options):
        if len(done) == renames:
            monkeypatch.setattr(tf.io.gfile, "rmtree", lambda path: None)  # A killed process cleans nothing up.
            raise Killed
        done.append(destination)
        rename(source, destination, **options)

    monkeypatch.setattr(tf.io.gfile, "rename", killed)
    with pytest.raises(Killed):
        write(target, "new")
    monkeypatch.undo()
    assert "old" in content(tmp_path).values()
    with pytest.raises(ZeroDivisionError):
        write(target, "half", fail=True)
    assert content(tmp_path) == {"target/file": "old"}
    write(target, "new")
    assert content(tmp_path) == {"target/file": "new"}


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    storage.write_json(path, {"a": [float("nan"), 1.0], "b": float("inf")})
    assert json.loads(path.read_text()) == {"a": [None, 1.0], "b": None}
    with files_no_larger_than(10), pytest.raises(OSError, match="File too large"):
        storage.write_text(path, "x" * 100)
    assert json.loads(path.read_text()) == {"a": [None, 1.0], "b": None}
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_the_operating_system_refuses_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*target"):
        write(tmp_path / "file" / "target", "new")
    with files_no_larger_than(10), pytest.raises(StoppedError, match="no room is left"):
        write(tmp_path / "target", "x" * 100_000)
    assert content(tmp_path) == {"file": ""}


@pytest.mark.parametrize("name", ["a" * 255, "\u00e9" * 127, "a" * 247 + ".partial", " ", "a,b [1]*?'\"#%~"])
def test_any_name_that_the_file_system_allows(tmp_path, name):
    write(tmp_path / name, "old")
    write(tmp_path / name, "new")
    storage.write_text(tmp_path / name / (name[:120] + ".json"), "text")
    assert sorted(content(tmp_path).values()) == ["new", "text"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_is_too_long_has_one_line(tmp_path):
    with pytest.raises(UserError, match="File name too long"):
        write(tmp_path / ("a" * 256), "text")
