"""A training that is killed, again and again, ends as one that is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from official.core import task_factory, train_utils
from three_phases import ONE_PHASE, STEPS, experiment

from asvit_tf.dataloaders import classification as data
from asvit_tf.training import guard, step_log, verdicts
from asvit_tf.training import run as train
from asvit_tf.training.trainer import RetokenizingTrainer
from asvit_tf.training.verdicts import Verdict


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("digits") / "data")


def test_killed_six_times_and_equal_to_the_bit(tmp_path):
    environment = {**os.environ, "TF_DETERMINISTIC_OPS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    script = Path(__file__).with_name("killed_trainings.py")
    process = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    result = json.loads(process.stdout.splitlines()[-1])
    assert result["from"] == [2, 6, 6, 6, 6, STEPS]  # Where each start that followed went on.
    assert result["killed"]["weights"] == result["unbroken"]["weights"]
    assert result["killed"] == result["unbroken"]
    assert "saved_model.pb" in result["exported"]


def test_a_checkpoint_of_an_earlier_version_is_continued_and_set_back_to(digits, tmp_path, monkeypatch):
    """It holds model, moments and steps; what an unbroken training knows of the labels is not in it."""
    params = experiment(digits, task=ONE_PHASE, trainer={"checkpoint_interval": 4})
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        task = task_factory.get_task(params.task)
        trainer = train_utils.create_trainer(params, task, train=True, evaluate=False, trainer_cls=RetokenizingTrainer)
        trainer.global_step.assign(4)
        trainer.optimizer.iterations.assign(4)
        earlier = tf.train.Checkpoint(global_step=trainer.global_step, model=trainer.model, optimizer=trainer.optimizer)
        tf.train.CheckpointManager(earlier, str(tmp_path), max_to_keep=1).save(checkpoint_number=4)

    begun, judge = [], verdicts.judge

    def once(history, total_steps):
        begun.append(history[-1].step if history else 0)
        return Verdict.DIVERGED if len(begun) == 1 else judge(history, total_steps)

    monkeypatch.setattr(verdicts, "_LEAST_STEPS", 1)  # Each block is an observation.
    monkeypatch.setattr(verdicts, "judge", once)
    train.run(params, str(tmp_path), "train")
    assert [(row.step, row.restored) for row in guard.read_rollbacks(tmp_path)] == [(6, 4)]
    assert [block["step"] for block in step_log.read_blocks(tmp_path)] == [6, 8, 10, 12]
    assert tf.train.latest_checkpoint(tmp_path).endswith(f"-{STEPS}")
    newest = tf.train.latest_checkpoint(tmp_path)
    (counts,) = (name for name, _ in tf.train.list_variables(newest) if "all_labels" in name)
    # All labels since this version continued: those of steps 5 and 6, and of 5 to 12 again.
    assert tf.train.load_variable(newest, counts).sum() == 16 * (2 + 8)


def test_evaluations_lie_at_multiples_of_their_interval_wherever_training_continues(digits, tmp_path):
    """Continued at 4, with an interval of 6: at 6 and 12, as unbroken, not at 10."""
    params = experiment(digits, task=ONE_PHASE, trainer={"train_steps": 4})
    train.run(params, str(tmp_path), "train")
    train.run(experiment(digits, task=ONE_PHASE), str(tmp_path), "train_and_eval")
    assert [step for step, _ in train.read_evaluations(tmp_path)] == [6, 12]
