"""The best network of a training is kept, whatever the order of good and bad, NaN and kills."""

import json
import math
import os

import numpy as np
import pytest
import tensorflow as tf
from three_phases import accuracy_of, experiment, scalars

from asvit_tf.dataloaders import classification as data
from asvit_tf.modeling import checkpoints
from asvit_tf.training import run as train
from asvit_tf.training.saving import best


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("digits") / "data")


class Killed(Exception):
    pass


class Training:
    """A training of one number, whose evaluations are planted: at step s the number is s."""

    def __init__(self, directory):
        self.directory = str(directory)
        self.number = tf.Variable(0.0)
        self.checkpoint = tf.train.Checkpoint(number=self.number)
        self.start()

    def start(self):
        """As in a new process."""
        self.keeper = best.BestKeeper(self.directory)

    def evaluate(self, step, accuracy, loss=1.0, **metrics):
        self.number.assign(step)
        logs = {"accuracy": tf.constant(accuracy), "validation_loss": tf.constant(loss), **metrics}
        return self.keeper.maybe_export_checkpoint(self.checkpoint, logs, np.int64(step))

    def kept(self):
        """The number in the checkpoint, which is the step that its file of numbers has."""
        found = best.read(self.directory)
        number = tf.train.load_variable(checkpoints.readable(found.checkpoint), "number/.ATTRIBUTES/VARIABLE_VALUE")
        assert number == found.step
        return found.step


CURVES = {
    "rising": ([0.1, 0.2, 0.3], 3),
    "a peak": ([0.1, 0.5, 0.3, 0.4], 2),
    "falling": ([0.5, 0.2], 1),
    "not a number first": ([math.nan, 0.2, 0.1], 2),
    "not a number between": ([0.2, math.nan, 0.3, math.nan], 3),
    "as good again": ([0.2, 0.4, 0.4], 2),
}


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("curve", CURVES)
def test_a_planted_curve(tmp_path, curve, restarts):
    accuracies, expected = CURVES[curve]
    training = Training(tmp_path / "exp [1] *?")  # Where TensorFlow's patterns find nothing.
    for step, accuracy in enumerate(accuracies, 1):
        training.evaluate(step, accuracy)
        if restarts:
            training.start()
    assert training.kept() == expected
    assert training.keeper.best_ckpt_logs["accuracy"] == pytest.approx(accuracies[expected - 1])
    left = {name.partition(".")[0] for name in os.listdir(tmp_path / "exp [1] *?" / "best")} - {"checkpoint"}
    assert len(left) == 1  # One checkpoint, with its numbers.


def test_of_equal_ones_that_of_the_lower_loss(tmp_path):
    training = Training(tmp_path)
    kept = [training.evaluate(step, 0.5, loss) for step, loss in enumerate((0.9, 0.7, 0.8, math.nan), 1)]
    assert kept == [True, True, False, False]
    assert training.kept() == 2


def test_nothing_is_kept_of_a_training_that_is_not_a_number(tmp_path):
    training = Training(tmp_path)
    assert not training.evaluate(1, 0.1, math.nan)
    assert best.read(tmp_path) is None
    assert training.keeper.best_ckpt_logs["accuracy"] == pytest.approx(0.1)  # The trainer reports some.


def test_killed_between_numbers_and_weights(tmp_path, monkeypatch):
    """The network before counts on, and the same evaluation, made again, is better than that."""
    training = Training(tmp_path)
    training.evaluate(1, 0.2)
    wrote = best.write_json

    def killed(path, value):
        wrote(path, value)
        raise Killed

    monkeypatch.setattr(best, "write_json", killed)
    with pytest.raises(Killed):
        training.evaluate(2, 0.6)
    monkeypatch.setattr(best, "write_json", wrote)
    training.start()
    assert training.kept() == 1
    assert training.evaluate(2, 0.6)
    assert training.kept() == 2
    training.start()
    assert not training.evaluate(2, 0.6)  # Once more behind another kill.
    assert training.kept() == 2


def test_a_step_that_is_trained_again_writes_over_nothing(tmp_path, monkeypatch):
    """Killed while it writes, what was kept is whole."""
    training = Training(tmp_path)
    training.evaluate(2, 0.6)
    before = {path: path.read_bytes() for path in (tmp_path / "best").iterdir()}

    def killed(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(tf.train.CheckpointManager, "save", killed)
    with pytest.raises(Killed):
        training.evaluate(2, 0.7)
    assert {path: path.read_bytes() for path in before} == before
    assert training.kept() == 2


def test_numbers_that_somebody_removed(tmp_path):
    training = Training(tmp_path)
    training.evaluate(1, 0.2)
    (tmp_path / "best/ckpt-1.json").write_text("{")
    assert best.read(tmp_path) is None
    training.start()
    assert training.evaluate(2, 0.1)
    assert training.kept() == 2


LAST_GOOD, LONG = 110, 120  # The last evaluation has little time to learn again what one step spoiled.
RUIN = {"type": "stepwise", "stepwise": {"boundaries": [LAST_GOOD, LAST_GOOD + 1], "values": [1e-3, 0.02, 3e-4]}}


@pytest.mark.parametrize("averages", [False, True])
def test_a_training_that_ends_worse(digits, tmp_path, averages):
    """One absurd step behind the middle spoils the weights: the network from before it is kept, as it was evaluated.

    Of averaged weights it is the averages that were evaluated, and that the checkpoint's model has.
    """
    optimizer = {"learning_rate": RUIN, **({"ema": {"average_decay": 0.5}} if averages else {})}
    trainer = {"optimizer_config": optimizer, "train_steps": LONG, "validation_interval": 20}
    phases = [dict(until_step=None, stride=4, dilation=1)]
    task = {"guard": {"max_rollbacks": 0}, "retokenization": {"phases": phases}}
    params = experiment(digits, task={**task, "train_data": {"global_batch_size": 64}}, trainer=trainer)
    last = train.run(params, str(tmp_path), "train_and_eval", keeps_best=True)
    curve = scalars(tmp_path / "validation", "accuracy")
    losses = scalars(tmp_path / "validation", "validation_loss")
    found = best.read(tmp_path)
    assert list(curve) == list(range(20, LONG + 1, 20))
    assert found.step <= LAST_GOOD
    assert found.metrics["accuracy"] > max(curve[step] for step in curve if step > LAST_GOOD)
    assert not last["validation_loss"] <= found.metrics["validation_loss"]
    assert found.metrics["accuracy"] == pytest.approx(curve[found.step])
    assert found.metrics["validation_loss"] == pytest.approx(losses[found.step])
    assert accuracy_of(digits, found.checkpoint) == pytest.approx(found.metrics["accuracy"])
    balanced, learned = (scalars(tmp_path / "validation", name) for name in ("balanced_accuracy", "learned"))
    assert found.step == max(curve, key=lambda s: (learned[s], curve[s] + balanced[s], -losses[s]))
    assert last["best_accuracy"] == pytest.approx(found.metrics["accuracy"])
    if averages:
        # As a run evaluates its test split: without averages, which the model has already.
        params.trainer.optimizer_config.ema = None
        again = train.run(params, str(tmp_path / "best"), "eval")
        assert again["validation_loss"] == pytest.approx(found.metrics["validation_loss"], rel=1e-5)


def test_a_plain_training_keeps_none(digits, tmp_path):
    train.run(experiment(digits, trainer={"train_steps": 4}), str(tmp_path), "train_and_eval")
    assert not (tmp_path / "best").exists()
    assert best.read(tmp_path) is None
    assert "best_accuracy" not in json.loads((tmp_path / "retokenization.json").read_text())
