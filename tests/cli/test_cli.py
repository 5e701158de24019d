import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import COUNTS, DATA, MALFORMED, files_no_larger_than

from asvit_tf import cli
from asvit_tf.dataloaders import classification as data
from asvit_tf.dataloaders.images import Source, sample
from asvit_tf.errors import UserError
from asvit_tf.serving import predict


def run(capsys, *arguments):
    status = cli.main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def assert_refused(outcome, message):
    status, out, err = outcome
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("asvit: ")
    assert message in err


@pytest.mark.parametrize("row", COUNTS, ids=lambda row: row["topology"])
@pytest.mark.parametrize("embedding", [True, False])
def test_describe_json_has_the_released_counts(capsys, row, embedding):
    flag = "--position_embedding" if embedding else "--no-position-embedding"
    status, out, _ = run(capsys, "describe", row["topology"], flag, "--json")
    described = json.loads(out)
    assert status == 0
    name = "params_with_position_embedding" if embedding else "params_without_position_embedding"
    assert described["parameters"] == row[name]
    assert described["macs"] == row["macs_matmul_and_conv"]
    assert len(described["stages"]) == 4


def test_describe_for_people(capsys):
    status, out, _ = run(capsys, "describe", "small", "--image_size", "160", "--num-classes", "10")
    assert status == 0
    assert "40 x 40" in out
    assert "thirds" in out


