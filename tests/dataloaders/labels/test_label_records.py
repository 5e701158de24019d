"""Images and label pictures into TFRecords: what the Model Garden reads is what the files say; faults have one line."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory
from official.vision.dataloaders import segmentation_input
from PIL import Image, ImageOps

from asvit_tf import (
    cli,
    registry_imports,  # noqa: F401
)
from asvit_tf.dataloaders.imagefiles import walk
from asvit_tf.dataloaders.labels import prepare
from asvit_tf.dataloaders.labels.pairs import Naming
from asvit_tf.errors import OneClassError, UserError
from asvit_tf.tasks import experiment_files

SIZES = {"train/a": (9, 4), "train/b": (8, 5), "train/c": (6, 9), "val/d": (4, 12), "val/e": (11, 3), "test/f": (5, 5)}
COLOURS = {(255, 0, 0): "red", (0, 0, 0): "void", (9, 8, 7): "grey"}


def numbers(name, largest=3):
    """Labels from 0 to `largest`, and 255."""
    values = np.random.default_rng(len(name) + ord(name[-1])).choice([*range(largest + 1), 255], SIZES[name])
    return values.astype(np.uint8)


def image_of(name):
    return np.random.default_rng(ord(name[-1])).integers(0, 255, (*SIZES[name], 3), np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    for name in SIZES:
        save(tmp_path / f"images/{name}.png", image_of(name))
        save(tmp_path / f"masks/{name}.png", numbers(name))
    return tmp_path


def run(folder, *arguments):
    whole = [str(folder / "images"), str(folder / "masks"), "--output", str(folder / "records"), *arguments]
    return cli.main(["prepare-segmentation", *whole])


def decoded(directory, pattern):
    """Image and classes of every record, by file name."""
    decoder, found = segmentation_input.Decoder(), {}
    for file in sorted(directory.glob(pattern)):
        for record in tf.data.TFRecordDataset(str(file)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            row = decoder.decode(record)
            classes = tf.io.decode_image(row["image/segmentation/class/encoded"]).numpy()
            image = tf.io.decode_image(row["image/encoded"]).numpy()
            assert classes.shape == (*image.shape[:2], 1) == (int(row["image/height"]), int(row["image/width"]), 1)
            found[features["image/filename"].bytes_list.value[0].decode()] = image, classes[..., 0]
    return found


@pytest.mark.parametrize("shards", [1, 2])
def test_numbers_are_counted_through_without_the_ignored(folder, capsys, shards):
    assert run(folder, "--ignored", "1", "--shards", str(shards), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    rows = decoded(folder / "records", "*.tfrecord*" if shards == 1 else "*-of-00002.tfrecord")
    assert sorted(rows) == [f"{name}.png" for name in sorted(SIZES)]
    sizes = [sum(1 for _ in tf.data.TFRecordDataset(str(file))) for file in (folder / "records").glob("train*")]
    assert sorted(sizes) == ([3] if shards == 1 else [1, 2])
    classes = {0: 0, 1: 255, 2: 1, 3: 2, 255: 255}
    for name in SIZES:
        image, found = rows[f"{name}.png"]
        np.testing.assert_array_equal(image, image_of(name))
        assert found.tolist() == [[classes[int(value)] for value in row] for row in numbers(name)]
    assert (result["class_names"], result["labels"], result["ignored_labels"]) == (["0", "2", "3"], [0, 2, 3], [1, 255])
    written = json.loads((folder / "records/dataset.json").read_text())
    for split, first in (("train", "train"), ("validation", "val"), ("test", "test")):
        its = [name for name in SIZES if name.startswith(first)]
        values = np.concatenate([numbers(name).ravel() for name in its])
        assert result["counts"][split] == written["splits"][split]
        assert written["splits"][split] == dict(
            images=len(its),
            pixels=[int((values == label).sum()) for label in (0, 2, 3)],
            ignored_pixels=int(np.isin(values, (1, 255)).sum()),
            height=max(SIZES[name][0] for name in its),
            width=max(SIZES[name][1] for name in its),
        )
    assert written["class_names"] == ["0", "2", "3"]


def test_the_yaml_evaluates_at_the_own_size(folder, capsys):
    assert run(folder) == 0
    path = folder / "records/semantic.yaml"
    assert f"--config_file={path}" in capsys.readouterr().out.splitlines()
    params = exp_factory.get_exp_config("segmentation_asvit_coco")
    experiment_files.override(params, experiment_files.read(str(path)), str(path))
    task = params.task
    assert (task.class_names, task.model.num_classes) == (["0", "1", "2", "3"], 4)
    assert task.train_data.input_path == str(folder / "records/train.tfrecord")
    assert task.validation_data.input_path == str(folder / "records/validation.tfrecord")
    assert task.validation_data.resize_eval_groundtruth is False
    assert list(task.validation_data.groundtruth_padded_size) == [11, 12]  # Of 4 x 12 and 11 x 3.
    assert task.evaluation.report_per_class_iou is True
    assert task.train_data.resize_eval_groundtruth is True
    assert walk.is_own(folder / "records")


def test_colours_and_palettes_are_looked_up(folder, capsys):
    (folder / "classes.txt").write_text("".join(f"{r} {g} {b}\t\t{name}\n" for (r, g, b), name in COLOURS.items()))
    drawn = {}
    for name in SIZES:
        drawn[name] = np.random.default_rng(ord(name[-1])).integers(0, 3, SIZES[name])
        pixels = np.array(list(COLOURS), np.uint8)[drawn[name]]
        image = Image.fromarray(pixels)
        (image.quantize(8) if name == "train/b" else image).save(folder / f"masks/{name}.png")
    assert run(folder, "--classes", str(folder / "classes.txt"), "--ignored", "void") == 0
    rows = decoded(folder / "records", "*.tfrecord")
    for name, its in drawn.items():
        np.testing.assert_array_equal(rows[f"{name}.png"][1], np.array([0, 255, 1])[its])
    text = capsys.readouterr().out
    share = np.concatenate([its.ravel() for name, its in drawn.items() if name.startswith("train")])
    expected = (share == 0).sum() / (share != 1).sum()
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["red"])
    assert line.split()[2] == f"{expected:.2%}"


@pytest.mark.parametrize("stored", [True, False], ids=["as stored", "upright"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_label_pictures_are_turned_with_their_images(tmp_path, orientation, stored):
    """Where both sizes are the same, as for a picture upside down, the others decide."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = {}
    for number, turn in (("1", orientation), ("2", 6), ("3", 6)):
        exif[0x0112] = turn
        pixels = np.random.default_rng(int(number)).integers(0, 4, (3, 5), np.uint8)
        save(tmp_path / f"images/{number}.jpg", np.zeros((3, 5, 3), np.uint8), exif=exif)
        save(tmp_path / "turned.png", pixels, exif=exif)
        with Image.open(tmp_path / "turned.png") as image:
            expected[f"{number}.jpg"] = np.asarray(ImageOps.exif_transpose(image))
        save(tmp_path / f"masks/{number}.png", pixels if stored else expected[f"{number}.jpg"])
    prepare.prepare(tmp_path / "records", tmp_path / "images", tmp_path / "masks")
    for name, (_, classes) in decoded(tmp_path / "records", "*.tfrecord").items():
        np.testing.assert_array_equal(classes, expected[name])


