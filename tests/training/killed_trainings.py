"""Trainings that are killed and started again, beside one that is not; the answer, as JSON, is what both end with.

    TF_DETERMINISTIC_OPS=1 python killed_trainings.py DIRECTORY

In a process of its own: TensorFlow's determinism holds for all of a process.
"""

import hashlib
import json
import os
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
from asvit_tf.training.saving import best

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
    """All that draws: order, crops and mirrors, both kinds of dropout; averaged weights; changes with transitions."""
    return experiment(
        digits,
        task={
            "model": {"dropout_rate": 0.3, "backbone": {"asvit": {"stochastic_depth": 0.5}}},
            "retokenization": {"transition": 0.3, "transition_period": 2},
            "train_data": {"input_path": path, "shuffle_buffer_size": 100},
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
    found = best.read(model_dir)
    return {
        "best": [found.step, found.metrics, digest(found.checkpoint)],
        "step": int(tf.train.latest_checkpoint(model_dir).rsplit("-", 1)[1]),
        "weights": digest(tf.train.latest_checkpoint(model_dir)),
        "averages": digest(tf.train.latest_checkpoint(model_dir / "ema_checkpoints")),
        "metrics": metrics,
        "blocks": rows,
        "evaluations": train.read_evaluations(model_dir, "validation_loss"),
    }


# Method, or function, that dies after its work, and when; each start of the training meets the next one.
KILLS = {
    "inside a transition": (step_log.StepLog, "__call__", lambda log: log._trainer.global_step.numpy() == 4),
    "straight after a checkpoint": (SoundCheckpoints, "save", lambda manager: manager.latest_checkpoint.endswith("-6")),
    "between the numbers and the weights of the best": (best, "write_json", lambda path: "/best/" in path),
    "in an evaluation": (session.Evaluation, "__call__", lambda evaluation: evaluation._session.step() == 6),
    "inside a phase": (step_log.StepLog, "__call__", lambda log: log._trainer.global_step.numpy() == 8),
    "in the last evaluation": (session.Evaluation, "__call__", lambda evaluation: evaluation._session.step() == STEPS),
}


def patch(owner, method, dies):
    """Has a method die after its work, as soon as `dies`; returns how it was."""
    original = getattr(owner, method)

    def dying(first, *args, **kwargs):
        result = original(first, *args, **kwargs)
        if dies(first):
            raise Killed
        return result

    setattr(owner, method, dying)
    return lambda: setattr(owner, method, original)


def main(directory):
    # Graphs run for a few steps here; rewriting them would take longer (tests/conftest.py).
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    digits = data.prepare(directory / "digits")
    params = recipe(digits, few(digits, directory))

    def run(name):
        return train.run(params, str(directory / name), "train_and_eval", keeps_best=True)

    unbroken = ended(directory / "unbroken", run("unbroken"))
    from_steps = []
    for number, (owner, method, dies) in enumerate(KILLS.values()):
        repair = patch(owner, method, dies)
        try:
            run("killed")
            raise AssertionError("not killed")
        except Killed:
            newest = tf.train.latest_checkpoint(directory / "killed")
            from_steps.append(int(newest.rsplit("-", 1)[1]))
        finally:
            repair()
        tf_keras.utils.set_random_seed(100 + number)  # As in another process: no generator is where it was.
    killed = ended(directory / "killed", run("killed"))
    tf.random.set_seed(None)  # Another process again.
    exported = export.export(
        export.read_params(str(directory / "killed")), str(directory / "killed"), str(directory / "export")
    )
    print(json.dumps({"unbroken": unbroken, "killed": killed, "from": from_steps, "exported": os.listdir(exported)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
