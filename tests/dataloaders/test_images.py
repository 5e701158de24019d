"""Images for the measures from every kind of place."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from asvit_tf import UserError, cli
from asvit_tf.dataloaders import classification as data
from asvit_tf.dataloaders.imagefiles.skipped import Skipped
from asvit_tf.dataloaders.images import Source, sample

MEAN, DEVIATION = 123.675, 58.395  # ImageNet's, of red: what the input pipeline normalizes by.


def png(shade):
    return tf.io.encode_png(np.full((9, 7, 3), shade, np.uint8)).numpy()


def shades(images):
    """The grey shade of each image, by its middle pixel's red."""
    return sorted(np.round(images[:, 2, 2, 0] * DEVIATION + MEAN).astype(int).tolist())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for shade in (10, 20, 30):
        (tmp_path / "images" / f"{shade}.png").write_bytes(png(shade))
    (tmp_path / "images/deep/40.png").write_bytes(png(40))
    again = tf.io.encode_png(np.full((9, 7, 3), 40, np.uint8), compression=0).numpy()  # Other bytes, same pixels.
    (tmp_path / "images/deep/again.png").write_bytes(again)
    (tmp_path / "images/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    return tmp_path / "images"


def test_a_folder_needs_no_labels(folder):
    images, skipped = sample(Source(data_path=str(folder)), 4, (5, 5), seed=0)
    assert images.shape == (4, 5, 5, 3)
    assert images.dtype == np.float32
    assert shades(images) == [10, 20, 30, 40]
    assert len(skipped.files) <= 1
    with pytest.raises(UserError, match=r"5 different images are needed, 4 were found \(1 files could not be decoded"):
        sample(Source(data_path=str(folder)), 5, (5, 5), seed=0)


def test_the_seed_decides(folder):
    draws = {tuple(shades(sample(Source(data_path=str(folder)), 2, (5, 5), seed)[0])) for seed in range(8)}
    assert len(draws) > 1
    first, again = (sample(Source(dataset="digits"), 3, (8, 8), 1)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_records(tmp_path):
    for shard in range(2):
        with tf.io.TFRecordWriter(str(tmp_path / f"train-{shard}.tfrecord")) as writer:
            for shade in (1 + shard, 11 + shard):
                feature = {"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png(shade)]))}
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    images, _ = sample(Source(data_path=str(tmp_path / "train-*.tfrecord")), 4, (5, 5), seed=0)
    assert shades(images) == [1, 2, 11, 12]
    (tmp_path / "text.tfrecord").write_text("no records " * 20)
    with pytest.raises(UserError, match=r"text.tfrecord holds no TFRecords"):
        sample(Source(data_path=str(tmp_path / "text.tfrecord")), 2, (5, 5), seed=0)


def test_a_prepared_tfds(tmp_path):
    def examples(first):
        shades = range(first, first + 3)
        return tf.data.Dataset.from_tensor_slices({"image": [np.full((9, 7, 3), shade, np.uint8) for shade in shades]})

    tfds.dataset_builders.store_as_tfds_dataset(
        name="shades",
        version="1.0.0",
        data_dir=tmp_path,
        features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(9, 7, 3))}),
        split_datasets={"train": examples(50), "test": examples(100)},
    )
    for name in ("shades", "shades:1.0.0"):
        assert shades(sample(Source(dataset=name, data_dir=str(tmp_path)), 3, (5, 5), seed=0)[0]) == [50, 51, 52]


def test_noise_is_normal():
    images, skipped = sample(Source(dataset="noise"), 4, (32, 32), seed=3)
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05
    assert skipped == Skipped()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a dataset or a data_path"),
        ({"dataset": "digits", "data_path": "."}, "either a dataset or a data_path"),
        (
            {"dataset": "no_such_data"},
            "'no_such_data' is not prepared in .*allowed without data are digits, cluttered_digits, noise",
        ),
        ({"data_path": "no/such/folder"}, "no/such/folder has no images"),
        ({"data_path": "EMPTY"}, "has no images"),
    ],
)
def test_places_without_images_are_refused_at_once(tmp_path, options, message):
    if options.get("data_path") == "EMPTY":
        options = {"data_path": str(tmp_path)}
    with pytest.raises(UserError, match=message):
        Source(**options)


