"""`asvit run` with everything that a user may ask for at once: hours, a recipe, images that are not square.

What search and growth measure is a stand-in here; the training, the evaluation and the export are real.
"""

import contextlib
import errno
import io
import json
import os
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf
import yaml
from sklearn import datasets

from asvit_tf import Topology, cli, journals
from asvit_tf.cli import running
from asvit_tf.design import retokenization
from asvit_tf.serving import export, latency
from asvit_tf.tasks import photographs
from search.runs import designing, pipeline, speeds, timetable
from search.scoring.score import Score

OF_TRAINING = ["--batch-size", "8", "--seed", "3", "--retokenization", "published", "--json"]
OPTIONS = ["--image-size", "32x48", "--score-batch", "2", "--width", "16", *OF_TRAINING]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Zeros and ones in two colours, wide images, three times as many of one as of the other."""
    root = tmp_path_factory.mktemp("images")
    digits = datasets.load_digits(n_class=2)
    for label, (name, count) in enumerate((("zero", 60), ("one", 20))):
        (root / name).mkdir()
        for i, image in enumerate(digits.images[digits.target == label][:count]):
            colours = tf.one_hot(label, 3, 15.0, 3.0)
            pixels = tf.cast(tf.image.resize(image[..., None] * colours, (30, 44)), tf.uint8)
            (root / name / f"{i}.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return root


class Sizes:
    """Scores by the size of a topology, at once."""

    def __call__(self, topologies):
        for topology in topologies:
            size = sum(topology.depths) * topology.width + topology.stages[0].kernel_size
            yield Score({"length_distortion": float(size), "ntk_condition_number": 1.0 / size}, {}, 0.0)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """Directory and result of a run of three minutes, which trains for three epochs at the most."""
    output = tmp_path_factory.mktemp("runs") / "timed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(designing, "scoring", lambda *_: contextlib.nullcontext(Sizes()))
        patch.setattr(speeds, "_ENOUGH_EPOCHS", 3)
        patch.setattr(speeds, "_MEMBER_EPOCHS", 3)
        patch.setattr(photographs, "epochs", lambda examples: 3)
        patch.setattr(timetable, "MOST_EPOCHS", 3)
        patch.setattr(timetable, "MOST_STEPS", 5)
        arguments = ["--data-path", str(folder), "--hours", "0.05", "--budget", "0.45", "--balanced", *OPTIONS]
        fields = ["--params-override", "task.losses.label_smoothing=0.05"]
        status, out = run(["--output", str(output), *arguments, *fields])
    assert status == 0
    return output, json.loads(out)


def run(arguments):
    """Status, and what goes to standard output; of the published phases two, since each is traced again and again."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(retokenization, "LEAST_GRID", 8)
        patch.setattr(latency, "_MOST", latency._LEAST)
        status = cli.main(["run", *arguments])
    return status, out.getvalue()


def test_hours_decide_steps_member_and_epochs(finished):
    output, result = finished
    decided = json.loads((output / "timetable.json").read_text())
    assert decided["search_steps"] == 5
    assert decided["choice"]["epochs"] == 3
    assert decided["base_stride"] == 2
    grown = json.loads((output / "grow/result.json").read_text())["family"]
    assert result["grown"] == grown[decided["choice"]["member"]]["topology"]
    params = export.read_params(str(output / "train"))
    assert params.trainer.train_steps == 3 * params.trainer.steps_per_loop
    assert decided["used_seconds"] > 10


def test_the_design_and_the_training_are_those_of_the_images(finished):
    output, result = finished
    params = export.read_params(str(output / "train"))
    assert list(params.task.model.input_size) == [32, 48, 3]
    assert params.task.model.backbone.asvit.base_stride == 2  # From 32 pixels.
    assert min(Topology.parse(result["grown"]).head_dims) >= 8
    assert params.task.train_data.aug_rand_hflip is True  # The recipe's.
    assert params.task.losses.label_smoothing == 0.05  # The field's.
    assert params.task.class_shares == pytest.approx([0.25, 0.75])  # "one" comes first.


def test_the_saved_model_answers_as_the_evaluation_counted(finished):
    """Training crops, the evaluation does not; nor may the SavedModel."""
    output, result = finished
    records = tf.data.TFRecordDataset(str(output / "data/validation.tfrecord"))
    features = [tf.train.Example.FromString(record.numpy()).features.feature for record in records]
    images = tf.constant([feature["image/encoded"].bytes_list.value[0] for feature in features])
    labels = [feature["image/class/label"].int64_list.value[0] for feature in features]
    serve = tf.saved_model.load(result["saved_model"]).signatures["serving_default"]
    assert np.mean(np.argmax(serve(inputs=images)["probs"], -1) == labels) == pytest.approx(result["accuracy"])


