"""Files with the same bytes are found, with few of them read whole."""

import os

import numpy as np
import pytest

from asvit_tf.dataloaders.imagefiles import copies, duplicates


@pytest.fixture
def files(tmp_path):
    """Twenty files of one size that end alike, and what else lies around."""
    for i in range(20):
        (tmp_path / f"{i:02d}").write_bytes(np.random.default_rng(i).bytes(5000) + bytes(5000))
    (tmp_path / "copy").write_bytes((tmp_path / "03").read_bytes())
    (tmp_path / "link").symlink_to(tmp_path / "03")
    (tmp_path / "longer").write_bytes((tmp_path / "03").read_bytes() + b"\0")
    (tmp_path / "lost").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name in ("empty", "empty too"):
        (tmp_path / name).write_bytes(b"")
    return sorted(map(str, tmp_path.iterdir()))


@pytest.mark.parametrize("threads", [1, 3])
def test_copies_under_other_names_and_links(files, threads):
    found = copies.copies(files, threads=threads)
    assert {os.path.basename(files[place]) for place in found} == {"03", "copy", "link"}
    with open(files[3], "rb") as file:
        assert set(found.values()) == {duplicates.digest(file.read())}


def test_bytes_beside_files(files):
    with open(files[7], "rb") as file:
        same = file.read()
    found = copies.copies([same, files[7], b"1", b"2", b"1"])
    assert found.keys() == {0, 1, 2, 4}
    assert found[0] == found[1] != found[2] == found[4]


def test_files_of_other_sizes_and_ends_are_not_read_whole(tmp_path, monkeypatch):
    for i in range(30):
        (tmp_path / f"{i}").write_bytes(np.random.default_rng(i).bytes(6000 + i // 2))
    read = []
    real = copies._of_whole
    monkeypatch.setattr(copies, "_of_whole", lambda path: read.append(path) or real(path))
    assert copies.copies(sorted(map(str, tmp_path.iterdir()))) == {}
    assert read == []
    (tmp_path / "copy").write_bytes((tmp_path / "9").read_bytes())
    assert len(copies.copies(sorted(map(str, tmp_path.iterdir())))) == 2
    assert len(read) == 2


def test_a_file_that_cannot_be_opened_has_no_copy(files, monkeypatch):
    real = copies._of_end
    monkeypatch.setattr(copies, "_of_end", lambda path: b"" if path.endswith(("copy", "link")) else real(path))
    assert copies.copies(files) == {}


def test_nothing():
    assert copies.copies([]) == {}
