"""The commands train and evaluate: their options, and how they end."""

import json

import gin
import pytest

from asvit_tf import cli
from asvit_tf.training import run as train


def run(capsys, *arguments):
    status = cli.main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


METRICS = dict(validation_loss=1.0, accuracy=0.559, majority_share=0.559, balanced_accuracy=1 / 3)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_metrics_of_a_classifier_that_learned_nothing_end_with_status_1(capsys, monkeypatch, command):
    monkeypatch.setattr(train, "start", lambda **options: {**METRICS, "learned": 0.0})
    command = [command, "--experiment=asvit_digits", "--model-dir=x", *(["--mode=eval"] if command == "train" else [])]
    status, out, err = run(capsys, *command, "--json")
    assert (status, json.loads(out)["accuracy"]) == (1, 0.559)
    assert err.splitlines() == [
        "asvit: the network does not beat the majority class beyond chance: accuracy 0.559, majority class 0.559, "
        "balanced accuracy 0.333; check that the labels belong to their images, then train longer, with another "
        "learning rate, or on more images"
    ]
    status, out, err = run(capsys, *command)
    assert (status, err.count("\n")) == (1, 1)
    assert "balanced_accuracy 0.333333" in out


def test_too_few_images_to_tell_end_with_status_0_and_a_line(capsys, monkeypatch):
    monkeypatch.setattr(train, "start", lambda **options: {**METRICS, "learned": 0.0, "too_few_examples": 1.0})
    status, _, err = run(capsys, "evaluate", "--experiment=asvit_digits", "--model-dir=x", "--json")
    assert (status, err.count("\n")) == (0, 1)
    assert "the held-out images are too few to show whether anything was learned: accuracy 0.559" in err


@pytest.mark.parametrize(
    "metrics", [{**METRICS, "learned": 1.0}, {"AP50": 0.0}, {}], ids=["learned", "detector", "train"]
)
def test_other_metrics_end_with_status_0(capsys, monkeypatch, metrics):
    monkeypatch.setattr(train, "start", lambda **options: metrics)
    status, out, err = run(capsys, "train", "--experiment=asvit_digits", "--mode=train", "--model-dir=x", "--json")
    assert (status, json.loads(out), err) == (0, metrics, "")


def given(capsys, monkeypatch, *arguments):
    """What a command hands to the training."""
    taken = {}
    monkeypatch.setattr(train, "run", lambda params, model_dir, mode, progress: taken.update(locals()) or {})
    assert run(capsys, *arguments) == (0, "trained\n", "")
    return taken


def test_options_of_train_in_every_spelling(capsys, monkeypatch, tmp_path):
    """All files and overrides apply, later ones win; - and _ are the same, and so are `--x=y` and `--x y`."""
    for name, content in (("one", {"train_steps": 1, "steps_per_loop": 1}), ("two", {"train_steps": 2})):
        (tmp_path / name).with_suffix(".yaml").write_text(json.dumps({"trainer": content}))
    taken = given(
        *(capsys, monkeypatch, "train", "--experiment", "asvit_digits", "--model_dir=a-b_c", "--mode=train_and_eval"),
        *(f"--config_file={tmp_path}/one.yaml", "--config-file", f"{tmp_path}/two.yaml", "--tpu=local"),
        *("--params_override=task.seed=3,task.model.num_classes=7", "--params-override", "task.model.num_classes=9"),
    )
    params = taken["params"]
    assert (params.trainer.train_steps, params.trainer.steps_per_loop) == (2, 1)
    assert (params.task.seed, params.task.model.num_classes, params.runtime.tpu) == (3, 9, "local")
    assert params.runtime.distribution_strategy == "tpu"  # Or the TPU would be named and not used.
    assert (taken["model_dir"], taken["mode"], taken["progress"]) == ("a-b_c", "train_and_eval", True)
    again = given(capsys, monkeypatch, "evaluate", "--experiment=asvit_digits", "--model-dir=x")
    assert again["mode"] == "eval"
    assert again["params"].task.seed is None  # Nothing stays of an earlier call.
    assert again["params"].runtime.tpu is None
    assert again["params"].runtime.distribution_strategy != "tpu"


def test_gin_files_and_bindings_apply(capsys, monkeypatch, tmp_path):
    (tmp_path / "file.gin").write_text("FROM_FILE = 1\n")
    flags = [f"--gin_file={tmp_path}/file.gin", "--gin-params=BOUND = 2", "--gin_params=ALSO = 3"]
    try:
        given(capsys, monkeypatch, "train", "--experiment=asvit_digits", "--mode=train", "--model-dir=x", *flags)
        assert [gin.query_parameter(f"%{name}") for name in ("FROM_FILE", "BOUND", "ALSO")] == [1, 2, 3]
    finally:
        gin.clear_config()


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_lists_the_options(capsys, command):
    _, out, _ = run(capsys, command, "--help")
    names = ("experiment", "model-dir", "config-file", "params-override", "tpu", "gin-file", "gin-params", "json")
    assert all(f"--{name}" in out for name in names)
    assert ("--mode " in out) == (command == "train")
