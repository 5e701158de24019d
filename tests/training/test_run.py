"""`train.run`: what a training writes and refuses, and the checkpoints that it leaves."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from three_phases import BLOCK, ONE_PHASE, STEPS, TWO_PHASES, accuracy_of, experiment, scalars

from asvit_tf.dataloaders import classification as data
from asvit_tf.design import savings
from asvit_tf.errors import PausedError, StoppedError, UserError
from asvit_tf.modeling import checkpoints
from asvit_tf.serving import export, modules, predict
from asvit_tf.tasks import schedules
from asvit_tf.training import run as train
from asvit_tf.training import step_log
from asvit_tf.training.runner import SoundCheckpoints


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("digits") / "data")


def test_train_run_logs_blocks_by_phase(digits, tmp_path, capsys):
    params = experiment(digits, task={"retokenization": {"evaluate_phase": True}})
    metrics = train.run(params, str(tmp_path), "train_and_eval", progress=True)
    assert metrics["accuracy"] == pytest.approx(accuracy_of(digits, tf.train.latest_checkpoint(tmp_path)))
    assert "phase_accuracy" not in metrics  # The last evaluation is in the last phase.
    blocks = step_log.read_blocks(tmp_path)
    assert [block["step"] for block in blocks] == list(range(BLOCK, STEPS + 1, BLOCK))
    assert [block["stride"] for block in blocks] == [16, 16, 8, 8, 4, 4]
    assert [block["traced"] for block in blocks] == [True, False] * 3
    times = savings.phase_times(blocks)
    assert [(phase.stride, phase.dilation, phase.steps) for phase in times] == [(16, 5, 4), (8, 2, 4), (4, 1, 4)]
    # Each block follows a checkpoint and begins to read anew, which takes longer than these steps; tracing more so.
    assert all(phase.warm_seconds > 0 and phase.trace_seconds > 0 for phase in times)
    assert [step for step, _ in train.read_evaluations(tmp_path)] == [6, 12]

    screen = capsys.readouterr()
    assert screen.out == ""
    assert "re-tokenization saves" in screen.err
    assert not any(words in screen.err for words in ("np.float", "saved checkpoint", "Gradients", "retracing"))
    log = (tmp_path / "log.txt").read_text()
    assert [f"{step:>2}/12  phase" in log for step in range(BLOCK, STEPS + 1, BLOCK)] == [True] * 6
    assert "saved checkpoint to" in log  # Of orbit's controller.
    summary = json.loads((tmp_path / "retokenization.json").read_text())
    assert [phase["token_grid"] for phase in summary["planned"]] == [[2, 2], [4, 4], [8, 8]]
    assert [phase["steps"] for phase in summary["measured"]] == [4, 4, 4]
    # The second block of each phase traced nothing; four steps of each, twelve at the last one's pace without phases.
    pace = [block["seconds"] / BLOCK for block in blocks[1::2]]
    assert summary["measured_saving"] == pytest.approx(1 - 4 * sum(pace) / (STEPS * pace[-1]))
    assert scalars(tmp_path / "validation", "phase_accuracy").keys() == {6}  # At 4 x 4 tokens, beside 8 x 8.
    assert scalars(tmp_path / "validation", "phase_balanced_accuracy").keys() == {6}
    assert metrics["majority_share"] == pytest.approx(0.1, abs=0.03)
    assert {metrics["learned"], *scalars(tmp_path / "validation", "learned").values()} <= {0, 1}
    # Of the ten digits, more or less: each block is compared with guessing on its own 32 images.
    guesses = [block["guessing_loss"] for block in blocks]
    assert guesses == pytest.approx([np.log(10)] * len(blocks), abs=0.3)
    assert len(set(guesses)) > 1
    assert scalars(tmp_path / "retokenization", "retokenization/stride") == dict(
        zip(range(BLOCK, STEPS + 1, BLOCK), [16, 16, 8, 8, 4, 4])
    )


def test_params_that_training_wrote_are_read_back(digits, tmp_path):
    names = ["1e3", "3", "null", "yes", "caf\u00e9", *"abcde"]
    params = experiment(digits, task={"class_names": names})
    train.write_params(params, str(tmp_path / "model"), str(tmp_path))
    read = export.read_params(str(tmp_path / "model"))
    assert read.task.class_names == names
    assert schedules.schedule_of(read) == schedules.schedule_of(params)
    assert modules.class_names(read) == names


def test_evaluating_nothing_is_refused(digits, tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        train.run(experiment(digits), str(tmp_path), "eval")


def test_a_tpu_that_nothing_would_use_is_refused(digits, tmp_path):
    params = experiment(digits, runtime={"tpu": "local"})
    with pytest.raises(UserError, match=r"runtime.tpu is 'local', but runtime.distribution_strategy is 'one_device'"):
        train.run(params, str(tmp_path), "train")


def test_a_checkpoint_of_step_0_counts_as_one(tmp_path):
    """All workers have to save at the same steps, also those that begin behind a set-back to the start."""
    step = tf.Variable(44, dtype=tf.int64)
    manager = SoundCheckpoints(
        *(tf.train.Checkpoint(step=step), str(tmp_path), 1),
        step_counter=step,
        checkpoint_interval=100,
        last_checkpoint_step=0,
        on_save=lambda: None,
    )
    assert manager.save(checkpoint_number=44) is None
    step.assign(100)
    assert manager.save(checkpoint_number=100).endswith("-100")


def test_blocks_trained_twice_count_once(tmp_path):
    rows = [{"step": 2, "steps": 2, "n": 0}, {"step": 4, "steps": 2, "n": 1}, {"step": 4, "steps": 2, "n": 2}]
    lines = [json.dumps(rows[0]), json.dumps(rows[1]), '{"step": 6, "st', json.dumps(rows[2]), '{"step"']
    (tmp_path / savings.BLOCKS_FILE).write_text("\n".join(lines))
    assert [row["n"] for row in step_log.read_blocks(tmp_path)] == [0, 2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"task": {"model": {"backbone": {"asvit": {"stride": 8}}}}}, "must be equal"),
        (
            {"task": {"retokenization": {"phases": [{"until_step": 8, "stride": 8}, {"until_step": 4}, {}]}}},
            "must rise",
        ),
        ({"task": {"retokenization": {"phases": [{"until_step": 4, "stride": 2}, {}]}}}, "stride is 2"),
        ({"task": {"retokenization": {"phases": [], "preset": "halves"}}}, "unknown schedule"),
    ],
)
def test_schedules_that_do_not_fit_are_refused_before_training(digits, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train.run(experiment(digits, **override), str(tmp_path), "train")
    assert not list(tmp_path.iterdir())


def test_dilation_left_out_is_auto(digits):
    phases = [{"until_step": 4, "stride": 16}, {"until_step": 8, "stride": 8}, {}]
    schedule = schedules.schedule_of(experiment(digits, task={"retokenization": {"phases": phases}}))
    assert [phase.tokenization.dilation for phase in schedule.phases] == [5, 2, 1]


def test_the_best_checkpoint_is_that_of_all_tokens(digits, tmp_path):
    """Also where evaluations at the phase's own tokens come out better."""
    best = {"best_checkpoint_export_subdir": "best", "best_checkpoint_eval_metric": "accuracy"}
    task = {"retokenization": {**TWO_PHASES["retokenization"], "evaluate_phase": True}}
    params = experiment(digits, task=task, trainer=best)
    metrics = train.run(params, str(tmp_path), "train_and_eval")
    at_all_tokens = scalars(tmp_path / "validation", "accuracy")
    info = json.loads((tmp_path / "best/info.json").read_text())
    assert info["accuracy"] == pytest.approx(max(at_all_tokens.values()))
    assert metrics["best_accuracy"] == pytest.approx(max(at_all_tokens.values()))
    assert not [name for name in info if name.startswith("phase_")]


