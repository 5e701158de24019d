"""How any command ends where the disk is full, or something else is wrong with a file."""

import click
import pytest
from helpers import files_no_larger_than

from asvit_tf.cli import console
from asvit_tf.journals import Journal


def test_a_full_disk_ends_a_command_with_one_line(tmp_path, capsys):
    @click.command()
    def scores():
        journal = Journal(tmp_path / "scores.jsonl")
        for number in range(30):
            journal.append({"number": number})

    with files_no_larger_than(100):
        assert console.main(scores, []) == 1
    line = "asvit: cannot write to the disk, no room is left; make some and run it again\n"
    assert capsys.readouterr().err == line
    before = len(Journal(tmp_path / "scores.jsonl").rows)
    assert 0 < before < 30
    assert console.main(scores, []) == 0
    assert len(Journal(tmp_path / "scores.jsonl").rows) == before + 30


def test_other_errors_of_files_are_not_hidden():
    @click.command()
    def reads():
        raise PermissionError(13, "Permission denied", "image.jpg")

    with pytest.raises(PermissionError):
        console.main(reads, [])
