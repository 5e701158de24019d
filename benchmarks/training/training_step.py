"""One training step of As-ViT Small in each phase, against the Model Garden's own ViT-S/16 and MaxViT-tiny.

    python benchmarks/training/training_step.py

224 x 224, batch 8, float32, the Model Garden's classification task (forward, backward, AdamW), each arm one graph
program on the same random batch, run in turn in one process. Multiply-accumulates are the Model Garden's own count.
Peak memory is that of a process that runs one arm only. The profile is TensorFlow's own timing of every operation in
one step. Rows go to benchmarks/results/training_step.jsonl.
"""

import collections
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from official.core import exp_factory, task_factory, train_utils
from official.projects.maxvit import registry_imports as maxvit_imports  # noqa: F401
from official.vision import registry_imports as vision_imports  # noqa: F401

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.design.retokenization import Tokenization

RESULTS = Path(__file__).parents[1] / "results" / "training_step.jsonl"
BATCH, ROUNDS, CLASSES = 8, 11, 1000
NETWORKS = ("As-ViT Small", "ViT-S/16", "MaxViT-tiny")
STRIDES = {"stride 16": 16, "stride 8": 8, "stride 4": 4}
KERNEL_SIZE = 8


def model_config(name):
    """The classification model's config of one network."""
    if name == "As-ViT Small":
        params = exp_factory.get_exp_config("asvit_imagenet")
        params.override({"task": {"model": {"backbone": {"asvit": {"topology": "small"}}}}})
        return params.task.model
    if name == "MaxViT-tiny":
        return exp_factory.get_exp_config("maxvit_imagenet").task.model
    model = exp_factory.get_exp_config("deit_imagenet_pretrain").task.model
    model.backbone.vit.model_name = "vit-s16"
    model.backbone.vit.representation_size = 0
    return model


def build(name):
    """Task, model and optimizer of one network, all with the same recipe."""
    params = exp_factory.get_exp_config("asvit_imagenet")
    config = params.task if name == "As-ViT Small" else exp_factory.get_exp_config("deit_imagenet_pretrain").task
    config.model = model_config(name)
    config.model.num_classes = CLASSES
    config.losses.one_hot, config.losses.soft_labels = False, True
    task = task_factory.get_task(config)
    return task, task.build_model(), task.create_optimizer(params.trainer.optimizer_config)


def arms(only=None):
    """Name of each arm to its step, and to the network's parameters and GMACs; all, or those of one arm's network."""
    generator = np.random.default_rng(0)
    images = tf.constant(generator.standard_normal((BATCH, 224, 224, 3)), tf.float32)
    labels = tf.one_hot(generator.integers(CLASSES, size=BATCH), CLASSES)
    steps, facts = {}, {}
    for name in NETWORKS if only is None else (only.split(",")[0],):
        task, model, optimizer = build(name)
        size = dict(parameters=model.count_params(), gmacs=train_utils.try_count_flops(model) / 2e9)

        def one_step(task=task, model=model, optimizer=optimizer):
            return task.train_step((images, labels), model, optimizer)

        for phase in STRIDES if name == "As-ViT Small" else (None,):
            arm = name if phase is None else f"{name}, {phase}"
            steps[arm], facts[arm] = program(one_step, model, phase), size
    return steps, facts


def program(one_step, model, phase):
    """One training step as a graph program of its own, traced in its phase at the first call."""
    traced = tf.function(lambda: one_step()["loss"], autograph=False)

    def run():
        if phase is not None:
            model.backbone.set_tokenization(Tokenization.auto(STRIDES[phase], KERNEL_SIZE))
        return float(traced())

    return run


def timed(step):
    start = time.perf_counter()
    loss = step()
    assert np.isfinite(loss)
    return time.perf_counter() - start


def profile(step):
    """Seconds of one step by operation, from TensorFlow's own trace, added over threads."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as directory:
        with tf.profiler.experimental.Profile(directory):
            for _ in range(3):
                step()
        space = xplane_pb2.XSpace()
        space.ParseFromString(Path(glob.glob(f"{directory}/**/*.xplane.pb", recursive=True)[0]).read_bytes())
    seconds = collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                # An operation's event is called "name:type"; others are the runtime's own.
                name, colon, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
                if colon and kind.isidentifier() and not name.endswith(":"):
                    seconds[kind.removeprefix("_Mkl")] += event.duration_ps / 3e12
    return {kind: round(value, 4) for kind, value in seconds.most_common(12)}


def peak_mib():
    """Peak resident size of this process."""
    # Not getrusage: its maximum counts the parent from which this process was forked.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def peak_of(arm):
    """Peak resident size, in MiB, of a process that runs one arm only."""
    finished = subprocess.run([sys.executable, __file__, arm], capture_output=True, text=True, check=True)
    return float(finished.stdout.splitlines()[-1])


def main():
    if len(sys.argv) == 2:
        step = arms(sys.argv[1])[0][sys.argv[1]]
        for _ in range(3):
            step()
        print(peak_mib())
        return
    steps, facts = arms()
    first = {arm: timed(step) for arm, step in steps.items()}
    for step in steps.values():
        step()
    seconds = {arm: [] for arm in steps}
    for _ in range(ROUNDS):
        for arm, step in steps.items():
            seconds[arm].append(timed(step))
    rows = []
    for arm, values in seconds.items():
        median = statistics.median(values)
        row = dict(arm=arm, seconds=median, least=min(values), trace_seconds=first[arm] - median, **facts[arm])
        if arm.endswith(("stride 4", *NETWORKS[1:])):
            row["seconds_per_gmac"] = median / (BATCH * row["gmacs"])
            row["profile"] = profile(steps[arm])
        row["peak_mib"] = peak_of(arm)
        rows.append(row)
        print(json.dumps(row), flush=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    coarse, middle, fine = (row for row in rows if "stride" in row["arm"])
    saved = 1 - (coarse["seconds"] + middle["seconds"] + fine["seconds"]) / (3 * fine["seconds"])
    extra = coarse["trace_seconds"] + middle["trace_seconds"]
    print(
        f"thirds saves {saved:.1%} of warm step time; two more programs take {extra:.1f} s to trace, earned back after "
        f"{extra / (saved * fine['seconds']):.0f} steps"
    )


if __name__ == "__main__":
    main()
