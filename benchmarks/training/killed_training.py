"""`asvit run`, killed at random moments and started again, ends as an unbroken one; and what that costs.

    python benchmarks/training/killed_training.py [--kills 10] [--arms deterministic free cost]

Arm `deterministic` (TF_DETERMINISTIC_OPS=1): a small run of the digits, unbroken, and runs killed by SIGKILL and
started again until they end, as many as it takes for all kills. The moments are drawn from a seed, in seconds of
processor time since the start, so that they do not depend on what else the machine does. Compared: topologies, every
variable of the last checkpoint and of the SavedModel bit for bit, metrics. Arm `free`: the same without that variable.
Arm `cost`: epochs of digits_asvit_i32_cpu.yaml with and without a new beginning of the draws before each, in turn
within one process, once for each setting of the variable. Rows go to benchmarks/results/killed_training.jsonl.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

RESULTS = Path(__file__).parents[1] / "results" / "killed_training.jsonl"
SMALL = ["--search-steps=3", "--repeats=1", "--budget=0.5", "--epochs=6", "--batch-size=64", "--image-size=32"]
SHORTEST, LONGEST = 3, 45  # Seconds of processor time from a start to its kill; importing TensorFlow takes about 8.
EPOCHS = 6  # Of the arm `cost`, of each kind.


def environment(deterministic):
    rest = {name: value for name, value in os.environ.items() if name != "TF_DETERMINISTIC_OPS"}
    return rest | ({"TF_DETERMINISTIC_OPS": "1"} if deterministic else {})


def start(directory, deterministic):
    command = [sys.executable, "-m", "asvit_tf.cli", "run", f"--output={directory}", *SMALL]
    with open(f"{directory}.txt", "a") as log:
        return subprocess.Popen(command, env=environment(deterministic), stdout=subprocess.DEVNULL, stderr=log)


def processor_seconds(process):
    """Of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def killed(process, seconds):
    """Whether a process was killed after so much processor time; it may end before."""
    while process.poll() is None:
        if processor_seconds(process) >= seconds:
            process.kill()
            process.wait()
            return True
        time.sleep(0.05)
    return False


def place(directory):
    """What a run was doing, by what it left."""
    train = directory / "train"
    if (directory / "result.json").exists():
        return "done"
    if (directory / "saved_model").exists():
        return "report"
    if (train / "result.json").exists():
        return "export"
    if train.exists():
        state = train / "checkpoint"
        newest = state.read_text().splitlines()[0].split('"')[1] if state.exists() else "no checkpoint"
        return f"training, {newest}"
    return "growth" if (directory / "grow").exists() else "search" if (directory / "search").exists() else "data"


