"""What a run reports, exports and tests is the best network of its training; the training is planted."""

import pickle
import time
import types

import pytest
import tensorflow as tf
from official.core import exp_factory
from official.modeling import optimization

from asvit_tf import (
    cli,
    registry_imports,  # noqa: F401
)
from asvit_tf.dataloaders.classification import Dataset
from asvit_tf.errors import DivergedError
from asvit_tf.hardware.choice import Chosen
from asvit_tf.modeling import checkpoints
from asvit_tf.serving import export
from asvit_tf.tasks import plans
from asvit_tf.training import run as train
from asvit_tf.training.saving.best import BestKeeper
from search.runs import timetable, trainings
from search.runs.pipeline import _Run
from search.runs.settings import RunSettings
from search.runs.timetable import Choice, EpochsChangedError, Pace

STEP = 10
CURVE = (0.5, 0.9, 0.4)  # Of the accuracy; the network of step s holds the number s.


class Killed(Exception):
    pass


@pytest.fixture
def run(tmp_path):
    return _Run(tmp_path, RunSettings(), lambda line: None, Chosen(), 0.0, None)


@pytest.fixture
def params():
    params = exp_factory.get_exp_config("asvit_digits")
    params.trainer.optimizer_config.ema = optimization.EMAConfig(average_decay=0.5)
    return params


def metrics(accuracy):
    return dict(accuracy=accuracy, balanced_accuracy=accuracy, validation_loss=1.0, learned=1.0)


def planted(keeps=True, killed_after=None, learned=1.0, end=None):
    """A training that is killed after so many evaluations, or not; or ends with an error."""

    def fake(params, model_dir, mode, progress=False, root=None, keeps_best=False, evaluated=None):
        assert keeps_best
        number = tf.Variable(0)
        checkpoint = tf.train.Checkpoint(number=number)
        manager = tf.train.CheckpointManager(checkpoint, model_dir, max_to_keep=2)
        keeper = BestKeeper(model_dir)
        for i, accuracy in enumerate(CURVE, 1):
            number.assign(i * STEP)
            manager.save(checkpoint_number=i * STEP)
            if keeps:
                keeper.maybe_export_checkpoint(checkpoint, {**metrics(accuracy), "learned": learned}, i * STEP)
            if killed_after == i:
                raise Killed
        if end is not None:
            raise end
        return {**metrics(CURVE[-1]), "best_accuracy": max(CURVE)}

    return fake


def number_in(path):
    return tf.train.load_variable(str(path), "number/.ATTRIBUTES/VARIABLE_VALUE")


def exported_by(run, params, monkeypatch):
    """The checkpoint that the step of export asks for."""
    asked = []
    monkeypatch.setattr(export, "export", lambda *args, checkpoint=None: asked.append(checkpoint))
    run.export_model(params)
    return asked[0]


def answers_of(run, params, monkeypatch):
    """The number in the checkpoint that is evaluated on the test split, and whether weights are averaged there."""
    asked = []

    def evaluate(params, model_dir, mode, **options):
        assert mode == "eval"
        assert params.task.validation_data.input_path.endswith("test.tfrecord")
        asked.append((number_in(checkpoints.newest(model_dir)), params.trainer.optimizer_config.ema is not None))
        return metrics(0.7)

    monkeypatch.setattr(train, "run", evaluate)
    dataset = Dataset(str(run.directory), ("a", "b"), 8, 4, test_examples=4)
    for _ in range(2):
        assert run.evaluate_test(params, dataset)["accuracy"] == 0.7
    (once,) = asked
    return once


@pytest.mark.parametrize("kills", [[], [1], [2, 2], [3, 1]])
def test_the_best_network_is_reported_exported_and_tested(run, params, monkeypatch, kills):
    for after in kills:
        monkeypatch.setattr(train, "run", planted(killed_after=after))
        with pytest.raises(Killed):
            run.train_model(params)
    monkeypatch.setattr(train, "run", planted())
    result = run.train_model(params)
    assert (result["accuracy"], result["best_step"]) == (0.9, 2 * STEP)
    assert run.train_model(params) == result
    assert number_in(exported_by(run, params, monkeypatch)) == 2 * STEP
    # Its model has the averages; swapped with the moments' they would be the weights behind them.
    assert answers_of(run, params, monkeypatch) == (2 * STEP, False)
    assert params.trainer.optimizer_config.ema is not None


LOST = DivergedError("the loss is not a number at step 30 after 2 set-backs", "start again in another model_dir")


def test_a_training_that_is_lost_ends_with_its_best_network(run, params, monkeypatch, capsys):
    run._say = print
    monkeypatch.setattr(train, "run", planted(end=LOST))
    (run.directory / "train/start").mkdir(parents=True)
    result = run.train_model(params)
    assert (result["accuracy"], result["best_step"]) == (0.9, 2 * STEP)
    assert result["diverged"] == "the loss is not a number at step 30 after 2 set-backs"
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"{result['diverged']}: the training ends here, with its best network of before, that of step 20"
    assert not (run.directory / "train/start").exists()
    assert number_in(exported_by(run, params, monkeypatch)) == 2 * STEP
    monkeypatch.setattr(train, "run", planted(end=Killed()))
    assert run.train_model(params) == result  # It is not trained again.


