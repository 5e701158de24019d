"""The whole path, on a user's own folder of images, unbroken and killed in every long step."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import whole_runs
from official.core import task_factory
from official.vision.dataloaders import classification_input
from sklearn import metrics
from whole_runs import command, stamps

from asvit_tf import cli
from asvit_tf.serving import export, held_out
from asvit_tf.tasks import class_metrics
from asvit_tf.training import run as train
from asvit_tf.training import step_log
from asvit_tf.training.saving import best


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return whole_runs.image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    """Output directory and JSON line of a run in a process of its own."""
    output = tmp_path_factory.mktemp("runs") / "unbroken"
    finished = subprocess.run(
        [sys.executable, "-m", "asvit_tf.cli", *command(folder, output)], capture_output=True, text=True, check=True
    )
    return output, json.loads(finished.stdout), finished.stderr


def test_one_json_line_and_every_result(unbroken):
    output, result, _ = unbroken
    assert {"topology", "grown", "accuracy", "saved_model", "report", "seconds"} <= set(result)
    assert result["skipped_images"] == 1
    assert result["skipped_files"] == [{"file": "one/broken.jpg", "reason": "truncated or damaged"}]
    assert result["learned"] is True
    assert result["majority_share"] == pytest.approx(1 / 3)
    assert result["accuracy"] > 0.7
    assert result["balanced_accuracy"] == pytest.approx(result["accuracy"])  # As many images of every class.
    assert result["parameters"] <= 450_000
    report = (output / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 6 + (result["accuracy"] < 1)  # The last are pictures of mistakes.
    assert result["grown"] in report
    curve = dict(train.read_evaluations(output / "train"))
    assert sorted(curve) == [12, 24, 36]  # After each epoch.
    assert result["accuracy"] == pytest.approx(max(curve.values())) == pytest.approx(curve[result["best_step"]])
    assert f"The network is that of step {result['best_step']}, the best of all evaluations" in report
    assert result["duplicates"]["validation_in_train"] == 0
    low, high = result["accuracy_interval"]
    assert low < result["accuracy"] <= high
    assert f"<b>{result['accuracy']:.2%}</b> (95 % interval {low:.2%} to {high:.2%}); the majority class's" in report
    assert "Nothing was learned" not in report
    growth = [json.loads(line) for line in (output / "grow/trace.jsonl").read_text().splitlines()]
    for row in growth:
        distortions = [c["scores"]["length_distortion"] for c in row["candidates"]]
        assert len(set(distortions)) == len(distortions)


def test_killed_in_search_growth_and_training_it_ends_the_same(folder, unbroken, tmp_path):
    output = tmp_path / "killed"

    def lines(name):
        path = output / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    kill_when = [
        lambda: lines("search/trace.jsonl") == 1,
        lambda: lines("scores.jsonl") >= 3 and not (output / "grow/result.json").exists(),
        lambda: any((output / "train").glob("ckpt-*.index")),
    ]
    for condition in kill_when:
        process = subprocess.Popen(
            [sys.executable, "-m", "asvit_tf.cli", *command(folder, output)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        whole_runs.wait_for(process, condition)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    scored = (output / "scores.jsonl").read_text()
    finished = subprocess.run(
        [sys.executable, "-m", "asvit_tf.cli", *command(folder, output)], capture_output=True, text=True, check=True
    )
    result = json.loads(finished.stdout)
    expected_output, expected, _ = unbroken
    for name in ("topology", "grown", "parameters"):
        assert result[name] == expected[name]
    for name in ("search/trace.jsonl", "grow/trace.jsonl", "scores.jsonl"):
        assert whole_runs.rows_without_seconds(output / name) == whole_runs.rows_without_seconds(expected_output / name)
    assert (output / "scores.jsonl").read_text() == scored  # Nothing was measured again.
    assert len({step_log.read_blocks(path / "train")[-1]["step"] for path in (output, expected_output)}) == 1


def test_run_again_repeats_nothing(folder, unbroken, capsys):
    output, result, _ = unbroken
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.jsonl")}
    assert cli.main(command(folder, output)) == 0
    assert json.loads(capsys.readouterr().out) == result
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.jsonl")} == before


def test_other_settings_in_the_same_directory_are_refused(folder, unbroken, capsys):
    output, _, _ = unbroken
    assert cli.main([*command(folder, output), "--epochs", "4"]) == 2
    assert "epochs was 3, now 4" in capsys.readouterr().err


def test_shuffled_labels_end_with_one_line_and_no_export(folder, unbroken, tmp_path, capfd):
    """Search and growth are those of the unbroken run; the training is a real one."""
    source, _, _ = unbroken
    output = tmp_path / "shuffled"
    shutil.copytree(source, output, ignore=lambda path, names: {"train", "saved_model", "report.html"} & set(names))
    (output / "result.json").unlink()
    for split in ("train", "validation"):
        whole_runs.with_shuffled_labels(source / f"data/{split}.tfrecord", output / f"data/{split}.tfrecord")
    assert cli.main(command(folder, output)) == 1
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert (result["learned"], result["saved_model"]) == (False, None)
    # The answers of the run that was copied are of other weights, and are not kept.
    answers = held_out.Predictions.load(output / "predictions/validation.npz")
    assert answers.accuracy == pytest.approx(result["accuracy"], abs=1e-6)
    kept = json.loads((output / "result.json").read_text())
    assert {**kept, "report": str(output / kept["report"])} == result  # By name, because the directory may be moved.
    (line,) = (line for line in err.splitlines() if line.startswith("asvit: "))
    assert line == err.splitlines()[-1]
    assert f"majority class beyond chance: accuracy {result['accuracy']:.3f}, majority class 0.333" in line
    assert not (output / "saved_model").exists()
    body = (output / "report.html").read_text().partition("</h1>")[2]
    assert body.lstrip().startswith("<p><b>Nothing was learned, and nothing exported: the network does not beat")

    # Run again, for people this time: the same line, and nothing is done again.
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != ".lock"}
    assert cli.main(command(folder, output)[:-1]) == 1
    out, err = capfd.readouterr()
    assert err.splitlines() == [line]
    assert f"accuracy    {result['accuracy']:.4f}, 95 %: {result['accuracy_interval'][0]:.4f} to " in out
    assert f"best step   {result['best_step']}  (of all evaluations on the held-out images" in out
    assert "saved model none\n" in out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_test_split_is_evaluated_once_at_the_end(folder, unbroken, tmp_path, capsys):
    """On the validation images, each twice, the accuracy is theirs."""
    source, expected, _ = unbroken
    output = tmp_path / "tested"
    shutil.copytree(source, output)
    (output / "result.json").unlink()
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(source / "data/validation.tfrecord"))]
    with tf.io.TFRecordWriter(str(output / "data/test.tfrecord")) as writer:
        for record in records * 2:
            writer.write(record)
    fields = json.loads((output / "data/dataset.json").read_text())
    (output / "data/dataset.json").write_text(json.dumps({**fields, "test_examples": 2 * len(records)}))
    assert cli.main(command(folder, output)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"] == expected["accuracy"]
    assert result["test_accuracy"] == pytest.approx(expected["accuracy"])
    assert result["test_balanced_accuracy"] == pytest.approx(expected["balanced_accuracy"])
    assert expected["test_accuracy"] is None
    assert f"at the end: <b>{result['test_accuracy']:.2%}</b>" in (output / "report.html").read_text()
    curves = [train.read_evaluations(directory / "train") for directory in (output, source)]
    assert curves[0] == curves[1]  # That of the validation is as it was.
    before = (output / "test/result.json").stat().st_mtime_ns
    (output / "result.json").unlink()
    assert cli.main(command(folder, output)) == 0
    assert (output / "test/result.json").stat().st_mtime_ns == before


def test_a_finished_run_of_an_earlier_version_is_evaluated_and_nothing_else(folder, unbroken, tmp_path, capsys):
    source, expected, _ = unbroken
    output = tmp_path / "earlier"
    shutil.copytree(source, output)
    for name in ("result.json", "train/result.json"):
        fields = json.loads((output / name).read_text())
        fields = {key: value for key, value in fields.items() if key not in class_metrics.REPORTED}
        (output / name).write_text(json.dumps(fields))
    blocks = (output / "train/blocks.jsonl").read_text()
    assert cli.main(command(folder, output)) == 0
    result = json.loads(capsys.readouterr().out)
    assert {name: result[name] for name in class_metrics.REPORTED} == {
        name: expected[name] for name in class_metrics.REPORTED
    }
    assert (output / "train/blocks.jsonl").read_text() == blocks


def test_saved_model_alone_answers_as_the_python_model(folder, unbroken):
    output, result, _ = unbroken
    files = [folder / "zero/0.png", folder / "one/1.jpg", folder / "two/7.jpg"]
    finished = subprocess.run(
        [sys.executable, "-c", whole_runs.SERVE, result["saved_model"], *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
    )
    served = json.loads(finished.stdout.splitlines()[-1])
    assert served["class_names"] == [["one", "two", "zero"]] * 3  # Folders in order, for each image.

    # The trained model itself, fed by the pipeline that training evaluates with.
    params = export.read_params(str(output / "train"))
    task = task_factory.get_task(params.task)
    model = task.build_model()
    checkpoint = best.read(output / "train").checkpoint
    tf.train.Checkpoint(model=model).read(checkpoint).assert_existing_objects_matched().expect_partial()
    parse = classification_input.Parser([16, 16], 3, aug_crop=False, decode_jpeg_only=False).parse_fn(is_training=False)
    images = [parse({"image/encoded": tf.constant(f.read_bytes()), "image/class/label": 0})[0] for f in files]
    expected = tf.nn.softmax(model(tf.stack(images), training=False))
    np.testing.assert_allclose(served["probs"], expected, atol=1e-5)
    np.testing.assert_allclose(np.sum(served["probs"], axis=1), 1, atol=1e-5)
    assert served["label"] == [served["class_names"][0][i] for i in np.argmax(served["probs"], axis=1)]


def test_answers_to_held_out_images_are_the_evaluations_and_the_saved_models(unbroken):
    output, result, _ = unbroken
    answers = held_out.Predictions.load(output / "predictions/validation.npz")
    assert answers.accuracy == pytest.approx(result["accuracy"], abs=1e-6)
    assert metrics.balanced_accuracy_score(answers.labels, answers.predicted) == pytest.approx(
        result["balanced_accuracy"], abs=1e-6
    )
    records = tf.data.TFRecordDataset(str(output / "data/validation.tfrecord")).as_numpy_iterator()
    features = [tf.train.Example.FromString(record).features.feature for record in records]
    encoded = [feature["image/encoded"].bytes_list.value[0] for feature in features]
    serve = tf.saved_model.load(result["saved_model"]).signatures["serving_default"]
    np.testing.assert_allclose(serve(inputs=tf.constant(encoded))["probs"], answers.probabilities, atol=1e-5)
    assert answers.labels.tolist() == [feature["image/class/label"].int64_list.value[0] for feature in features]
    kept = json.loads((output / "predictions/result.json").read_text())["validation"]
    assert (kept["images"], kept["accuracy"]) == (24, answers.accuracy)
    assert kept["calibration_error"] == result["calibration_error"]
    serving = json.loads((output / "serving/result.json").read_text())
    assert serving["tflite"]["largest_difference"] < 1e-3
    assert serving["tflite"]["bytes"] == (output / "serving/model.tflite").stat().st_size
    assert {path.read_text() for path in output.glob("s*/labels.txt")} == {"one\ntwo\nzero\n"}  # Of both models.


def test_predict_command(folder, unbroken, capsys):
    _, result, _ = unbroken
    image = str(folder / "zero/0.png")
    assert cli.main(["predict", result["saved_model"], image, image, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["predictions"]
    assert [answer["image"] for answer in answers] == [image, image]
    assert set(answers[0]["probabilities"]) == {"one", "two", "zero"}
    assert cli.main(["predict", result["saved_model"], image, "--top", "1"]) == 0
    assert answers[0]["label"] in capsys.readouterr().out


def test_export_never_replaces_what_is_no_saved_model(unbroken, capsys):
    output, _, _ = unbroken
    before = sorted(output.rglob("*"))
    for target in (output / "train", output):
        assert cli.main(["export", "--model-dir", str(output / "train"), "--export-dir", str(target)]) == 2
        assert "is not a SavedModel" in capsys.readouterr().err
    assert sorted(output.rglob("*")) == before


@pytest.fixture
def copy(unbroken, tmp_path):
    return shutil.copytree(unbroken[0], tmp_path / "copy")


def test_a_report_is_made_again_from_what_is_there(unbroken, copy, capsys):
    before = stamps(copy)
    (copy / "report.html").unlink()
    assert cli.main(["report", str(copy), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["report"] == str(copy / "report.html")
    assert (written["calibration_error"], written["lacking"]) == (unbroken[1]["calibration_error"], [])
    assert stamps(copy) == before
    # The page of the run itself, but that a page does not know how long it takes, and names its directory.
    pages = [(run / "report.html").read_text().replace(str(run), "DIR") for run in (unbroken[0], copy)]
    shown = [re.sub(r'<h2 id="time">.*?</table>', "", page, flags=re.DOTALL) for page in pages]
    assert shown[0] == shown[1]
    for title in ("Design", "Held-out images", "Size and latency", "Search", "Growth", "Training", "Time", "What was"):
        assert re.search(f"<h2 id=[^>]*>{title}", pages[1])


def test_a_run_of_an_earlier_version_is_asked_first(unbroken, copy, capfd):
    for step in ("predictions", "serving"):
        shutil.rmtree(copy / step)
    trained = stamps(copy / "train")
    assert cli.main(["report", str(copy)]) == 0
    out, err = capfd.readouterr()
    assert out == f"report      {copy}/report.html\n"
    assert "asking about 24 images" in err
    made, expected = (held_out.Predictions.load(run / "predictions/validation.npz") for run in (copy, unbroken[0]))
    np.testing.assert_allclose(made.probabilities, expected.probabilities, atol=1e-6)
    assert (copy / "serving/model.tflite").exists()
    assert stamps(copy / "train") == trained

    # Without its checkpoint, what is kept is shown; without that too, the page says so.
    for file in (copy / "train").rglob("ckpt-*"):
        file.unlink()
    assert cli.main(["report", str(copy)]) == 0
    assert "Confusion matrix" in (copy / "report.html").read_text()
    shutil.rmtree(copy / "predictions")
    assert cli.main(["report", str(copy)]) == 0
    assert "The checkpoint is gone from train" in capfd.readouterr().out
    page = (copy / "report.html").read_text()
    assert "The checkpoint is gone from train" in page
    assert "Confusion matrix" not in page


@pytest.mark.parametrize(("damaged", "contents", "message"), whole_runs.DAMAGED)
def test_a_damaged_run_has_no_report(copy, capsys, damaged, contents, message):
    (copy / damaged).write_text(contents)
    assert cli.main(["report", str(copy)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
