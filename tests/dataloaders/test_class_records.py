"""Records by shard: the same whatever the number of threads, continued after a kill, never half-written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from helpers import files_no_larger_than
from PIL import Image

from asvit_tf import UserError, cli
from asvit_tf.dataloaders import class_records
from asvit_tf.dataloaders import classification as data
from asvit_tf.dataloaders.imagefiles import door, parallel, skipped
from asvit_tf.errors import StoppedError


def fill(root, classes=("cat", "dog"), count=6, side=8):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.random.default_rng(100 * label + i).integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def rows(path):
    """File names of the records, in their order."""
    files = sorted(tf.io.gfile.glob(str(path)))
    examples = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(files)]
    return [e.features.feature["image/filename"].bytes_list.value[0].decode() for e in examples]


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_records_do_not_depend_on_the_number_of_threads(tmp_path, monkeypatch):
    root = fill(tmp_path / "images", count=40)
    for name in ("cat/3.png", "dog/7.png"):
        (root / name).write_bytes(b"broken")
    one = data.prepare(tmp_path / "one", root, shards=3, threads=1)
    monkeypatch.setattr(parallel, "_CHUNK", 3)
    two = data.prepare(tmp_path / "two", root, shards=3, threads=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert (one.train_examples, one.validation_examples) == (62, 16)
    assert two.skipped == ("cat/3.png", "dog/7.png")
    assert two.all_skipped.reasons == {skipped.NOT_AN_IMAGE: 2}
    files = {str(path.relative_to(root)) for path in root.rglob("*.png")} - set(two.skipped)
    assert sorted(rows(two.train_path) + rows(two.validation_path)) == sorted(files)


def test_three_splits_and_the_test_split_is_kept_apart(tmp_path, capsys):
    for split, count in (("Training", 3), ("valid", 2), ("Testing", 4)):
        fill(tmp_path / "images" / split, count=count)
    assert cli.main(["prepare", str(tmp_path / "images"), "--output", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [result[f"{split}_examples"] for split in data.SPLITS] == [6, 4, 8]
    for split, folder in (("train", "Training"), ("validation", "valid"), ("test", "Testing")):
        assert {name.split("/")[0] for name in rows(result[f"{split}_path"])} == {folder}
    assert data.Dataset.load(tmp_path / "out").test_path == str(tmp_path / "out/test.tfrecord")


def test_without_a_validation_split_a_fifth_of_the_training_is_held_out(tmp_path):
    for split, count in (("train", 10), ("test", 3)):
        fill(tmp_path / "images" / split, count=count)
    dataset = data.prepare(tmp_path / "out", tmp_path / "images")
    assert (dataset.train_examples, dataset.validation_examples, dataset.test_examples) == (16, 4, 6)
    assert {name.split("/")[0] for name in rows(dataset.validation_path)} == {"train"}


def test_what_cannot_be_decoded_is_not_held_out(tmp_path):
    """Of 5 images 4 are broken in one class: the one that is left is held out, and none is left to train on."""
    root = fill(tmp_path / "images", count=5)
    order = np.random.default_rng(0).permutation(5)
    for i in order[:3]:
        (root / f"cat/{i}.png").write_bytes(b"broken")
    dataset = data.prepare(tmp_path / "out", root)
    assert rows(dataset.validation_path).count(f"cat/{order[3]}.png") == 1
    (root / f"cat/{order[4]}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="class 'cat' has no image for train that can be decoded; add some") as raised:
        data.prepare(tmp_path / "none", root)
    assert str(raised.value).endswith(f"({'4 ' + skipped.NOT_AN_IMAGE})")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]


@pytest.mark.parametrize("suffix", ["HEIC", "jpg"])
@pytest.mark.parametrize(("pictures", "others", "held"), [(25, 75, 5), (20, 80, 4), (2, 3, 1), (10, 0, 2)])
def test_a_fifth_of_what_can_be_decoded_is_held_out(tmp_path, suffix, pictures, others, held):
    """As photographs of a phone beside their copies: they are counted, but are no part of the class."""
    root = fill(tmp_path / "images", count=pictures)
    for i in range(others):
        (root / f"cat/{i}.{suffix}").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    dataset = data.prepare(tmp_path / "out", root)
    dogs = max(1, round(0.2 * pictures))
    assert (dataset.train_examples, dataset.validation_examples) == (2 * pictures - held - dogs, held + dogs)
    assert len(dataset.skipped) == others
    assert [name.split("/")[0] for name in rows(dataset.validation_path)].count("cat") == held


HEIC = b"\0\0\0\x18ftypheic" + bytes(99)


def test_a_class_of_a_phone_is_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    root = fill(tmp_path / "images")
    for i in range(6):
        (root / f"cat/{i}.png").unlink()
        (root / f"cat/IMG_{i}.HEIC").write_bytes(HEIC)
    (root / "cat/notes.txt").write_text("mine")
    monkeypatch.setattr(door, "read", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(UserError) as raised:
        data.prepare(tmp_path / "out", root)
    assert str(raised.value) == (
        "class 'cat' has no image that can be decoded; add some, or take its folder away "
        "(7 not an image that Pillow reads; convert .heic before)"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("files", [{"1.heic": HEIC, "2.NEF": HEIC}, {"empty.jpg.txt": b"", "x.csv": b"1,2"}, {}])
def test_a_class_that_one_split_lacks_is_refused_before_anything_is_decoded(tmp_path, monkeypatch, files):
    for split in ("train", "val"):
        fill(tmp_path / "images" / split)
    shutil.rmtree(tmp_path / "images/val/dog")
    (tmp_path / "images/val/dog").mkdir()
    for name, content in files.items():
        (tmp_path / "images/val/dog" / name).write_bytes(content)
    monkeypatch.setattr(door, "read", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(UserError, match="class 'dog' has no image for validation that can be decoded; add") as raised:
        data.prepare(tmp_path / "out", tmp_path / "images")
    reasons = {2: "(1 empty file, 1 not an image that Pillow reads)", 0: "away"}
    expected = "; convert .heic, .nef before)" if "1.heic" in files else reasons[len(files)]
    assert str(raised.value).endswith(expected)


def test_an_image_with_the_name_of_a_foreign_one_is_read(tmp_path):
    root = fill(tmp_path / "images")
    for i in range(6):
        (root / f"cat/{i}.png").rename(root / f"cat/{i}.heic")
    (root / "cat/6.heic").write_bytes(HEIC)
    dataset = data.prepare(tmp_path / "out", root)
    assert (dataset.train_examples, dataset.skipped) == (10, ("cat/6.heic",))


def test_no_more_than_a_fifth_of_sound_files_is_read_to_hold_it_out(tmp_path, monkeypatch):
    root = fill(tmp_path / "images", count=50)
    (root / "cat/x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    read: list[str] = []
    real = door.read
    monkeypatch.setattr(door, "read", lambda path: read.append(path) or real(path))
    data.prepare(tmp_path / "out", root)
    assert len(read) == 10 + 10 + 101  # For both classes; then all.


def written_by(monkeypatch, tmp_path, root, shards=4):
    """Prepares, and returns which shards were written."""
    made = []
    real = class_records._write_shard

    def write(path, *arguments):
        made.append(path.name)
        return real(path, *arguments)

    monkeypatch.setattr(class_records, "_write_shard", write)
    data.prepare(tmp_path / "out", root, shards=shards)
    monkeypatch.setattr(class_records, "_write_shard", real)
    return made


def kill_at(monkeypatch, tmp_path, root, last):
    """Prepares until that shard is about to be written, then ends as Ctrl-C does."""
    real = class_records._write_shard

    def write(path, *arguments):
        if path.name == last:
            raise KeyboardInterrupt
        return real(path, *arguments)

    monkeypatch.setattr(class_records, "_write_shard", write)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(tmp_path / "out", root, shards=4)
    monkeypatch.setattr(class_records, "_write_shard", real)


NAMES = [name for split in ("train", "validation") for name in class_records.shard_names(split, 4)]


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """Three of eight shards are written."""
    root = fill(tmp_path / "images", count=20)
    (root / "cat/0.png").write_bytes(b"broken")
    for name in "abc":
        shutil.copy(root / "cat/1.png", root / f"dog/{name}.png")
    data.prepare(tmp_path / "whole", root, shards=4)
    kill_at(monkeypatch, tmp_path, root, NAMES[3])
    assert not (tmp_path / "out").exists()
    return root


def test_whole_shards_are_used_again(stopped, tmp_path, monkeypatch):
    assert written_by(monkeypatch, tmp_path, stopped) == NAMES[3:]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()
    # Copies are counted across shards, those of before the kill too.
    assert data.Dataset.load(tmp_path / "out").duplicates["conflicting"] == 4


def test_a_receipt_of_an_earlier_version_is_none(stopped, tmp_path, monkeypatch):
    """Without digests of its images, a shard is written anew."""
    receipt = class_records._receipt(tmp_path / "out.partial" / NAMES[0])
    fields = json.loads(receipt.read_text())
    assert fields.pop("digests")
    receipt.write_text(json.dumps(fields))
    assert written_by(monkeypatch, tmp_path, stopped) == [NAMES[0], *NAMES[3:]]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "changed", "no receipt", "half a receipt"])
def test_a_damaged_shard_is_written_anew(stopped, tmp_path, monkeypatch, damage):
    shard = tmp_path / "out.partial" / NAMES[1]
    receipt = class_records._receipt(shard)
    content = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(content[:-1])
    elif damage == "changed":
        shard.write_bytes(content[:-20] + b"x" + content[-19:])
    elif damage == "no receipt":
        receipt.unlink()
    else:
        receipt.write_text(receipt.read_text()[:30])
    assert written_by(monkeypatch, tmp_path, stopped) == [NAMES[1], *NAMES[3:]]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_images_begin_anew(stopped, tmp_path, monkeypatch):
    (stopped / "cat/1.png").write_bytes((stopped / "dog/1.png").read_bytes())
    assert written_by(monkeypatch, tmp_path, stopped) == NAMES


def test_two_at_once_are_refused(stopped, tmp_path):
    with (
        class_records.workspace(tmp_path / "out.partial", {}),
        pytest.raises(UserError, match="another process is working in"),
    ):
        data.prepare(tmp_path / "out", stopped, shards=4)
    assert (tmp_path / "out.partial" / NAMES[0]).exists()


def test_a_full_disk_keeps_whole_shards(tmp_path):
    root = fill(tmp_path / "images", count=10, side=24)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)).save(root / "dog/9.png")
    with files_no_larger_than(100_000), pytest.raises(StoppedError, match="no room is left"):
        data.prepare(tmp_path / "out", root, shards=8)
    left = sorted(path.name for path in (tmp_path / "out.partial").iterdir())
    assert not [name for name in left if name.endswith(".writing")]
    assert data.prepare(tmp_path / "out", root, shards=8).train_examples == 16


def test_killed_from_outside(tmp_path):
    """By SIGKILL, in the middle of a shard."""
    root = fill(tmp_path / "images", count=400, side=64)
    words = [sys.executable, "-m", "asvit_tf.cli", "prepare", str(root), "--output", str(tmp_path / "out")]
    process = subprocess.Popen([*words, "--shards", "40"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / "out.partial"
    end = time.monotonic() + 240
    while not (partial.exists() and len(list(partial.glob("*.receipt.json"))) > 2):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    before = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.tfrecord")}
    data.prepare(tmp_path / "out", root, shards=40)
    data.prepare(tmp_path / "whole", root, shards=40)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(before) > 2
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}.items()


def test_the_output_may_lie_inside_the_images(tmp_path):
    root = fill(tmp_path / "images")
    first = data.prepare(root / "records", root)
    second = data.prepare(root / "again", root)
    assert first.class_names == second.class_names == ("cat", "dog")
    assert second.all_skipped.others == {skipped.OWN: 1}


def test_a_data_set_of_an_earlier_version_is_read(tmp_path):
    fields = dict(
        class_names=["a", "b"], train_examples=3, validation_examples=2, skipped=["a/0.png"], shards=1, jpeg_only=True
    )
    (tmp_path / "dataset.json").write_text(json.dumps(fields))
    dataset = data.Dataset.load(tmp_path)
    assert (dataset.test_examples, dataset.test_path) == (0, None)
    assert dataset.all_skipped.as_dict()["skipped_files"] == [dict(file="a/0.png", reason="not known")]