def changed(name, pixels, suffix=".png", folder="masks"):
    return lambda root: save(root / folder / f"{name}{suffix}", pixels)


def with_classes(text):
    return lambda root: (root / "classes.txt").write_text(text)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (changed("val/d", np.zeros((5, 12), np.uint8)), [], r"d.png is 12 x 5, but its image .*d.png is 12 x 4"),
        (changed("val/d", np.zeros((12, 4), np.uint8)), [], r"d.png is 4 x 12, but its image"),
        (
            with_classes("sky\nroad"),
            ["--classes", "classes.txt"],
            r"has the label [23] in \d+ pixels, and 1 other labels",
        ),
        (changed("val/d", np.full((4, 12, 3), (1, 2, 3), np.uint8)), [], "d.png holds colours; name their classes"),
        (
            with_classes("255 0 0 red\n0 0 0 black"),
            ["--classes", "classes.txt"],
            r"has the colour \d+ \d+ \d+ in \d+ pixels.*; allowed are those that .*classes.txt lists",
        ),
        (changed("train/a", np.full((9, 4), 300, np.uint16)), [], "the label 300 in 36 pixels; at most 255 classes"),
        (changed("val/d", np.full((4, 12), 255, np.uint8)), ["--ignored", "3", "--ignored", "2"], None),
        (
            changed("train/a", np.repeat(np.array([0, 300, 301], np.uint16), (9, 8, 19)).reshape(9, 4)),
            [],
            "the label 301 in 19 pixels, and 1 other labels without a class; at most 255 classes",
        ),
        (lambda root: (root / "masks/test/f.png").unlink(), [], "1 of 6 images have no label picture"),
        (lambda root: (root / "images/test/f.png").write_bytes(b"x"), [], "cannot read .*f.png: not an image"),
        (lambda root: (root / "records").mkdir(), [], "records exists; choose another directory"),
    ],
)
def test_bad_input_has_one_line_and_leaves_nothing(folder, capsys, monkeypatch, change, options, message):
    monkeypatch.chdir(folder)
    change(folder)
    before = sorted(path.name for path in folder.iterdir())
    status = run(folder, *options)
    if message is None:  # Ignored pixels alone in one image of two are no fault.
        assert status == 0
        return
    assert status == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("asvit: "))
    assert re.search(message, error)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_split_without_a_class_is_refused_unless_it_is_the_test(folder):
    save(folder / "masks/test/f.png", np.full(SIZES["test/f"], 255, np.uint8))
    result = prepare.prepare(folder / "records", folder / "images", folder / "masks", shards=2)
    assert list(result.counts) == ["train", "validation"]
    assert "the split test is left out: no pixel of it is of a class" in result.notes
    assert not list((folder / "records").glob("test*"))
    for name in ("val/d", "val/e"):
        save(folder / f"masks/{name}.png", np.full(SIZES[name], 255, np.uint8))
    with pytest.raises(UserError, match="no pixel of the split validation is of a class"):
        prepare.prepare(folder / "other", folder / "images", folder / "masks")
    assert not list(folder.glob("other*"))


