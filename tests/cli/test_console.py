"""How any command ends where the disk is full, or something else is wrong with a file."""

import click
import numpy as np
import pytest
import tensorflow as tf
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


@pytest.mark.parametrize("make", [lambda: np.zeros((10**9, 10**6)), lambda: tf.zeros([10**6, 10**7])])
def test_a_lack_of_memory_ends_a_command_with_one_line(make, capsys):
    @click.command()
    def reads():
        make()

    assert console.main(reads, []) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("asvit: the memory does not suffice; give smaller batches or images")


def test_other_errors_of_tensorflow_are_not_hidden():
    @click.command()
    def reads():
        raise tf.errors.ResourceExhaustedError(None, None, "too many open files")

    with pytest.raises(tf.errors.ResourceExhaustedError):
        console.main(reads, [])
