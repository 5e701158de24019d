"""Answers to held-out images: in the order of their records, of the right weights, with pictures that stand upright."""

import copy
import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
from helpers import TINY
from official.core import task_factory
from official.vision.dataloaders import classification_input
from PIL import Image, ImageOps

from asvit_tf import UserError
from asvit_tf.dataloaders import classification as data
from asvit_tf.design.topology import Topology
from asvit_tf.serving import held_out
from asvit_tf.tasks import plans

SIDE = 32
TURNED = 6  # EXIF: the rows of the file are columns of the image, from its right side on.


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Folder, data set in two files a split, experiment, Python model, checkpoint, answers."""
    root = tmp_path_factory.mktemp("asked")
    for label, name in enumerate(("dark", "light")):
        (root / "images" / name).mkdir(parents=True)
        for i in range(45):
            generator = np.random.default_rng([label, i])
            pixels = generator.integers(0, 90, (SIDE, SIDE, 3)) + 100 * label
            pixels[: SIDE // 4] = 255 - 50 * label  # A bright bar at the top: no turn and no mirror leaves it there.
            image = Image.fromarray(pixels.astype(np.uint8))
            if i % 3:
                image.save(root / "images" / name / f"{i}.png")
            else:
                exif = Image.Exif()
                exif[0x0112] = TURNED
                image.rotate(90).save(root / "images" / name / f"{i}.jpg", exif=exif, quality=95)
    dataset = data.prepare(root / "data", root / "images", shards=2)
    plan = plans.Plan(image_size=(SIDE, SIDE), seed=1, epochs=1, batch_size=8)
    params = plans.classifier(plan, dataset, Topology.parse(TINY))
    params.task.validation_data.global_batch_size = 4
    model = task_factory.get_task(params.task).build_model()
    bias = model.trainable_variables[-1]
    assert bias.shape == (2,)
    bias.assign([3.0, -3.0])  # So that it takes every light image for a dark one.
    checkpoint = tf.train.Checkpoint(model=model).save(str(root / "ckpt"))
    return (
        root / "images",
        dataset,
        params,
        model,
        checkpoint,
        held_out.predict(params, dataset.validation_path, checkpoint),
    )


def records(dataset):
    """Label, name and contents of every validation image, one file after the other."""
    for file in sorted(tf.io.gfile.glob(dataset.validation_path)):
        for record in tf.data.TFRecordDataset(file):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            yield (
                feature["image/class/label"].int64_list.value[0],
                feature["image/filename"].bytes_list.value[0].decode(),
                feature["image/encoded"].bytes_list.value[0],
            )


def test_every_image_is_asked_once_in_the_order_of_the_records(asked):
    _, dataset, _, model, _, answers = asked
    labels, names, images = zip(*records(dataset))
    assert len(labels) == dataset.validation_examples == 18
    assert answers.labels.tolist() == list(labels)
    assert answers.sources.tolist() == list(names)
    parse = classification_input.Parser([SIDE, SIDE], 2, aug_crop=False, decode_jpeg_only=False).parse_fn(False)
    parsed = [parse({"image/encoded": tf.constant(image), "image/class/label": 0})[0] for image in images]
    expected = tf.nn.softmax(model(tf.stack(parsed), training=False)).numpy()
    assert len(np.unique(expected.round(7), axis=0)) == 18  # Images are told apart.
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-6)
    assert answers.accuracy == np.mean(expected.argmax(1) == labels)


def test_a_network_of_a_tpu_is_asked_in_float32_on_a_cpu(asked, monkeypatch):
    """It answers as one that never saw bfloat16, whose rounding is larger; so do its images, for TFLite."""
    _, dataset, params, _, checkpoint, answers = asked
    params = copy.deepcopy(params)
    params.runtime.mixed_precision_dtype = params.task.validation_data.dtype = "bfloat16"
    found = held_out.predict(params, dataset.validation_path, checkpoint)
    np.testing.assert_allclose(found.probabilities, answers.probabilities, atol=1e-6)
    np.testing.assert_array_equal(found.pictures, answers.pictures)
    _, pixels = held_out.first_images(params, dataset.validation_path, 3)
    np.testing.assert_array_equal(pixels, held_out.first_images(asked[2], dataset.validation_path, 3)[1])
    # Where there is a GPU, in what it was evaluated in.
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: ["GPU:0"])
    rounded = held_out.predict(params, dataset.validation_path, checkpoint)
    assert np.abs(rounded.probabilities - answers.probabilities).max() > 5e-6
    np.testing.assert_allclose(rounded.probabilities, answers.probabilities, atol=0.05)


def test_pictures_of_mistakes_are_what_the_network_saw(asked):
    """Pillow reads the files and turns them by their EXIF; half of a grey level is lost by rounding, more by JPEG."""
    folder, _, _, _, _, answers = asked
    wrong = np.flatnonzero(answers.predicted != answers.labels)
    assert 0 < len(answers.mistakes) == min(len(wrong), held_out.PICTURES)
    sure = answers.probabilities[answers.mistakes].max(1)
    assert (np.diff(sure) <= 0).all()
    assert sure[-1] >= np.sort(answers.probabilities[wrong].max(1))[::-1][len(sure) - 1]
    kinds = set()
    for place, picture in zip(answers.mistakes, answers.pictures):
        name = answers.sources[place]
        kinds.add(name[-3:])
        expected = np.asarray(ImageOps.exif_transpose(Image.open(folder / name)).convert("RGB"), np.float32)
        assert np.abs(picture - expected).mean() < (0.51 if name.endswith("png") else 4)
        assert picture[: SIDE // 4].mean() > picture[SIDE // 4 :].mean() + 30
    assert kinds == {"png", "jpg"}


def test_what_is_kept_is_read_again_and_damage_is_named(asked, tmp_path):
    answers = asked[-1]
    file = tmp_path / "validation.npz"
    answers.save(file)
    kept = held_out.Predictions.load(file)
    for field in dataclasses.fields(answers):
        np.testing.assert_array_equal(getattr(kept, field.name), getattr(answers, field.name))
    assert os.listdir(tmp_path) == ["validation.npz"]
    contents = file.read_bytes()
    for damaged in (contents[:-100], contents[: len(contents) // 2], b"", b"nothing", contents[:200] + contents[400:]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged; remove it, and asvit report makes it again"):
            held_out.Predictions.load(file)


def test_a_fingerprint_is_that_of_the_weights(asked, tmp_path):
    _, _, _, model, checkpoint, answers = asked
    assert answers.checkpoint == held_out.fingerprint(checkpoint)
    again = tf.train.Checkpoint(model=model).write(str(tmp_path / "again"))
    other = [variable for variable in model.trainable_variables if "bias" in variable.name][-1]
    before = other.numpy()
    other.assign_add(tf.ones_like(other))
    changed = tf.train.Checkpoint(model=model).write(str(tmp_path / "changed"))
    other.assign(before)
    assert len({held_out.fingerprint(path) for path in (again, changed)}) == 2


def test_first_images_are_repeated_where_there_are_too_few(asked):
    _, dataset, params, _, _, answers = asked
    encoded, pixels = held_out.first_images(params, dataset.validation_path, 20)
    images = [image for _, _, image in records(dataset)]
    assert encoded == images + images[:2]
    assert pixels.shape == (20, SIDE, SIDE, 3)
    np.testing.assert_allclose(pixels[18:], pixels[:2])
    for place, picture in zip(answers.mistakes, answers.pictures):
        np.testing.assert_allclose(pixels[place], picture, atol=0.51)
    assert held_out.first_images(params, dataset.validation_path, 3)[0] == images[:3]