def test_trained_further_with_an_edited_recipe(folder, finished, tmp_path, capsys):
    output, before = finished
    recipe = yaml.safe_load((output / "recipe.yaml").read_text())
    assert recipe["task"]["losses"]["label_smoothing"] == 0.05
    recipe["trainer"]["optimizer_config"]["learning_rate"]["cosine"]["initial_learning_rate"] = 1e-5
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    source = tmp_path / "moved"
    shutil.copytree(output, source)
    further = tmp_path / "further"
    arguments = ["--data-path", str(folder), "--epochs", "3", "--recipe", str(tmp_path / "mine.yaml"), *OF_TRAINING]
    command = ["--output", str(further), "--init-checkpoint", str(source), *arguments]
    status, out = run(command)
    assert status == 0
    result = json.loads(out)
    assert result["grown"] == before["grown"]
    assert not (further / "search").exists()
    params = export.read_params(str(further / "train"))
    assert params.task.losses.label_smoothing == 0.05
    assert params.trainer.optimizer_config.learning_rate.cosine.initial_learning_rate == 1e-5
    assert list(params.task.model.input_size) == [32, 48, 3]  # The kept network's.
    assert result["accuracy"] == pytest.approx(before["accuracy"], abs=0.15)  # It began where the other had ended.
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe) + "# edited\n")
    assert cli.main(["run", *command]) == 2
    assert f"files was {{'{tmp_path}/mine.yaml'" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-size", "24x"], "is no image size; allowed are pixels per side"),
        (["--hours", "0.01"], "hours is 0.01; it must be a number from 0.05"),
        (["--recipe", "colourful"], "is neither digits nor photographs nor a file"),
        (["--params-override", "trainer.max_keep=3"], "has no field 'max_keep'"),
        (["--params-override", "task.model.num_classes=9"], "changes the design"),
        (["--init-checkpoint", "/nowhere"], "no params.yaml in /nowhere"),
        (["--init-checkpoint", "gs://b/x"], "--init-checkpoint gs://b/x is not on this machine"),
        (
            ["--init-checkpoint", "/x", "--budget", "2", "--width", "16"],
            "nothing is searched; leave out --width, --budget",
        ),
        (["--output", "gs://b/x"], "gs://b/x is no directory of this machine"),
    ],
)
def test_bad_options_end_before_anything_begins(arguments, message, folder, tmp_path, capsys):
    status = cli.main(["run", "--output", str(tmp_path / "out"), "--data-path", str(folder), *arguments])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert message in lines[-1]
    assert not (tmp_path / "out/search").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("task.retokenization.preset=halves", "unknown schedule 'halves'; allowed are none, published, thirds"),
        ("task.retokenization.preset=published,trainer.train_steps=4", "4 steps are too few for schedule 'published'"),
        ("task.losses.soft_labels=true", "soft_labels=True"),
        ("task.train_data.global_batch_size=0", "global_batch_size is 0; it must be at least 1"),
        ("trainer.train_steps=99999", "train_steps is 99999, but the cosine learning rate is 0 from"),
    ],
)
@pytest.mark.parametrize("hours", [[], ["--hours", "0.05"]])
def test_fields_that_training_would_refuse_are_refused_before_the_search(
    fields, message, hours, folder, tmp_path, monkeypatch, capsys
):
    for module, name in ((designing, "scoring"), (speeds.rehearsal, "rehearse")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("something took long"))
    arguments = ["--data-path", str(folder), "--image-size", "32", "--params-override", fields, *hours]
    assert cli.main(["run", "--output", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_images_are_not_written_among(folder, tmp_path, capsys):
    for output in (folder, folder / ".." / folder.name):
        assert cli.main(["run", "--output", str(output), "--data-path", str(folder)]) == 2
        assert "would write among the images" in capsys.readouterr().err
    shutil.copytree(folder, tmp_path / "train")
    assert cli.main(["run", "--output", str(tmp_path), "--data-path", str(tmp_path / "train")]) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["one", "zero"]


def test_images_that_came_later_are_told(folder, tmp_path, monkeypatch, capsys):
    images, output = tmp_path / "images", tmp_path / "images/out"
    shutil.copytree(folder, images)
    (output / "data").mkdir(parents=True)
    (output / "data/dataset.json").write_text("{}")
    monkeypatch.setattr(running.folders, "layout", lambda *_: pytest.fail("read again"))
    before = time.time() - 1000
    for path in (images, images / "one", images / "zero"):
        os.utime(path, (before, before))
    os.utime(output / "data/dataset.json", (before + 1, before + 1))
    for name, told in (("out/more", False), ("one/new.jpg", True)):  # What the run writes is no image of it.
        (images / name).write_bytes(b"")
        running._check_data(images, output)
        assert ("are not read again" in capsys.readouterr().err) == told


def test_file_systems_without_locks_are_told(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(journals.fcntl, "flock", no_locks)
    with journals.workspace(tmp_path / "out", {}) as directory:
        assert directory.is_dir()
    assert "has no locks" in capsys.readouterr().err


@pytest.mark.parametrize(("hours", "trained", "may"), [(None, False, True), (None, True, False), (1.0, False, False)])
def test_another_batch_until_there_is_a_checkpoint_or_a_plan(hours, trained, may, tmp_path, monkeypatch, capsys):
    """As behind a training for which the memory did not suffice."""
    asked = []
    monkeypatch.setattr(pipeline, "run", lambda directory, settings, *_: asked.append(settings.batch_size) or {})
    output = tmp_path / "out"
    more = [] if hours is None else ["--hours", str(hours)]

    def start(batch):
        return cli.main(["run", "--output", str(output), "--batch-size", str(batch), *more, "--json"])

    assert start(8) == 0
    (output / "train").mkdir()
    if trained:
        (output / "train" / "checkpoint").touch()
    assert start(4) == (0 if may else 2)
    assert asked == ([8, 4] if may else [8])
    assert may or "batch_size was 8, now 4" in capsys.readouterr().err