def test_averaged_weights_are_evaluated_and_exported(digits, tmp_path):
    params = experiment(digits, task=ONE_PHASE, trainer={"optimizer_config": {"ema": {"average_decay": 0.5}}})
    train.run(params, str(tmp_path / "train"), "train_and_eval")
    averaged = checkpoint_values(tmp_path / "train/ema_checkpoints")
    last = checkpoint_values(tmp_path / "train")
    assert not np.allclose(averaged, last)
    read = export.read_params(str(tmp_path / "train"))
    for given, expected in ((None, averaged), (str(tmp_path / "train"), last)):
        target = str(tmp_path / "saved_model")
        export.export(read, str(tmp_path / "train"), target, checkpoint=given)
        kernels = [v for v in tf.saved_model.load(target).weights if "stem/kernel" in v.name]
        np.testing.assert_array_equal(kernels[0], expected)
    for file in (tmp_path / "train/ema_checkpoints").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="run asvit evaluate first"):
        export.export(read, str(tmp_path / "train"), str(tmp_path / "other"))


def checkpoint_values(directory):
    """The stem's kernel in the newest checkpoint."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(directory)))
    (key,) = (
        key for key in reader.get_variable_to_shape_map() if key.endswith("stem/kernel/.ATTRIBUTES/VARIABLE_VALUE")
    )
    return reader.get_tensor(key)


def test_a_lack_of_memory_names_the_batch(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_run_once", lambda *_: tf.zeros([10**6, 10**7]))
    with pytest.raises(StoppedError, match="not suffice for batches of 16 images; give fewer by --batch-size"):
        train.run(experiment(digits), str(tmp_path), "train")


def test_a_directory_that_only_tensorflow_can_write(digits, tmp_path):
    """As in the cloud: no pathlib."""
    metrics = train.run(experiment(digits, task=TWO_PHASES), "ram://a/run", "train_and_eval")
    assert "validation_loss" in metrics
    with tf.io.gfile.GFile("ram://a/run/retokenization.json") as file:
        assert json.load(file)["measured_saving"] is not None
    exported = export.export(export.read_params("ram://a/run"), "ram://a/run", str(tmp_path / "saved_model"))
    assert tf.io.gfile.exists(f"{exported}/saved_model.pb")


def test_a_directory_named_like_a_pattern(digits, tmp_path):
    """Continued, set back by the guard, evaluated, exported and asked, where TensorFlow's readers find nothing."""
    directory = tmp_path / "exp [1] *?"
    model_dir = directory / "train"
    (tmp_path / "exp 1 xy" / "train").mkdir(parents=True)  # What the pattern matches.
    train.run(experiment(digits, task=ONE_PHASE, trainer={"train_steps": 4}), str(model_dir), "train")
    params = experiment(digits, task=ONE_PHASE, trainer={"train_steps": 6})
    metrics = train.run(params, str(model_dir), "train_and_eval")
    assert [block["step"] for block in step_log.read_blocks(model_dir)] == [2, 4, 6]
    newest = checkpoints.newest(model_dir)
    assert newest.endswith("-6")
    assert train.run(params, str(model_dir), "eval") == metrics
    exported = export.export(export.read_params(str(model_dir)), str(model_dir), str(directory / "saved_model"))
    predict.check_saved_model(exported)
    serve = predict.load_serving(exported, {"probs"}, "classify")
    copied = shutil.copytree(model_dir, tmp_path / "plain")
    reader = tf.train.load_checkpoint(str(copied / "ckpt-6"))
    (name,) = (
        name for name in reader.get_variable_to_shape_map() if name.endswith("stem/kernel/.ATTRIBUTES/VARIABLE_VALUE")
    )
    kernel = reader.get_tensor(name)
    assert any(np.array_equal(variable, kernel) for variable in serve.variables)


