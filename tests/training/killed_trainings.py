"""Trainings that are killed and started again, beside one that is not; the answer, as JSON, is what both end with.

    TF_DETERMINISTIC_OPS=1 python killed_trainings.py DIRECTORY

In a process of its own: TensorFlow's determinism holds for all of a process.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from three_phases import STEPS, experiment

from asvit_tf.dataloaders import classification as data
from asvit_tf.serving import export
from asvit_tf.training import run as train
from asvit_tf.training import session, step_log
from asvit_tf.training.runner import SoundCheckpoints

RECORDS = 60  # Less than four batches, so that epochs begin inside of what lies between two checkpoints.


class Killed(Exception):
    pass


def few(digits, directory):
    """The same data with few images to train on."""
    path = str(directory / "few.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for record in tf.data.TFRecordDataset(digits.train_path).take(RECORDS):
            writer.write(record.numpy())
    return path


def recipe(digits, path):
    """All that draws: order, augmentation, both kinds of dropout; averaged weights; changes with transitions."""
    augmentation = {"type": "randaug", "randaug": {"num_layers": 1, "magnitude": 4, "translate_const": 3}}
    return experiment(
        digits,
        task={
            "model": {"dropout_rate": 0.3, "backbone": {"asvit": {"stochastic_depth": 0.5}}},
            "retokenization": {"transition": 0.3, "transition_period": 2},
            "train_data": {"input_path": path, "shuffle_buffer_size": 100, "aug_type": augmentation},
        },
        trainer={
            "checkpoint_interval": 4,  # Saved at 2, 6, 10, 12.
            "optimizer_config": {"ema": {"average_decay": 0.9}},
        },
    )


def digest(checkpoint):
    """All variables of a checkpoint to the bit; not how often one was saved."""
    reader = tf.train.load_checkpoint(checkpoint)
    names = [name for name in reader.get_variable_to_shape_map() if "/.ATTRIBUTES/VARIABLE_VALUE" in name]
    hashed = hashlib.sha256()
    for name in sorted(name for name in names if not name.startswith("save_counter")):
        hashed.update(name.encode() + np.asarray(reader.get_tensor(name)).tobytes())
    return hashed.hexdigest()


def ended(model_dir, metrics):
    """What a training ended with."""
    rows = [
        {name: value for name, value in row.items() if name not in ("seconds", "traced")}
        for row in step_log.read_blocks(model_dir)
    ]
    return {
        "step": int(tf.train.latest_checkpoint(model_dir).rsplit("-", 1)[1]),
        "weights": digest(tf.train.latest_checkpoint(model_dir)),
        "averages": digest(tf.train.latest_checkpoint(model_dir / "ema_checkpoints")),
        "metrics": metrics,
        "blocks": rows,
        "evaluations": train.read_evaluations(model_dir, "validation_loss"),
    }


def kills(patch):
    """Name and way of each kill; `patch(owner, method, dies)` has a method die after it was called, when it shall."""

    def after_block(step):
        return lambda: patch(step_log.StepLog, "__call__", lambda log: log._trainer.global_step.numpy() == step)

    def after_saving(step):
        return lambda: patch(SoundCheckpoints, "save", lambda manager: manager.latest_checkpoint.endswith(f"-{step}"))

    def evaluated(step):
        return lambda: patch(session.Evaluation, "__call__", lambda self: self._session.step() == step)

    return {
        "inside a phase": after_block(8),
        "inside a transition": after_block(4),
        "straight after a checkpoint": after_saving(6),
        "in an evaluation": evaluated(6),
        "in the last evaluation": evaluated(STEPS),
    }


def patch(owner, method, dies):
    """Has a method die after its work, as soon as `dies`; returns how it was."""
    original = getattr(owner, method)

    def dying(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        if dies(self):
            raise Killed
        return result

    setattr(owner, method, dying)
    return lambda: setattr(owner, method, original)


def main(directory):
    digits = data.prepare(directory / "digits")
    params = recipe(digits, few(digits, directory))

    def run(name):
        return train.run(params, str(directory / name), "train_and_eval")

    results = {"unbroken": ended(directory / "unbroken", run("unbroken"))}
    for name, kill in kills(patch).items():
        repair = kill()
        try:
            run(name)
            raise AssertionError(f"{name}: not killed")
        except Killed:
            pass
        finally:
            repair()
        tf_keras.utils.set_random_seed(len(name))  # As another process would: nothing is where it was.
        results[name] = ended(directory / name, run(name))
        if name == "in the last evaluation":
            saved_model = export.export(export.read_params(str(directory / name)), str(directory / name), str(directory / "export"))
            results[name]["exported"] = sorted(path.name for path in Path(saved_model).iterdir())
    print("RESULT" + json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