REFUSALS = {
    "empty": "unknown topology ''; allowed are seed, small, base, large, or",
    "one number": "unknown topology '8'; allowed are seed, small, base, large, or",
    "unknown name": "unknown topology 'huge'; allowed are seed, small, base, large, or",
    "missing part": "has 4 parts between |, not 5; the form is",
    "extra part": "has 6 parts between |, not 5; the form is",
    "two numbers in a stage": "stage 1 is '8,2': 2 numbers, not 3 or 4; the form is",
    "five numbers in a stage": "stage 1 is '8,2,3,1,1': 5 numbers, not 3 or 4; the form is",
    "letter": "stage 1 holds 'x', which is not a whole number; the form is",
    "decimal": "stage 1 holds '3.0', which is not a whole number; the form is",
    "negative": "stage 1 holds '-3', which is not a whole number; the form is",
    "zero kernel": "kernel_size of stage 1 is 0; allowed are whole numbers from 1 to 32",
    "zero splits": "splits of stage 1 is 0; allowed are whole numbers from 1 to 64",
    "zero depth": "depth of stage 1 is 0; allowed are whole numbers from 1 to 256",
    "zero heads": "num_heads of the topology is 0; allowed are whole numbers from 8 to 1024",
    "heads not divisible by 8": "num_heads is 30; it must be a multiple of 8",
    "more heads than channels": "stage 1 would have 8 heads for 4 channels",
    "width over the cap": "width of the topology is 2048; allowed are whole numbers from 1 to 1024",
    "huge number": "stage 1 holds '99999999999', which is not a whole number; the form is",
    "trailing comma": "stage 1 holds '', which is not a whole number; the form is",
    "other digits": "stage 1 holds '\uff18', which is not a whole number; the form is",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_topologies(capsys, name):
    assert_refused(run(capsys, "describe", "--", MALFORMED[name]), REFUSALS[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "small", "--image-size", "0"], "at least 1"),
        (["describe", "small", "--image-size", "big"], "not a valid integer"),
        (["describe", "small", "--num-classes", "0"], "num_classes"),
        (["describe", "tiny"], "allowed are seed, small, base, large"),
        (["describe"], "Missing argument"),
        (["paint"], "No such command"),
        (["describe", "small", "--colour"], "No such option"),
        (["run"], "Missing option '--output'"),
        (["run", "--output", "x", "--image-size", "0"], "image_size is 0"),
        (["run", "--output", "x", "--data-path", "/nowhere"], "/nowhere is not a folder"),
        (["prepare", "/nowhere", "--output", "x"], "/nowhere is not a folder"),
        (["prepare", "a/" * 2100, "--output", "x"], "a/a/a/a/a/a/a/a/a/a/... has 4199 bytes; allowed are 4095"),
        (["predict", "/nowhere", "a.png"], "not a SavedModel"),
        (["run", "--output", "x", "--seed", "4294967296"], "below 2**31"),
        (["train", "--experiment=nothing", "--mode=train", "--model-dir=x"], "unknown experiment 'nothing'"),
        (["train", "--mode=train", "--model_dir=x"], "Missing option --experiment"),
        (["train", "--experiment=asvit_digits"], "Missing options --mode, --model-dir"),
        (["evaluate"], "Missing options --experiment, --model-dir"),
        (["train", "--mode=paint"], "Invalid value for '--mode': 'paint' is not one of 'train', 'eval'"),
        (["train", "--colour=red"], "No such option '--colour'"),
        (["evaluate", "--experiment=asvit_digits", "--model_dir=x", "--config_file=none.yaml"], "none.yaml"),
        (["evaluate", "--experiment=asvit_digits", "--model_dir=x"], "no checkpoint in x"),
        (["export", "--model-dir", "/nowhere", "--export-dir", "x"], "no params.yaml"),
    ],
)
def test_bad_input(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert_refused(run(capsys, *arguments), message)
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_a_directory(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(run(capsys, "run", "--output", str(tmp_path / "file" / "run")), "cannot write to")
    assert_refused(run(capsys, "run", "--output", str(tmp_path / "file")), "cannot write to")


def test_an_output_that_is_not_writable(capsys):
    assert_refused(run(capsys, "run", "--output", "/proc/sys/run"), "cannot write to")  # Not even root may write there.


def test_describe_starts_without_tensorflow():
    code = (
        "import sys; from asvit_tf import cli; cli.main(['describe', 'large']); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_library_imports_without_the_model_garden():
    code = (
        "import sys; import asvit_tf; asvit_tf.AsViT, asvit_tf.complexity, asvit_tf.ntk, asvit_tf.reference_weights, "
        "asvit_tf.RetokenizationCallback; assert 'official' not in sys.modules and 'orbit' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        (b"", "empty file"),
        (b"not an image", "not an image"),
        (b"\xff\xd8\xff\xe0broken", "truncated or damaged"),
    ],
    ids=["missing", "0 bytes", "text", "truncated"],
)
def test_predict_refuses_what_is_no_image(tmp_path, content, message):
    (tmp_path / "saved_model.pb").write_bytes(b"")  # Images are checked before the model is loaded.
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        predict.predict(str(tmp_path), [str(path)])


def write_image(path, value, form="png"):
    image = tf.fill((8, 8, 3), tf.constant(value, tf.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((tf.io.encode_png if form == "png" else tf.io.encode_jpeg)(image).numpy())


def test_a_folder_of_images_becomes_records_and_corrupt_ones_are_counted(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for i in range(5):
            write_image(
                tmp_path / "images" / name / f"{i}.{'png' if i else 'jpg'}", 100 * label + i, "png" if i else "jpeg"
            )
    (tmp_path / "images/cat/broken.png").write_bytes(b"broken")
    (tmp_path / "images/cat/notes.txt").write_text("no image")
    write_image(tmp_path / "images" / ".hidden" / "0.png", 0)
    odd = tmp_path / "images" / "dog" / os.fsdecode(b"caf\xe9.png")
    (tmp_path / "images/dog/4.png").rename(odd)
    dataset = data.prepare(tmp_path / "data", tmp_path / "images")
    assert dataset.class_names == ("cat", "dog")
    assert (dataset.train_examples, dataset.validation_examples) == (8, 2)
    assert dataset.skipped == ("cat/broken.png",)
    assert data.prepare(tmp_path / "data", tmp_path / "images") == dataset
    images, skipped = sample(Source(data_path=dataset.train_path), 8, (4, 6), seed=0)
    assert not skipped.reasons
    assert images.shape == (8, 4, 6, 3)
    # Normalized by ImageNet's mean and deviation: of the eight, those of one class lie below the other's.
    expected = (np.float32([4, 104]) - 123.675) / 58.395
    assert images[..., 0].min() < expected[0] + 0.1
    assert images[..., 0].max() > expected[1] - 0.1


def test_prepare_command_with_given_splits_and_shards(tmp_path, capsys):
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                write_image(tmp_path / "images" / split / name / f"{i}.png", 100 * label + i)
    arguments = ["prepare", str(tmp_path / "images"), "--output", str(tmp_path / "out")]
    assert cli.main([*arguments, "--shards", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["train_examples"], result["validation_examples"]) == (6, 4)
    for path, names in ((result["train_path"], "train"), (result["validation_path"], "val")):
        files = tf.io.gfile.glob(path)
        assert len(files) == 2
        examples = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(files)]
        assert all(
            e.features.feature["image/filename"].bytes_list.value[0].decode().startswith(names + "/") for e in examples
        )
    assert cli.main(arguments) == 2
    assert "exists; choose another" in capsys.readouterr().err
    (tmp_path / "images/val/dog").rename(tmp_path / "images/val/wolf")
    assert cli.main([*arguments[:-1], str(tmp_path / "other")]) == 2
    assert "do not have the same class folders" in capsys.readouterr().err


def test_a_class_without_a_readable_image_is_refused(tmp_path):
    write_image(tmp_path / "images/cat/0.png", 1)
    write_image(tmp_path / "images/cat/1.png", 2)
    for i in range(2):
        (tmp_path / "images/dog").mkdir(exist_ok=True)
        (tmp_path / f"images/dog/{i}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"class 'dog' has no image that can be .* \(2 not an image that Pi"):
        data.prepare(tmp_path / "data", tmp_path / "images")
    assert not (tmp_path / "data").exists()


def test_the_digits_have_a_fixed_stratified_split(tmp_path):
    dataset = data.prepare(tmp_path / "data")
    assert (dataset.train_examples, dataset.validation_examples) == (1438, 359)
    labels = {}
    for path in (dataset.train_path, dataset.validation_path):
        examples = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(path)]
        names = [e.features.feature["image/filename"].bytes_list.value[0] for e in examples]
        labels[path] = (names, [e.features.feature["image/class/label"].int64_list.value[0] for e in examples])
    (train_names, train_labels), (held_names, held_labels) = labels.values()
    assert not set(train_names) & set(held_names)
    assert len(set(train_names + held_names)) == 1797
    shares = np.bincount(held_labels) / np.bincount(train_labels + held_labels)
    np.testing.assert_allclose(shares, 0.2, atol=0.003)
    assert data.prepare(tmp_path / "again").train_examples == 1438
    assert (tmp_path / "again/validation.tfrecord").read_bytes() == (tmp_path / "data/validation.tfrecord").read_bytes()


@pytest.mark.parametrize(
    ("classes", "message"),
    [({}, "0 subfolders"), ({"a": 3}, "a single class cannot be learned"), ({"a": 3, "b": 1}, "class 'b' has 1")],
)
def test_folders_that_hold_no_classes_are_refused(tmp_path, classes, message):
    (tmp_path / "images").mkdir()
    for name, count in classes.items():
        for i in range(count):
            write_image(tmp_path / "images" / name / f"{i}.png", i)
    with pytest.raises(UserError, match=message):
        data.prepare(tmp_path / "data", tmp_path / "images")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "arguments",
    [["run", "--data-path", "{images}"], ["study", "--data-path", "{images}"], ["prepare", "{images}"]],
    ids=lambda arguments: arguments[0],
)
def test_a_single_class_ends_before_any_work(capsys, tmp_path, arguments):
    write_image(tmp_path / "images/cat/0.png", 1)
    write_image(tmp_path / "images/cat/1.png", 2)
    target = "--save-dir" if arguments[0] == "study" else "--output"
    arguments = [argument.format(images=tmp_path / "images") for argument in arguments]
    status, out, err = run(capsys, *arguments, target, str(tmp_path / "out"))
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        f"asvit: {tmp_path / 'images'} has one subfolder, 'cat'; a single class cannot be learned; expected at least "
        "two, one for each class"
    ]
    assert not (tmp_path / "out").exists()


def test_golden_files_are_complete():
    assert {path.name for path in DATA.glob("*.npz")} == {
        f"{n}.npz" for n in ("seed_h8_64", "ape_h12_96", "windows_h8_64")
    }


def test_prepare_refuses_splits_it_does_not_know(tmp_path, capsys):
    """Or their folders would be taken for two classes."""
    for split, name in itertools.product(("val", "test"), ("cat", "dog")):
        (tmp_path / "images" / split / name).mkdir(parents=True)
    assert cli.main(["prepare", str(tmp_path / "images"), "--output", str(tmp_path / "data")]) == 2
    assert "name the splits train and one of validation, val, valid" in capsys.readouterr().err


def write_images(folder, side, encode):
    """Three images of noise in each of two folders."""
    for name, seed in itertools.product(("cat", "dog"), range(3)):
        pixels = tf.constant(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8))
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{seed}.jpg").write_bytes(encode(name, seed)(pixels).numpy())


def test_prepare_prints_the_flag_that_pngs_need(tmp_path, capsys):
    def one_png(name, seed):
        return tf.io.encode_png if (name, seed) == ("dog", 1) else tf.io.encode_jpeg

    write_images(tmp_path / "images", 8, one_png)
    assert cli.main(["prepare", str(tmp_path / "images"), "--output", str(tmp_path / "data")]) == 0
    assert "task.validation_data.decode_jpeg_only=false" in capsys.readouterr().out


def test_prepare_on_a_full_disk_leaves_nothing(tmp_path, capsys):
    write_images(tmp_path / "images", 99, lambda name, seed: tf.io.encode_png)
    with files_no_larger_than(30_000):
        assert cli.main(["prepare", str(tmp_path / "images"), "--output", str(tmp_path / "data")]) == 1
    assert "no room is left" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