def test_metrics_of_a_cut_block_are_those_of_all_its_steps(digits, tmp_path):
    """Blocks of 6 are cut at the boundaries, 4 and 8; each summary is the mean over 6 steps."""
    params = experiment(digits, trainer={"steps_per_loop": 6, "summary_interval": 6, "validation_interval": 12})
    train.run(params, str(tmp_path), "train")
    blocks = {block["step"]: block for block in step_log.read_blocks(tmp_path)}
    assert list(blocks) == [4, 6, 8, 12]
    losses = scalars(tmp_path / "train", "training_loss")
    for step, (first, second) in {6: (4, 6), 12: (8, 12)}.items():
        parts = [(blocks[part]["training_loss"], blocks[part]["steps"]) for part in (first, second)]
        assert losses[step] == pytest.approx(sum(loss * steps for loss, steps in parts) / 6, rel=1e-5)


@pytest.mark.parametrize("averages", [False, True])
def test_a_training_that_is_paused_goes_on_where_it_was(digits, tmp_path, averages):
    """Behind an evaluation between two checkpoints: no step is trained twice."""
    optimizer = {"ema": {"average_decay": 0.5}} if averages else {}
    params = experiment(digits, task=ONE_PHASE, trainer={"checkpoint_interval": 10, "optimizer_config": optimizer})
    seen = []

    def evaluated(step):
        seen.append(step)
        if step == 6:
            raise PausedError

    with pytest.raises(PausedError):
        train.run(params, str(tmp_path), "train_and_eval", evaluated=evaluated)
    assert checkpoints.newest(tmp_path).endswith("-6")
    train.run(params, str(tmp_path), "train_and_eval", evaluated=seen.append)
    assert seen == [6, 6, 12]
    assert [block["step"] for block in step_log.read_blocks(tmp_path)] == [2, 4, 6, 8, 10, 12]
