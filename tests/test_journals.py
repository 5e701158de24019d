"""Journals beside another process that writes to them."""

import json
from pathlib import Path

import pytest

from asvit_tf import journals
from asvit_tf.errors import UserError


def grown_while_read(monkeypatch, path, more):
    """Another process adds to the file between the reading of it and what follows."""
    read_bytes = Path.read_bytes

    def read(place):
        before = read_bytes(place)
        with open(path, "ab") as file:
            file.write(more)
        return before

    monkeypatch.setattr(Path, "read_bytes", read)


@pytest.mark.parametrize(("before", "more"), [(b"", b'{"a": 2}\n'), (b'{"a"', b": 2}\n"), (b'{"a"', b": 2}\n{")])
def test_a_row_that_another_process_finishes_meanwhile_is_not_cut_off(before, more, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + before)
    with monkeypatch.context() as patched:
        grown_while_read(patched, path, more)
        assert journals.Journal(path).rows == [{"a": 1}]
    assert path.read_bytes() == b'{"a": 1}\n' + before + more


def test_reading_cuts_off_nothing_and_opening_does(tmp_path):
    path = tmp_path / "rows.jsonl"
    content = b'{"a": 1}\n{"a"'
    path.write_bytes(content)
    assert journals.rows_in(path) == [{"a": 1}]
    assert path.read_bytes() == content
    journals.Journal(path).append({"a": 2})
    assert list(map(json.loads, path.read_text().splitlines())) == [{"a": 1}, {"a": 2}]
    assert journals.rows_in(tmp_path / "nothing.jsonl") == []


def test_what_is_read_is_checked(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"b": 1}\n')
    with pytest.raises(UserError, match=r"line 2 of .*rows\.jsonl is not what a run wrote"):
        journals.rows_in(path, {"a": int})


def test_settings_on_which_nothing_depends_yet_may_change(tmp_path):
    """A smaller batch, as behind a training without memory, until there is a checkpoint."""

    def changeable(directory):
        return () if (directory / "checkpoint").exists() else ("batch",)

    def start(**settings):
        with journals.workspace(tmp_path, settings, changeable=changeable):
            (tmp_path / "made").touch()

    start(batch=8, seed=1)
    start(batch=4, seed=1)
    with pytest.raises(UserError, match=r"\(seed was 1, now 2\)"):
        start(batch=2, seed=2)
    assert json.loads((tmp_path / "settings.json").read_text()) == dict(batch=4, seed=1)
    (tmp_path / "checkpoint").touch()
    with pytest.raises(UserError, match=r"\(batch was 4, now 2\)"):
        start(batch=2, seed=1)
    start(batch=4, seed=1)