def variables(path):
    """Of a checkpoint by name; not how often one was saved, which a set of kills may change."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path))
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names if not name.startswith("save_counter")}


def same(one, other):
    import numpy as np

    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def ended(directory):
    """Last checkpoint, SavedModel, what the run answered."""
    import tensorflow as tf

    result = json.loads((directory / "result.json").read_text())
    weights = variables(tf.train.latest_checkpoint(directory / "train"))
    model = directory / "saved_model" / "variables" / "variables"
    exported = variables(model) if result["saved_model"] else {}
    metrics = json.loads((directory / "train" / "result.json").read_text())
    return result, weights, exported, metrics


def kill_arm(root, deterministic, kills):
    """An unbroken run, killed ones until there are enough kills, and a row that compares them."""
    moments = random.Random(int(deterministic))
    unbroken = root / f"unbroken_{deterministic}"
    begun = time.time()
    assert start(unbroken, deterministic).wait() == 0, Path(f"{unbroken}.txt").read_text()[-2000:]
    unbroken_seconds = time.time() - begun
    print(f"unbroken: {unbroken_seconds:.0f} s", flush=True)
    at, rounds = [], []
    while len(at) < kills:
        broken = root / f"killed_{deterministic}_{len(rounds)}"
        while len(at) < kills:
            moment = round(moments.uniform(SHORTEST, LONGEST), 1)
            process = start(broken, deterministic)
            if not killed(process, moment):
                assert process.returncode == 0, Path(f"{broken}.txt").read_text()[-2000:]
                break
            at.append((moment, place(broken)))
            print(f"killed after {moment} s: {at[-1][1]}", flush=True)
        assert start(broken, deterministic).wait() == 0, Path(f"{broken}.txt").read_text()[-2000:]
        rounds.append(compared(unbroken, broken))
    return dict(
        arm="deterministic" if deterministic else "free",
        kills=at,
        runs=len(rounds),
        **{name: [row[name] for row in rounds] for name in rounds[0]},
        unbroken_accuracy=ended(unbroken)[0]["accuracy"],
        unbroken_seconds=round(unbroken_seconds, 1),
    )


def compared(unbroken, broken):
    """What is the same in two runs."""
    (one, weights, exported, metrics), (other, *rest) = ended(unbroken), ended(broken)
    return dict(
        tracebacks=Path(f"{broken}.txt").read_text().count("Traceback"),
        same_topologies=all(one[name] == other[name] for name in ("topology", "grown")),
        same_weights=same(weights, rest[0]),
        same_saved_model=same(exported, rest[1]),
        same_metrics=metrics == rest[2],
        accuracies=other["accuracy"],
    )


def measure_cost(directory):
    """Prints a row for this process's setting of the variable: seconds of epochs, wall and processor, by kind."""
    import tensorflow as tf
    import tf_keras
    from official.core import task_factory, train_utils

    from asvit_tf.dataloaders import classification as data
    from asvit_tf.design.topology import Topology
    from asvit_tf.tasks import plans
    from asvit_tf.training.trainer import RetokenizingTrainer

    tf_keras.utils.set_random_seed(0)
    dataset = data.prepare(Path(directory) / "data")
    topology = Topology.parse("7,2,3,2|4,2,5,1|3,2,4,2|3,1,3,1|64,24")
    params = plans.classifier(plans.Plan((32, 32), seed=0, epochs=80, batch_size=32), dataset, topology)
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        task = task_factory.get_task(params.task)
        trainer = train_utils.create_trainer(params, task, train=True, evaluate=False, trainer_cls=RetokenizingTrainer)
        steps = tf.constant(params.trainer.steps_per_loop, tf.int32)
        trainer.train(steps)  # Traced.
        trainer.train(steps)
        seconds = {kind: [] for kind in ("on", "anew")}
        for kind in ("on", "anew") * EPOCHS:
            if kind == "anew":
                trainer.begin_draws_anew()
            wall, processor = time.perf_counter(), time.process_time()
            trainer.train(steps)
            seconds[kind].append((time.perf_counter() - wall, time.process_time() - processor))
    row = dict(arm="cost", deterministic="TF_DETERMINISTIC_OPS" in os.environ, epoch_steps=int(steps))
    for kind, pairs in seconds.items():
        row[f"epoch_seconds_{kind}"], row[f"epoch_processor_seconds_{kind}"] = map(statistics.median, zip(*pairs))
    print(json.dumps(row))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--arms", nargs="+", default=["deterministic", "free", "cost"])
    parser.add_argument("--measure")
    options = parser.parse_args()
    if options.measure:
        return measure_cost(options.measure)
    root = Path(tempfile.mkdtemp())
    for arm in options.arms:
        if arm == "cost":
            rows = []
            for deterministic in (False, True):
                command = [sys.executable, __file__, "--measure", str(root)]
                output = subprocess.run(
                    command, env=environment(deterministic), stdout=subprocess.PIPE, text=True, check=True
                )
                rows.append(json.loads(output.stdout.splitlines()[-1]))
        else:
            rows = [kill_arm(root, arm == "deterministic", options.kills)]
        with open(RESULTS, "a") as file:
            for row in rows:
                file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
