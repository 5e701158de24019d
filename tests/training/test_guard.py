"""A training that loses what it learned is set back: real trainings, whose learning rate is absurd for a while."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import TINY, two_devices
from official.core import exp_factory, task_factory, train_utils
from official.modeling import optimization
from official.modeling.optimization import lr_schedule

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.dataloaders import classification as data
from asvit_tf.errors import DivergedError
from asvit_tf.training import guard, step_log, verdicts
from asvit_tf.training import run as train
from asvit_tf.training.learning_rate import EasedLearningRate, eased
from asvit_tf.training.runner import ExperimentRunner
from asvit_tf.training.saving import best
from asvit_tf.training.trainer import RetokenizingTrainer, StepBlock

BLOCK, STEPS = 50, 900
RATE = 3e-3


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("digits") / "data")


def experiment(digits, times, planted=(280, 330), **overrides):
    """Digits at 4 tokens; between two steps, inside a block, the learning rate is so many times too high."""
    params = exp_factory.get_exp_config("asvit_digits")
    params.override(
        {
            "runtime": {"distribution_strategy": "one_device", "num_gpus": 0, "mixed_precision_dtype": "float32"},
            "task": {
                "seed": 0,
                "model": {"backbone": {"asvit": {"topology": TINY, "stride": 16, "dilation": 5}}},
                "retokenization": {"phases": [dict(stride=16, dilation=5)]},
                "train_data": {
                    "input_path": digits.train_path,
                    "global_batch_size": 32,
                    "dtype": "float32",
                    "aug_rand_hflip": False,
                    "aug_crop": False,
                },
                "validation_data": {"input_path": digits.validation_path, "global_batch_size": 180, "dtype": "float32"},
            },
            "trainer": {
                "train_steps": STEPS,
                "steps_per_loop": BLOCK,
                "summary_interval": BLOCK,
                "checkpoint_interval": BLOCK,
                "max_to_keep": 3,
                "optimizer_config": {
                    "learning_rate": {
                        "type": "stepwise",
                        "stepwise": {"boundaries": list(planted), "values": [RATE, RATE * times, RATE]},
                    },
                    "warmup": {"linear": {"warmup_steps": BLOCK}},
                },
            },
        },
        is_strict=True,
    )
    params.override(overrides, is_strict=True)
    return params


def test_a_planted_collapse_is_set_back_and_finished_also_when_killed(digits, tmp_path, monkeypatch, capsys):
    params = experiment(digits, times=30)

    class Killed(Exception):
        pass

    def kill_after_a_rollback(self, output):
        wrote(self, output)
        if guard.read_rollbacks(tmp_path) and blocks()[-1]["step"] > guard.read_rollbacks(tmp_path)[-1].restored:
            raise Killed

    def blocks():
        return step_log.read_blocks(tmp_path)

    wrote = step_log.StepLog.__call__
    monkeypatch.setattr(step_log.StepLog, "__call__", kill_after_a_rollback)
    with pytest.raises(Killed):
        train.run(params, str(tmp_path), "train")
    monkeypatch.setattr(step_log.StepLog, "__call__", wrote)
    before = guard.read_rollbacks(tmp_path)
    assert len(before) == 1
    assert "the loss is back at that of guessing; training went on from step 2" in capsys.readouterr().err
    train.run(params, str(tmp_path), "train")

    rollbacks = guard.read_rollbacks(tmp_path)
    assert rollbacks[:1] == before
    for i, row in enumerate(rollbacks, 1):
        # The block to 300 begins soundly, and its loss may look so; its weights are not.
        assert row.restored in (200, 250)
        assert row.step > 330
        assert row.factor == pytest.approx(verdicts.FACTOR**i)
    assert [block["step"] for block in blocks()] == list(range(BLOCK, STEPS + 1, BLOCK))
    assert blocks()[-1]["training_loss"] < 0.6 * blocks()[-1]["guessing_loss"]
    # Steps trained again count once, and had the lower rate behind the new warm-up.
    again = [block["learning_rate"] for block in blocks() if block["step"] > 350]
    assert again == pytest.approx([RATE * rollbacks[-1].factor] * len(again))
    assert not (tmp_path / "start").exists()


def test_a_collapse_in_the_last_steps_is_set_back(digits, tmp_path):
    """They fill no whole block: nothing of them would be saved, and the training would end as if it were sound."""
    often = {"validation_interval": BLOCK, "validation_steps": 1}
    params = experiment(digits, times=30, planted=(330, 10_000), trainer={"train_steps": 380, **often})
    train.run(params, str(tmp_path), "train_and_eval", keeps_best=True)
    assert [row.step for row in guard.read_rollbacks(tmp_path)][:1] == [380]
    last = step_log.read_blocks(tmp_path)[-1]
    assert last["training_loss"] < 0.9 * last["guessing_loss"]
    assert tf.train.latest_checkpoint(tmp_path).endswith("-380")
    # What was evaluated in the collapse, or before it, is not taken for better than what is.
    found = best.read(tmp_path)
    curve = dict(train.read_evaluations(tmp_path))
    assert found.metrics["accuracy"] >= max(curve.values())
    assert found.metrics["accuracy"] > 0.5


def test_weights_ruined_just_before_they_are_saved_are_not_taken(digits, tmp_path):
    """One absurd step, the last of a block: the losses of that block are all from before it."""
    with pytest.raises(DivergedError, match="the loss is not a number at step 200 after 2 set-backs"):
        train.run(experiment(digits, times=1e30, planted=(149, 150)), str(tmp_path), "train")
    # A third of absurd is absurd, so it happens again, and again from weights before that step.
    assert [row.restored for row in guard.read_rollbacks(tmp_path)] == [100, 100]


def test_a_training_that_cannot_be_saved_ends_with_one_line(digits, tmp_path):
    params = experiment(digits, times=1e6, task={"guard": {"max_rollbacks": 1}})
    with pytest.raises(
        DivergedError, match=r"at step \d+ after 1 set-back; start again in another model_dir with a lower"
    ):
        train.run(params, str(tmp_path), "train")
    assert len(guard.read_rollbacks(tmp_path)) == 1
    newest = tf.train.latest_checkpoint(tmp_path)
    assert int(newest.rsplit("-", 1)[1]) <= 300


def test_a_training_that_never_learns_starts_anew_and_ends(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts, "_UNLEARNED_STEPS", 100)  # Of 300; the number itself is in test_verdicts.
    still = {"learning_rate": {"stepwise": {"values": [0.0] * 3}}}
    params = experiment(digits, times=0, trainer={"train_steps": 300, "optimizer_config": still})
    train.run(params, str(tmp_path), "train")
    assert [(row.step, row.restored, row.reason) for row in guard.read_rollbacks(tmp_path)] == [
        (100, 0, verdicts.Verdict.UNLEARNED.value)
    ] * 2


def test_every_replica_is_set_back_and_eased(digits, tmp_path):
    """Losses are planted; weights, moments and step are those of the checkpoint afterwards, on both devices."""
    params = experiment(digits, times=1)
    strategy = two_devices()
    with strategy.scope():
        task = task_factory.get_task(params.task)
        trainer = train_utils.create_trainer(params, task, train=True, evaluate=False, trainer_cls=RetokenizingTrainer)
    watch = guard.Guard(trainer, str(tmp_path), params.trainer, most=2, writes=True)
    runner = ExperimentRunner(strategy, task, "train", params, str(tmp_path), trainer=trainer)
    watch.begin(runner.checkpoint_manager)
    variables = [*trainer.model.variables, *trainer.optimizer.variables()]

    def block(loss):
        """What the controller does, with weights moved and a planted loss instead of a training."""
        for variable in variables:
            variable.assign(variable + tf.cast(1, variable.dtype))
        trainer.global_step.assign_add(BLOCK)
        metrics = {"training_loss": loss, "guessing_loss": 2.3}
        trainer.latest = [StepBlock(int(trainer.global_step.numpy()), BLOCK, 0, 16, 5, False, 1.0, metrics)]
        watch({})
        runner.checkpoint_manager.save(checkpoint_number=trainer.global_step, check_interval=False)

    for loss in (2.3, 1.0, 1.0, 1.0):
        block(loss)
    confirmed = [variable.numpy() - np.ones((), variable.dtype.as_numpy_dtype) for variable in variables]
    for _ in range(3):
        block(2.4)
        assert tf.train.latest_checkpoint(tmp_path).endswith(f"-{4 * BLOCK}")  # Nothing unsound is saved.
    block(2.4)
    # The checkpoint of step 200 is not known to be sound; it is gone, and the one before it is the newest.
    assert int(trainer.global_step.numpy()) == 3 * BLOCK
    assert tf.train.latest_checkpoint(tmp_path).endswith(f"-{3 * BLOCK}")
    assert not list(tmp_path.glob(f"ckpt-{4 * BLOCK}.*"))
    for variable, value in zip(variables, confirmed):
        for replica in strategy.experimental_local_results(variable):
            np.testing.assert_allclose(replica.numpy(), value, rtol=1e-6)
    rates = strategy.run(lambda: trainer.optimizer.learning_rate(tf.constant(5 * BLOCK, tf.int64)))
    assert [float(rate) for rate in strategy.experimental_local_results(rates)] == pytest.approx([RATE / 3] * 2)

    # Never learned: back to the initial weights, which no checkpoint holds any more.
    (tmp_path / "other").mkdir()
    watch = guard.Guard(trainer, str(tmp_path / "other"), params.trainer, most=1, writes=True)
    trainer.global_step.assign(0)
    watch.begin(runner.checkpoint_manager)
    kernel = trainer.model.backbone.stem.kernel.numpy()
    for _ in range(300 // BLOCK):
        block(2.3)
    assert tf.train.latest_checkpoint(tmp_path).endswith("-0")  # A training killed here starts anew, too.
    for _ in range(STEPS // BLOCK - 300 // BLOCK):
        block(2.3)
    last = guard.read_rollbacks(tmp_path / "other")
    assert [(row.restored, row.reason) for row in last] == [(0, verdicts.Verdict.UNLEARNED.value)]
    trained_again = (int(trainer.global_step.numpy())) // BLOCK
    assert trained_again == STEPS // BLOCK - 300 // BLOCK  # Without tries left it goes on.
    np.testing.assert_allclose(trainer.model.backbone.stem.kernel.numpy(), kernel + trained_again, rtol=1e-5)


def test_the_eased_rate_against_its_formula():
    base = lr_schedule.LinearWarmup(tf_keras.optimizers.schedules.CosineDecay(0.1, 100), 10, 0.0)
    rate = EasedLearningRate(base, 4)
    program = tf.function(rate)
    steps = np.arange(0, 100, 7)

    def values(function):
        return [float(function(tf.constant(step, tf.int64))) for step in steps]

    assert values(program) == pytest.approx(values(base))
    rate.ease(0.25, 42)  # The traced program follows.
    expected = np.array(values(base)) * 0.25 * np.clip((steps - 42 + 1) / 4, 0, 1)
    assert values(program) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["asvit_imagenet", "asvit_digits", "retinanet_asvit_coco", "segmentation_asvit_coco"])
def test_the_sum_over_replicas_is_clipped(name):
    """Two replicas whose gradients are 0.9 long each and 1.8 together: an optimizer that clips what each adds would not
    clip. Adam's first moment shows what was applied."""
    config = exp_factory.get_exp_config(name).trainer.optimizer_config.optimizer
    optimizers = optimization.OptimizerFactory(
        optimization.OptimizationConfig(
            {"optimizer": config.as_dict(), "learning_rate": {"type": "constant", "constant": {"learning_rate": 0.1}}}
        )
    )
    strategy = two_devices()
    with strategy.scope():
        optimizer = optimizers.build_optimizer(0.1)
        eased(optimizer, 1)
        weights = tf.Variable(tf.zeros(2))

    def replica_step():
        optimizer.apply_gradients([(tf.constant([0.9, 0.0]), weights)])

    tf.function(lambda: strategy.run(replica_step))()
    moment = strategy.experimental_local_results(optimizer.get_slot(weights, "m"))[0]
    assert moment.numpy() / (1 - config.adamw.beta_1) == pytest.approx([1.0, 0.0])
