"""Training data and surroundings that are missing, wrong or full: one line, and before training where possible."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from helpers import TINY, digits_experiment, files_no_larger_than, records
from official.core import task_factory
from official.vision.dataloaders import tfds_classification_decoders

from asvit_tf import UserError, cli
from asvit_tf.dataloaders import classification as data
from asvit_tf.dataloaders import inputs
from asvit_tf.errors import StoppedError
from asvit_tf.training import run as train


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("digits") / "data")


def experiment(digits, task=None, **trainer):
    section = {"global_batch_size": 16, "shuffle_buffer_size": 50}
    own = {"losses": {"one_hot": True}, "train_data": section, "validation_data": section}
    trainer = {"validation_interval": 2, "optimizer_config": {"warmup": {"linear": {"warmup_steps": 1}}}, **trainer}
    return digits_experiment(digits, 2, 1, {"task": own, "trainer": trainer}, {"task": task or {}})


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Record files that are wrong in one way each."""
    root = tmp_path_factory.mktemp("bad")
    (root / "text").write_text("no records")
    (root / "empty").write_bytes(b"")
    records(root / "labels", [1, 10])
    records(root / "unlabelled", [-1])
    records(root / "late", [1] * 99 + [10])
    with tf.io.TFRecordWriter(str(root / "imageless")) as writer:
        feature = {"image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))}
        writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    records(root / "broken", [1] * 9, b"\xff\xd8\xff no image")
    records(root / "cut", [1] * 99)
    (root / "cut").write_bytes((root / "cut").read_bytes()[:-100])
    records(root / "png", [1], tf.io.encode_png(np.zeros((32, 32, 3), np.uint8)).numpy())
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_path": ""}, "task.train_data has no data; set task.train_data.input_path"),
        ({"input_path": "nowhere/train-*"}, "nowhere/train-\\* does not match any files"),
        ({"input_path": "nowhere/train"}, "nowhere/train does not exist"),
        ({"input_path": "{bad}/labels,{bad}/gone"}, "gone does not exist"),
        ({"input_path": "{bad}/text"}, "text holds no TFRecords with image/encoded and image/class/label"),
        ({"input_path": "{bad}/empty"}, "empty holds no TFRecords"),
        ({"input_path": "{bad}/labels"}, "labels from 1 to 10; allowed by task.model.num_classes are 0 to 9"),
        ({"input_path": "{bad}/unlabelled"}, "labels from -1"),
        ({"input_path": "{bad}/imageless"}, "imageless holds no TFRecords"),
        ({"input_path": "{bad}/png", "decode_jpeg_only": True}, "set task.train_data.decode_jpeg_only=false"),
        ({"input_path": "", "tfds_name": "no_such_data"}, "'no_such_data' is not prepared in"),
        ({"tfds_name": "no_such_data"}, "both input_path and tfds_name"),
        ({"global_batch_size": 0}, "global_batch_size is 0"),
    ],
)
def test_data_that_cannot_be_read_are_refused_before_training(digits, bad, tmp_path, change, message):
    change = {name: value.format(bad=bad) if isinstance(value, str) else value for name, value in change.items()}
    with pytest.raises(UserError, match=message):
        train.run(experiment(digits, {"train_data": change}), str(tmp_path), "train")
    assert not list(tmp_path.iterdir())


def test_a_wrong_label_that_comes_late_ends_the_training(digits, bad, tmp_path):
    """One-hot encoding would make a row of zeros of it."""
    params = experiment(digits, {"train_data": {"input_path": str(bad / "late")}}, train_steps=10)
    with pytest.raises(UserError, match="a label belongs to none of the classes; allowed are 0 to 9"):
        train.run(params, str(tmp_path), "train")


@pytest.mark.parametrize(
    ("file", "message"),
    [("broken", "an image of the data cannot be decoded"), ("cut", r"the data are damaged: .*record")],
)
def test_data_that_turn_out_damaged_end_the_training(digits, bad, tmp_path, file, message):
    task = {"train_data": {"input_path": str(bad / file), "decode_jpeg_only": file == "broken"}}
    with pytest.raises(UserError, match=message):
        train.run(experiment(digits, task, train_steps=30), str(tmp_path), "train")


def tiles_of():
    """Forty images, each of one shade, and their labels."""
    generator = np.random.default_rng(0)
    shades = generator.permutation(np.arange(20, 220, 5))
    images = np.broadcast_to(shades[:, None, None, None], (40, 36, 33, 3)).astype(np.uint8)
    return {"image": images, "label": generator.integers(10, size=40)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set as TensorFlow Datasets keeps it; no network, and none of the Model Garden's list."""
    directory = tmp_path_factory.mktemp("tfds")
    tiles = tiles_of()
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiles",
        version="1.0.0",
        data_dir=directory,
        features=tfds.features.FeaturesDict(
            {"image": tfds.features.Image(shape=(36, 33, 3)), "label": tfds.features.ClassLabel(num_classes=10)}
        ),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(tiles)},
    )
    return str(directory)


