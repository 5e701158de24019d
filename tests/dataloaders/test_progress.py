"""Reading images shows a progress bar that counts every image, in each command that reads many."""

import io

import numpy as np
import pytest
import tensorflow as tf
import tqdm

from asvit_tf import cli
from asvit_tf.dataloaders import shapes
from asvit_tf.dataloaders.images import Source, sample
from asvit_tf.dataloaders.progress import brief_bar


@pytest.fixture
def bars(monkeypatch):
    """Every bar that may appear: [what, counted at the end, total], in the order of their ends."""
    ended = []

    class Recorded(tqdm.tqdm):
        def close(self):
            if not self.disable:
                ended.append((self.desc, self.n, self.total))
            super().close()

    monkeypatch.setattr(tqdm, "tqdm", Recorded)
    return ended


@pytest.fixture
def folder(tmp_path):
    """Two classes of five images, and a file that is none."""
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for shade in range(5):
            pixels = np.full((9, 7, 3), 20 * shade + len(tmp_path.name), np.uint8)
            (tmp_path / "images" / name / f"{shade}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (tmp_path / "images/dog/broken.jpg").write_bytes(b"no image")
    return tmp_path / "images"


def test_prepare(folder, tmp_path, bars):
    assert cli.main(["prepare", str(folder), "--output", str(tmp_path / "records")]) == 0
    # Of copies, the ends and then all; of each pair one is decoded, and what is none.
    copies = [("looking for copies", 10, 10)] * 2
    assert bars == [("looking for images", 2, 2), *copies, ("holding images out", 6, 6), ("images", 11, 11)]


def test_prepare_coco(tmp_path, bars):
    shapes.write(tmp_path / "scenes", train=3, validation=2)
    assert cli.main(["prepare-coco", str(tmp_path / "scenes"), "--output", str(tmp_path / "records")]) == 0
    assert bars == [("checking train", 3, 3), ("checking validation", 2, 2), ("train", 3, 3), ("validation", 2, 2)]


def test_sampling(folder, bars):
    """A bar counts different images, of which files may hold the same."""
    sample(Source(data_path=str(folder)), 4, (5, 5), seed=0)
    assert not bars  # Unless asked for.
    sample(Source(data_path=str(folder)), 4, (5, 5), seed=0, progress=True)
    assert bars == [("reading images", 4, 4)]


def test_the_complexity_command_shows_it(folder, bars):
    arguments = ["4,2,2|2,1,2|2,1,2|2,1,2|16,8", "--image-size", "16", "--points", "4", "--batch_size", "3"]
    assert cli.main(["complexity", *arguments, "--repeats", "1", "--data_path", str(folder), "--json"]) == 0
    assert ("reading images", 3, 3) in bars


@pytest.mark.parametrize(("seconds", "appears"), [(0.5, False), (3.0, True)])
def test_a_brief_bar_appears_where_work_takes_long(monkeypatch, seconds, appears):
    clock = [100.0]
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("tqdm.std.time", lambda: clock[0])
    bar = brief_bar(range(2), "reading", True)
    for _ in bar:
        clock[0] += seconds
    assert ("reading" in screen.getvalue()) is appears
    assert screen.getvalue().strip(" \r") == "" or appears  # Nothing is left of it.