def test_one_image_is_not_enough(tmp_path):
    (tmp_path / "one.png").write_bytes(png(1))
    with pytest.raises(UserError, match="16 different images are needed, 1 were found"):
        sample(Source(data_path=str(tmp_path)), 16, (5, 5), seed=0)


SMALL = ["4,2,2|2,1,2|2,1,2|2,1,2|16,8", "--image-size", "16", "--points", "4", "--batch_size", "3"]


def test_complexity_command(folder, capsys):
    assert cli.main(["complexity", *SMALL, "--data_path", str(folder), "--repeats", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = {"length_distortion", "curvature", "length_distortion_with_curvature", "ntk_condition_number"}
    assert names | {"turning_number", "seconds"} <= set(result)
    assert {"trace", "forward", "measures", "ntk"} == set(result["seconds"])
    assert names <= set(result["standard_errors"])
    assert isinstance(result["linear"], bool) or result["linear"] is None
    assert result["turning_number"] == pytest.approx(result["length_distortion_with_curvature"] / (2 * np.pi))
    assert cli.main(["complexity", *SMALL, "--normalization", "layer", "--initialization=lecun", "--repeats=1"]) == 0
    printed = capsys.readouterr().out
    assert "turning number" in printed
    assert "ntk_condition_number" in printed


def test_an_undefined_measure_is_null_with_its_reason(monkeypatch, capsys):
    monkeypatch.setattr(
        "asvit_tf.dataloaders.images.sample", lambda *_, **__: (np.zeros((3, 16, 16, 3), np.float32), Skipped())
    )
    assert cli.main(["complexity", *SMALL, "--repeats", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ntk_condition_number"] is None
    assert result["undefined"]["ntk_condition_number"]["repeats"] == 2
    assert "alike" in result["undefined"]["ntk_condition_number"]["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny"], "topology 'tiny'"),
        (["seed", "--radius", "two"], "'two' is not one of 'sqrt_n', 'unit'"),
        (["seed", "--points", "2"], "2 is not in the range x>=3"),
        (["seed", "--batch_size", "1"], "1 is not in the range x>=2"),
        (["seed", "--dataset", "no_such_data"], "is not prepared in"),
        (["seed", "--engine", "reverse"], "'jet', 'accumulator', 'tape'"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert cli.main(["complexity", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_digits_are_the_embedded_ones():
    images, _ = sample(Source(dataset="digits"), 5, (32, 32), seed=0)
    pixels = np.round(images * np.float32([58.395, 57.12, 57.375]) + np.float32([123.675, 116.28, 103.53]))
    shown = {tf.io.decode_png(example.contents).numpy().tobytes() for example in data.digits()}
    assert {image.astype(np.uint8).tobytes() for image in pixels} <= shown


def test_what_cannot_be_read_of_a_folder_is_named(folder):
    (folder / "page.png").write_text("<html>404</html>")
    (folder / "deep/scan.tiff").symlink_to(folder / "nothing")
    (folder / "notes.txt").write_text("a note")
    with pytest.raises(UserError, match=r"5 different images are needed, 4 were found \(3 files could not be decoded"):
        sample(Source(data_path=str(folder)), 5, (5, 5), seed=0)
    (folder / "50.png").write_bytes(png(50))
    seen = [sample(Source(data_path=str(folder)), 5, (5, 5), seed)[1] for seed in range(6)]
    assert all(skipped.others == {"not an image that Pillow reads": 1} for skipped in seen)
    assert {row for skipped in seen for row in skipped.files} == {
        ("broken.jpg", "truncated or damaged"),
        ("page.png", "not an image that Pillow reads"),
        ("deep/scan.tiff", "cannot be read (No such file or directory)"),
    }