def of_tfds(prepared, **changes):
    section = {
        "input_path": "",
        "tfds_name": "tiles",
        "tfds_split": "train[:40%]+train[60%:]",
        "tfds_data_dir": prepared,
    }
    return {"train_data": {**section, **changes}, "validation_data": {**section, "tfds_split": "train[80%:]"}}


def test_a_local_tfds_trains_and_is_evaluated(digits, prepared, tmp_path):
    params = experiment(digits, of_tfds(prepared))
    known = dict(tfds_classification_decoders.TFDS_ID_TO_DECODER_MAP)
    metrics = train.run(params, str(tmp_path), "train_and_eval")
    assert np.isfinite(metrics["validation_loss"])
    assert known == tfds_classification_decoders.TFDS_ID_TO_DECODER_MAP


def test_a_local_tfds_is_read_with_its_own_labels(digits, prepared):
    params = experiment(digits, of_tfds(prepared, tfds_split="train"))
    params.task.train_data.override({"is_training": False, "drop_remainder": False})
    read = [
        (int(label), round(float(image[5, 5, 0]) * 58.395 + 123.675))  # ImageNet's deviation and mean of red.
        for images, labels in task_factory.get_task(params.task).build_inputs(params.task.train_data)
        for image, label in zip(images, np.argmax(labels, -1) if labels.shape.rank == 2 else labels)
    ]
    tiles = tiles_of()
    expected = dict(zip(tiles["image"][:, 5, 5, 0].tolist(), tiles["label"].tolist()))
    assert len(read) == 40
    # A JPEG turns a shade by one at most; shades are five apart.
    assert {5 * round(shade / 5): label for label, shade in read} == expected


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"tfds_split": "training"}, 10, "tfds_split is 'training'; allowed are parts of train"),
        ({}, 9, "'tiles' has 10 classes, the model 9"),
    ],
)
def test_a_tfds_that_does_not_fit_is_refused(digits, prepared, tmp_path, changes, classes, message):
    task = {**of_tfds(prepared, **changes), "model": {"num_classes": classes}}
    with pytest.raises(UserError, match=message):
        train.run(experiment(digits, task), str(tmp_path), "train")


@pytest.fixture(scope="module")
def two_steps(digits, tmp_path_factory):
    """A training of two steps."""
    model_dir = tmp_path_factory.mktemp("two_steps")
    train.run(experiment(digits), str(model_dir), "train")
    return model_dir


@pytest.fixture
def trained(two_steps, tmp_path):
    """A copy of it, in the test's directory."""
    return shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)


def test_a_checkpoint_of_another_topology_is_not_continued(digits, trained, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = {"model": {"backbone": {"asvit": {"topology": TINY.replace("8,8", "8,12")}}}}
    with pytest.raises(UserError, match=r"ckpt-2 is of another network: .* has shape .* there, .* here"):
        train.run(experiment(digits, other, train_steps=4), str(tmp_path), "train")
    assert all(path.read_bytes() == contents for path, contents in before.items())


def test_a_full_disk_loses_nothing_that_was_saved(digits, trained, tmp_path):
    saved = tf.train.latest_checkpoint(tmp_path)
    assert saved.endswith("ckpt-2")
    with (
        files_no_larger_than(100_000),
        pytest.raises(StoppedError, match=r"no room is left; .*continues from .*ckpt-2"),
    ):
        train.run(experiment(digits, train_steps=4), str(tmp_path), "train")
    assert tf.train.latest_checkpoint(tmp_path) == saved
    train.run(experiment(digits, train_steps=4), str(tmp_path), "train")
    assert tf.train.latest_checkpoint(tmp_path).endswith("ckpt-4")


@pytest.mark.parametrize(
    ("trainer", "task", "message"),
    [
        ({"steps_per_loop": 0}, {}, "steps_per_loop is 0"),
        ({"train_steps": -1}, {}, "train_steps is -1"),
        ({"steps_per_loop": 2, "summary_interval": 3}, {}, "summary_interval is 3; it must be a multiple"),
        ({"validation_steps": 0}, {}, "validation_steps is 0"),
        ({"optimizer_config": {"learning_rate": {"cosine": {"decay_steps": None}}}}, {}, "no decay_steps"),
        ({"optimizer_config": {"warmup": {"linear": {"warmup_steps": None}}}}, {}, "no warmup_steps"),
        (
            {"best_checkpoint_export_subdir": "best", "best_checkpoint_eval_metric": "acc"},
            {},
            "allowed are accuracy, balanced_accuracy, top_5_accuracy, validation_loss",
        ),
        ({}, {"losses": {"one_hot": False, "soft_labels": True}}, "soft_labels=True and one_hot=False without"),
        ({}, {"train_data": {"mixup_and_cutmix": {"mixup_alpha": 0.8}}}, "one_hot=True with train_data.mixup"),
    ],
)
def test_contradictory_settings_are_refused(digits, tmp_path, trainer, task, message):
    with pytest.raises(UserError, match=message):
        train.run(experiment(digits, task, **trainer), str(tmp_path), "train_and_eval")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ({"distribution_strategy": "several"}, "allowed are tpu, mirrored,"),
        ({"distribution_strategy": "mirrored", "num_gpus": 8}, "num_gpus is 8, this machine has 0"),
    ],
)
def test_hardware_that_is_not_there(digits, tmp_path, runtime, message):
    params = experiment(digits)
    params.override({"runtime": runtime})
    with pytest.raises(UserError, match=message):
        train.run(params, str(tmp_path), "train")