def test_one_class_cannot_be_learned(folder, capsys):
    for name in ("train/a", "train/b", "train/c"):
        save(folder / f"masks/{name}.png", np.where(numbers(name) > 1, 255, 0).astype(np.uint8))
    assert run(folder) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "all pixels to train on are of one class, '0'; a single class cannot be learned; 255 is ignored" in error
    (folder / "classes.txt").write_text("0 0 0 background\n255 255 255 object\n")
    for name in SIZES:
        save(folder / f"masks/{name}.png", np.where(numbers(name) > 1, 255, 0).astype(np.uint8))
    result = prepare.prepare(folder / "records", folder / "images", folder / "masks", folder / "classes.txt")
    assert result.class_names == ("background", "object")
    with pytest.raises(OneClassError):
        prepare.prepare(folder / "other", folder / "images", folder / "masks", None, ["1", "2", "3"])


def test_what_cannot_be_read_is_left_out_where_that_is_allowed(folder):
    whole = (folder / "images/train/a.png").read_bytes()
    (folder / "images/train/a.png").write_bytes(whole[: len(whole) // 2])
    (folder / "masks/train/b.png").write_bytes(b"text")
    (folder / "masks/val/d.png").unlink()
    result = prepare.prepare(
        folder / "records", folder / "images", folder / "masks", naming=Naming(skip_missing=True), threads=1
    )
    assert sorted(decoded(folder / "records", "*.tfrecord")) == ["test/f.png", "train/c.png", "val/e.png"]
    assert result.skipped.reasons == {
        "no label picture": 1,
        "not an image that Pillow reads": 1,
        "truncated or damaged": 1,
    }
    (folder / "masks/train/c.png").write_bytes(b"text")
    with pytest.raises(UserError, match="no image of the split train is left that can be read"):
        prepare.prepare(folder / "other", folder / "images", folder / "masks", naming=Naming(skip_missing=True))


def test_a_class_that_is_never_there_is_said(folder):
    (folder / "classes.txt").write_text("a\nb\nc\nd\nrare\n")
    result = prepare.prepare(folder / "records", folder / "images", folder / "masks", folder / "classes.txt")
    assert result.notes == ("no pixel to train on is of rare",)
    assert result.counts["train"].pixels[4] == 0


def test_large_pictures_are_read(tmp_path):
    """5000 pixels a side; more than 2^24 of one class."""
    side = 5000
    for number in (1, 2):
        save(tmp_path / f"images/{number}.png", np.full((side, side), number, np.uint8), compress_level=1)
        pixels = np.zeros((side, side), np.uint8)
        pixels[:number] = 1
        save(tmp_path / f"masks/{number}.png", pixels, compress_level=1)
    result = prepare.prepare(tmp_path / "records", tmp_path / "images", tmp_path / "masks")
    counted = sorted(result.counts[split].pixels for split in ("train", "validation"))
    assert counted == [(side * (side - 2), side * 2), (side * (side - 1), side)]
    assert (result.counts["validation"].height, result.counts["validation"].width) == (side, side)
