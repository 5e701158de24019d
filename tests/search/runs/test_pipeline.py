"""The whole path, on a user's own folder of images, unbroken and killed in every long step."""

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
from official.core import task_factory
from official.vision.dataloaders import classification_input
from sklearn import datasets

from asvit_tf import cli
from asvit_tf.serving import export
from asvit_tf.tasks import class_metrics
from asvit_tf.training import run as train
from asvit_tf.training import step_log
from asvit_tf.training.saving import best

OPTIONS = [
    *("--image-size", "16", "--search-steps", "2", "--repeats", "1", "--score-batch", "2", "--budget", "0.51"),
    *("--epochs", "6", "--batch-size", "8", "--seed", "3"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Zeros, ones and twos, forty of each and each in a colour, as image files of several kinds; and a broken one."""
    root = tmp_path_factory.mktemp("images")
    digits = datasets.load_digits(n_class=3)
    for label, name in enumerate(("zero", "one", "two")):
        (root / name).mkdir()
        for i, image in enumerate(digits.images[digits.target == label][:40]):
            colours = tf.one_hot(label, 3, 15.0, 3.0)  # Or so few images and epochs would teach nothing.
            pixels = tf.cast(tf.image.resize(image[..., None] * colours, (20 + i, 24)), tf.uint8)
            encode, suffix = (tf.io.encode_jpeg, "jpg") if i % 2 else (tf.io.encode_png, "png")
            (root / name / f"{i}.{suffix}").write_bytes(encode(pixels).numpy())
    (root / "one" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    return root


def command(folder, output):
    return ["run", "--output", str(output), "--data-path", str(folder), *OPTIONS, "--json"]


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
    assert result["parameters"] <= 510_000
    report = (output / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 3
    assert result["grown"] in report
    curve = dict(train.read_evaluations(output / "train"))
    assert sorted(curve) == [12, 24, 36, 48, 60, 72]  # After each epoch.
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


def wait_for(process, condition, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "ended before it could be killed"
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing to kill appeared")


def test_killed_in_search_growth_and_training_it_ends_the_same(folder, unbroken, tmp_path):
    output = tmp_path / "killed"

    def lines(name):
        path = output / name
        return len(path.read_text().splitlines()) if path.exists() else 0

    kill_when = [
        lambda: lines("search/trace.jsonl") == 1,
        lambda: lines("scores.jsonl") >= 5 and not (output / "grow/result.json").exists(),
        lambda: any((output / "train").glob("ckpt-*.index")),
    ]
    for condition in kill_when:
        process = subprocess.Popen(
            [sys.executable, "-m", "asvit_tf.cli", *command(folder, output)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(process, condition)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    scored = (output / "scores.jsonl").read_text()
    finished = subprocess.run(
        [sys.executable, "-m", "asvit_tf.cli", *command(folder, output)], capture_output=True, text=True, check=True
    )
    result = json.loads(finished.stdout)
    expected_output, expected, _ = unbroken
    assert {name: result[name] for name in ("topology", "grown", "parameters")} == {
        name: expected[name] for name in ("topology", "grown", "parameters")
    }
    for name in ("search/trace.jsonl", "grow/trace.jsonl", "scores.jsonl"):
        assert rows_without_seconds(output / name) == rows_without_seconds(expected_output / name)
    assert (output / "scores.jsonl").read_text() == scored  # Nothing was measured again.
    assert (
        step_log.read_blocks(output / "train")[-1]["step"]
        == step_log.read_blocks(expected_output / "train")[-1]["step"]
    )


def rows_without_seconds(path):
    rows = map(json.loads, path.read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in ("seconds", "split")} for row in rows]


def test_run_again_repeats_nothing(folder, unbroken, capsys):
    output, result, _ = unbroken
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.jsonl")}
    assert cli.main(command(folder, output)) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == result
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.jsonl")} == before


def test_other_settings_in_the_same_directory_are_refused(folder, unbroken, capsys):
    output, _, _ = unbroken
    assert cli.main([*command(folder, output), "--epochs", "4"]) == 2
    assert "epochs was 6, now 4" in capsys.readouterr().err


def with_shuffled_labels(source, target):
    """Records of the same images, every one with another's label."""
    records = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(source))]
    values = [record.features.feature["image/class/label"].int64_list.value for record in records]
    labels = np.random.default_rng(0).permutation([value[0] for value in values])
    with tf.io.TFRecordWriter(str(target)) as writer:
        for record, value, label in zip(records, values, labels):
            value[:] = [int(label)]
            writer.write(record.SerializeToString())


def test_shuffled_labels_end_with_one_line_and_no_export(folder, unbroken, tmp_path, capfd):
    """Search and growth are those of the unbroken run; the training is a real one."""
    source, _, _ = unbroken
    output = tmp_path / "shuffled"
    shutil.copytree(source, output, ignore=lambda path, names: {"train", "saved_model", "report.html"} & set(names))
    (output / "result.json").unlink()
    for split in ("train", "validation"):
        with_shuffled_labels(source / f"data/{split}.tfrecord", output / f"data/{split}.tfrecord")
    assert cli.main(command(folder, output)) == 1
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert (result["learned"], result["saved_model"]) == (False, None)
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


SERVE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("asvit_tf", "search", "official"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
try:
    import asvit_tf
    sys.exit("asvit_tf can be imported")
except ImportError:
    pass
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answer = serve(inputs=tf.constant([open(path, "rb").read() for path in sys.argv[2:]]))
print(json.dumps({name: value.numpy().tolist() if value.dtype != tf.string else [v.decode() for v in value.numpy()]
                  for name, value in answer.items()}))
"""


def test_saved_model_alone_answers_as_the_python_model(folder, unbroken):
    output, result, _ = unbroken
    files = [folder / "zero/0.png", folder / "one/1.jpg", folder / "two/7.jpg"]
    finished = subprocess.run(
        [sys.executable, "-c", SERVE, result["saved_model"], *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
    )
    served = json.loads(finished.stdout.splitlines()[-1])
    assert served["class_names"] == ["one", "two", "zero"]  # Folders in order.

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
    assert served["label"] == [served["class_names"][i] for i in np.argmax(served["probs"], axis=1)]


def test_predict_command(folder, unbroken, capsys):
    _, result, _ = unbroken
    image = str(folder / "zero/0.png")
    assert cli.main(["predict", result["saved_model"], image, image, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["predictions"]
    assert [answer["image"] for answer in answers] == [image, image]
    assert set(answers[0]["probabilities"]) == {"one", "two", "zero"}
    assert cli.main(["predict", result["saved_model"], image, "--top", "1"]) == 0
    assert answers[0]["label"] in capsys.readouterr().out


def test_predict_refuses_other_saved_models(folder, tmp_path, capsys):
    module = tf.Module()
    module.double = tf.function(lambda inputs: {"probs": 2 * inputs}, [tf.TensorSpec((None,), tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "other"), signatures=module.double)
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "saved_model.pb").write_bytes(b"nothing")
    for name in ("other", "corrupt"):
        assert cli.main(["predict", str(tmp_path / name), str(folder / "zero/0.png")]) == 2
        assert "does not classify encoded images" in capsys.readouterr().err


def test_export_never_replaces_what_is_no_saved_model(unbroken, capsys):
    output, _, _ = unbroken
    before = sorted(output.rglob("*"))
    for target in (output / "train", output):
        assert cli.main(["export", "--model-dir", str(output / "train"), "--export-dir", str(target)]) == 2
        assert "is not a SavedModel" in capsys.readouterr().err
    assert sorted(output.rglob("*")) == before