def test_a_model_dir_that_is_a_file(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file"):
        train.run(experiment(digits), str(tmp_path / "file"), "train")


def test_evaluating_no_batch_is_no_accuracy(digits, tmp_path):
    params = experiment(digits, {"validation_data": {"global_batch_size": 1000, "drop_remainder": True}})
    with pytest.raises(UserError, match="nothing was evaluated"):
        train.run(params, str(tmp_path), "train_and_eval")


def test_a_loss_that_is_no_number_ends_the_training(digits, tmp_path):
    params = experiment(digits, train_steps=30)
    params.trainer.override({"optimizer_config": {"learning_rate": {"cosine": {"initial_learning_rate": 1e30}}}})
    with pytest.raises(StoppedError, match="the loss is not a number"):
        train.run(params, str(tmp_path), "train")


def test_a_damaged_checkpoint_is_named(digits, trained, tmp_path):
    (file,) = tmp_path.glob("ckpt-2.data*")
    contents = bytearray(file.read_bytes())
    for damaged in (contents[: len(contents) // 2], bytes(len(contents))):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"checkpoint .*ckpt-2 is damaged"):
            train.run(experiment(digits), str(tmp_path), "eval")


def test_a_checkpoint_of_another_optimizer_is_not_continued(digits, trained, tmp_path):
    params = experiment(digits, train_steps=4)
    params.trainer.override({"optimizer_config": {"ema": {"average_decay": 0.9}}})
    with pytest.raises(UserError, match="ckpt-2 has no average of the optimizer"):
        train.run(params, str(tmp_path), "eval")


def test_soft_labels_pass_the_check_and_others_do_not():
    """Mixed, smoothed and in half precision they still add up to one."""
    rows = 0.9 * (0.3 * tf.one_hot([1, 2], 10) + 0.7 * tf.one_hot([3, 3], 10)) + 0.1 / 10
    images = tf.zeros((2, 4))
    for dtype in (tf.float32, tf.bfloat16):
        good = tf.data.Dataset.from_tensors((images, tf.cast(rows, dtype)))
        assert len(list(inputs.checked_labels(good, 10))) == 1
        for bad in (rows * tf.constant([[1.0], [0.7]]), tf.zeros_like(rows)):
            dataset = tf.data.Dataset.from_tensors((images, tf.cast(bad, dtype)))
            with pytest.raises(tf.errors.InvalidArgumentError, match=inputs.LABEL_PROBLEM):
                list(inputs.checked_labels(dataset, 10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=train_and_validate"], "'train_and_validate' is not one of 'train', 'eval', 'train_and_eval', "),
        (["--mode=training"], "'training' is not one of 'train', 'eval', "),
        (["--mode=train", "--params_override=trainer.trainsteps=3"], "no field 'trainsteps'; did you mean train_steps"),
        (["--mode=train", "--config_file=UNKNOWN"], "'learning_speed'; its fields are allow_tpu_summary"),
        (["--mode=train", "--config_file=nowhere.yaml"], "nowhere.yaml"),
        (["--mode=train", "--params_override=task.train_data.input_path=nowhere"], "train_steps is 0"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, capsys, arguments, message):
    (tmp_path / "unknown.yaml").write_text(json.dumps({"trainer": {"learning_speed": 3}}))
    arguments = [argument.replace("UNKNOWN", str(tmp_path / "unknown.yaml")) for argument in arguments]
    status = cli.main(["train", "--experiment=asvit_digits", f"--model_dir={tmp_path / 'model'}", *arguments])
    assert status == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("asvit: ")
    assert message in line
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("cores", "tuned"), [(2, False), (16, False), (17, True)])
def test_pipelines_are_tuned_where_tensorflow_would_use_too_few_cores(digits, cores, tuned, monkeypatch):
    """Elsewhere the end of an iterator would wait for the thread that tunes."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    task = task_factory.get_task(digits_experiment(digits, 2, 1).task)
    for section in (task.task_config.train_data, task.task_config.validation_data):
        options = task.build_inputs(section).options()
        assert (options.autotune.enabled is not False) == tuned
