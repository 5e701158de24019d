"""Copies among a user's images: kept on one side of our own split, counted in the user's, said by every command."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from asvit_tf import cli
from asvit_tf.dataloaders import classification as data


def picture(path, seed, side=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))
    image.save(path)
    return image


@pytest.fixture
def splits(tmp_path):
    """Ten training, five validation, five test images a class, all different, and the copies that the tests count."""
    root = tmp_path / "images"
    seeds = iter(range(1000))
    for split, count in (("train", 10), ("val", 5), ("test", 5)):
        for name in ("cat", "dog"):
            for i in range(count):
                picture(root / split / name / f"{i}.png", next(seeds))
    shutil.copy(root / "train/cat/3.png", root / "val/cat/renamed.png")
    (root / "val/dog/link.png").symlink_to(root / "train/dog/4.png")
    shutil.copy(root / "train/dog/5.png", root / "test/dog/without a suffix")
    shutil.copy(root / "val/cat/1.png", root / "test/cat/from val.png")
    shutil.copy(root / "train/cat/7.png", root / "train/dog/no dog.png")
    shutil.copy(root / "test/cat/2.png", root / "test/cat/again.png")
    # The same pixels in two kinds of files, neither of which is kept as it is; and a picture of other pixels.
    image = picture(root / "train/cat/scan.tif", 2000)
    image.save(root / "val/cat/scan.bmp")
    picture(root / "train/cat/jpeg.png", 2001).save(root / "val/cat/jpeg.jpg", quality=70)
    return root


COUNTS = dict(
    images=dict(train=23, validation=14, test=13),
    validation_in_train=3,
    test_in_train=1,
    test_in_validation=1,
    repeated=dict(train=1, validation=0, test=1),
    conflicting=2,
)
NAMES = dict(
    validation_in_train=[
        ["val/cat/renamed.png", "train/cat/3.png"],
        ["val/cat/scan.bmp", "train/cat/scan.tif"],
        ["val/dog/link.png", "train/dog/4.png"],
    ],
    test_in_train=[["test/dog/without a suffix", "train/dog/5.png"]],
    test_in_validation=[["test/cat/from val.png", "val/cat/1.png"]],
    conflicting=[["train/cat/7.png", "train/dog/no dog.png"]],
)


@pytest.mark.parametrize("options", [[], ["--shards", "3", "--threads", "3"]])
def test_copies_across_the_splits_are_counted_and_named(splits, tmp_path, capsys, options):
    words = ["prepare", str(splits), "--output", str(tmp_path / "out"), *options]
    assert cli.main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = result["duplicates"]
    assert {name: found[name] for name in COUNTS} == COUNTS
    assert {name: found["names"][name] for name in NAMES} == NAMES
    # Which of two images of one split repeats the other is a question of their order.
    assert {frozenset(pair) for pair in found["names"]["repeated"]} == {
        frozenset({"test/cat/2.png", "test/cat/again.png"}),
        frozenset({"train/cat/7.png", "train/dog/no dog.png"}),
    }
    shutil.rmtree(tmp_path / "out")
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert (
        "validation images that are training images, too: 3 of 14; the accuracy on validation is too high by up to "
        "21.4 percentage points\n  val/cat/renamed.png is the same as train/cat/3.png\n" in out
    )
    assert "images of which a copy has another label: 2; " in out


def names(path):
    examples = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    return [example.features.feature["image/filename"].bytes_list.value[0].decode() for example in examples]


def test_our_own_split_puts_copies_on_one_side(tmp_path):
    """Every image twice, under names that are far apart; a fifth of each class is held out all the same."""
    root = tmp_path / "images"
    for label, name in enumerate(("cat", "dog")):
        for i in range(20):
            picture(root / name / f"{i}.png", 100 * label + i)
            shutil.copy(root / name / f"{i}.png", root / name / f"z {i}.png")
    dataset = data.prepare(tmp_path / "out", root)
    assert (dataset.train_examples, dataset.validation_examples) == (64, 16)
    assert dataset.duplicates["validation_in_train"] == dataset.duplicates["conflicting"] == 0
    assert dataset.duplicates["repeated"] == dict(train=32, validation=8)
    held = names(dataset.validation_path)
    assert [name.split("/")[0] for name in sorted(held)] == ["cat"] * 8 + ["dog"] * 8
    assert {name.replace("z ", "") for name in held if "z " in name} == {name for name in held if "z " not in name}
    again = data.prepare(tmp_path / "again", root, threads=3)
    assert names(again.validation_path) == held
    assert names(again.train_path) == names(dataset.train_path)


def test_records_do_not_change_by_it(tmp_path):
    """The split of images without copies is what it was before copies were looked for, in the same order."""
    root = tmp_path / "images"
    for label, name in enumerate(("cat", "dog", "eel")):
        for i in range(23 + label):
            picture(root / name / f"{i}.png", 100 * label + i, side=2)  # Of few sizes.
    dataset = data.prepare(tmp_path / "out", root)
    digits = data.prepare(tmp_path / "digits")
    assert digits.duplicates["validation_in_train"] == 0
    assert [ordered(its) for its in (dataset, digits)] == ["a5bc5c0b2a1fb2b1", "5528d6b62f9d2332"]


def ordered(dataset):
    """A checksum of all names in their order."""
    together = "\n".join(names(dataset.train_path) + names(dataset.validation_path))
    return hashlib.sha256(together.encode()).hexdigest()[:16]


def test_directories_of_earlier_versions(tmp_path, capsys):
    fields = dict(class_names=["a", "b"], train_examples=3, validation_examples=2, shards=1, jpeg_only=True)
    (tmp_path / "dataset.json").write_text(json.dumps(fields))
    dataset = data.Dataset.load(tmp_path)
    assert dataset.duplicates is None
    assert dataset.as_dict()["duplicates"] is None