@pytest.mark.parametrize("kept", [dict(learned=0.0), dict(keeps=False)])
def test_a_training_that_is_lost_and_kept_nothing_says_how_to_start_again(run, params, monkeypatch, kept):
    params.override({"trainer": {"optimizer_config": {"learning_rate": {"cosine": {"initial_learning_rate": 0.02}}}}})
    monkeypatch.setattr(train, "run", planted(end=LOST, **kept))
    with pytest.raises(DivergedError) as raised:
        run.train_model(params)
    what, _, advice = str(pickle.loads(pickle.dumps(raised.value))).partition("; ")
    assert what == LOST.what
    assert advice.startswith("start again with another --output and a lower learning rate, which was 0.02, as ")
    # The words are the command's.
    words = advice.partition(" as ")[2].split()
    options = cli.app.cli.commands["run"].make_context("run", ["--output", "x", *words]).params
    plans.apply(params, options["params_override"])
    assert params.trainer.optimizer_config.learning_rate.cosine.initial_learning_rate == pytest.approx(0.002)
    assert not (run.directory / "train/result.json").exists()


def test_a_training_of_an_earlier_version_has_its_last_network(run, params, monkeypatch):
    monkeypatch.setattr(train, "run", planted(keeps=False))
    result = run.train_model(params)
    assert result["accuracy"] == CURVE[-1]
    assert "best_step" not in result
    assert exported_by(run, params, monkeypatch) is None
    assert answers_of(run, params, monkeypatch) == (3 * STEP, True)


def test_a_training_goes_on_with_the_epochs_that_fit(tmp_path, monkeypatch):
    """Another number behind an evaluation: the same directory, the recipe that was begun, the new end; also later."""
    timed = _Run(tmp_path, RunSettings(data_path=".", hours=1), lambda line: None, Chosen(), time.monotonic(), None)
    timed._timetable.choice(lambda seconds: Choice(0, 4, seconds))
    params = exp_factory.get_exp_config("asvit_digits")
    params.override({"trainer": {"train_steps": 40, "steps_per_loop": 10}})
    asked, paced = [], []

    def fake(params, model_dir, mode, *, evaluated, **options):
        asked.append(params.trainer.train_steps)
        paced.append(evaluated)
        if len(asked) == 1:
            raise EpochsChangedError(6)
        return metrics(0.5)

    monkeypatch.setattr(train, "run", fake)
    timed.train_model(params)
    assert asked == [40, 60]
    assert all(isinstance(pace, Pace) for pace in paced)
    assert plans.epochs_of(trainings.with_changed_epochs(params, timed._timetable)) == 6
    again = _Run(tmp_path, RunSettings(data_path=".", hours=1), lambda line: None, Chosen(), time.monotonic(), None)
    assert plans.epochs_of(trainings.with_changed_epochs(params, again._timetable)) == 6


def test_a_start_that_goes_on_does_not_time_what_comes_before_its_first_steps(tmp_path, monkeypatch):
    """It evaluates the checkpoint of step 20 again, traces, and then trains as fast as the choice expected."""
    timed = _Run(tmp_path, RunSettings(data_path=".", hours=1), lambda line: None, Chosen(), time.monotonic(), None)
    timed._timetable.choice(lambda seconds: Choice(0, 20, seconds))
    params = exp_factory.get_exp_config("asvit_digits")
    params.override({"trainer": {"train_steps": 200, "steps_per_loop": 10}})
    now = types.SimpleNamespace(seconds=time.monotonic())
    monkeypatch.setattr(timetable, "time", types.SimpleNamespace(monotonic=lambda: now.seconds))
    (tmp_path / "train").mkdir()
    tf.train.Checkpoint().write(str(tmp_path / "train/ckpt-20"))
    tf.compat.v1.train.update_checkpoint_state(str(tmp_path / "train"), str(tmp_path / "train/ckpt-20"))

    def fake(params, model_dir, mode, *, evaluated, **options):
        for step, seconds in ((20, 0), (40, 300 + 2 * 180), (60, 2 * 180), (80, 2 * 180)):  # 3,540 s for all 18 epochs.
            now.seconds += seconds
            evaluated(step)
        return metrics(0.5)

    monkeypatch.setattr(train, "run", fake)
    timed.train_model(params)
    assert timed._timetable.changes == 0


@pytest.mark.parametrize("settings", [RunSettings(), RunSettings(data_path=".", hours=1, epochs=4)])
def test_epochs_that_were_asked_for_stay(tmp_path, monkeypatch, settings):
    run = _Run(tmp_path, settings, lambda line: None, Chosen(), time.monotonic(), None)
    if run._timetable is not None:
        run._timetable.choice(lambda seconds: Choice(0, 4, seconds))
    asked = []
    monkeypatch.setattr(train, "run", lambda *args, evaluated, **options: asked.append(evaluated) or metrics(0.5))
    run.train_model(exp_factory.get_exp_config("asvit_digits"))
    assert asked == [None]
