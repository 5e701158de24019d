"""What the training-free measures cost, in forward passes, against the released way of computing them.

    python benchmarks/search/measures.py

The published seed topology, 224 x 224, float32, random weights, norms as the released settings have them. Every arm is
one graph program; arms that are compared run in turn in one process, and the medians count. The slow arms differentiate
as the released code does: one reverse pass for each output channel (velocity), one backward pass over the whole batch
for each image (NTK); both share one forward pass, and their results are checked against ours first. Peak memory is that
of a process that runs one arm only. Rows go to benchmarks/results/measures.jsonl.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from asvit_tf import Topology
from asvit_tf.choices import ENGINES
from asvit_tf.measures import complexity, ntk
from asvit_tf.measures import derivatives as autodiff
from asvit_tf.modeling import reference_weights
from search.scoring.settings import ScoringSettings
from search.scoring.training_free import Probe, TrainingFreeScorer

RESULTS = Path(__file__).parents[1] / "results" / "measures.jsonl"
TOPOLOGY = Topology.named("seed")
POINTS, IMAGES, ROUNDS, SLOW_ROUNDS = 10, 16, 9, 2


def graph(function):
    return tf.function(function, autograph=False)


def circle_arms():
    """Programs that take the points of a circle and their velocities."""
    probe = Probe(TOPOLOGY, ScoringSettings(), np.random.default_rng(0))
    probe.draw(np.random.default_rng(1))
    circle = complexity.Circle.random((224, 224), POINTS, np.random.default_rng(0))
    h, dh = (tf.constant(part, tf.float32) for part in circle.path())
    arms = {"forward": graph(lambda: probe.features(h))}
    for engine in ENGINES:
        for name, dxs in (("length distortion", [dh]), ("all three measures", [dh, -h])):
            arms[f"{name}, {engine}"] = graph(
                lambda dxs=dxs, engine=engine: autodiff.derivatives(probe.features, h, dxs, engine)[1:]
            )

    @graph
    def one_reverse_pass_a_channel():
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(h)
            y = probe.features(h)

        def velocity_of(channel):
            seed = tf.broadcast_to(tf.one_hot(channel, y.shape[-1]), y.shape)
            return tf.reduce_sum(tape.gradient(y, h, output_gradients=seed) * dh, axis=(1, 2, 3))

        return tf.transpose(tf.map_fn(velocity_of, tf.range(y.shape[-1]), fn_output_signature=tf.float32))

    arms["length distortion, one reverse pass a channel"] = one_reverse_pass_a_channel
    return arms


def ntk_arms():
    """Programs on a batch of images."""
    probe = Probe(TOPOLOGY, ScoringSettings(), np.random.default_rng(0))
    probe.draw(np.random.default_rng(1))
    variables = reference_weights.ntk_variables(probe.backbone)
    images = tf.constant(np.random.default_rng(2).standard_normal((IMAGES, 224, 224, 3)), tf.float32)

    def fn(x):
        return reference_weights.pooled_features(probe.backbone, x)

    gram_of = ntk.compile_gram(fn, variables)

    @graph
    def one_backward_pass_an_image():
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(variables)
            totals = tf.reduce_sum(fn(images), axis=1)

        def gradient_of(image):
            gradients = tape.gradient(totals, variables, output_gradients=tf.one_hot(image, IMAGES))
            return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], 0)

        rows = tf.cast(tf.map_fn(gradient_of, tf.range(IMAGES), fn_output_signature=tf.float32), tf.float64)
        return tf.matmul(rows, rows, transpose_b=True)

    @graph
    def training_step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(fn(images)))
        for variable, gradient in zip(variables, tape.gradient(loss, variables)):
            variable.assign_sub(0.0 * gradient)
        return loss

    return {
        "NTK": lambda: gram_of(images),
        "NTK, one backward pass an image": one_backward_pass_an_image,
        "training step": training_step,
    }


def timed(arm):
    start = time.perf_counter()
    tf.nest.map_structure(np.asarray, arm())
    return time.perf_counter() - start


def run(kind, arms):
    """Medians of runs in turn; the slow arms are run less often."""
    for name, arm in arms.items():
        print(f"{name}: first {timed(arm):.1f} s", flush=True)
    seconds = {name: [] for name in arms}
    for turn in range(ROUNDS):
        for name, arm in arms.items():
            if turn < SLOW_ROUNDS or "one " not in name:
                seconds[name].append(timed(arm))
    base = "forward" if "forward" in arms else "training step"
    for name, values in seconds.items():
        median = statistics.median(values)
        yield dict(
            kind=kind,
            arm=name,
            seconds=median,
            least=min(values),
            times=median / statistics.median(seconds[base]),
            of=base,
            peak_mib=peak_of(kind, name),
        )


def peak_of(kind, name):
    """Peak resident size, in MiB, of a process that runs one arm only."""
    finished = subprocess.run([sys.executable, __file__, kind, name], capture_output=True, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def check():
    """The slow arms compute the same."""
    arms = circle_arms()
    velocity = arms["length distortion, jet"]()[0]
    slow = arms["length distortion, one reverse pass a channel"]()
    print("velocities agree to", np.abs(velocity - slow).max() / np.abs(slow).max(), flush=True)
    arms = ntk_arms()
    ours, slow = arms["NTK"](), arms["NTK, one backward pass an image"]().numpy()
    print("Gram matrices agree to", np.abs(ours - slow).max() / np.abs(slow).max(), flush=True)


def cold_scoring():
    """One whole scoring of a topology in a process that has imported everything and traced nothing."""
    images = np.random.default_rng(2).standard_normal((IMAGES, 224, 224, 3)).astype(np.float32)
    score = TrainingFreeScorer(ScoringSettings(), images)(TOPOLOGY)
    return dict(kind="cold scoring, 5 repeats", seconds=score.seconds, **score.split, measures_of=score.measures)


def main():
    makers = {"circle": circle_arms, "ntk": ntk_arms}
    if len(sys.argv) == 3:
        timed(makers[sys.argv[1]]()[sys.argv[2]])
        # Not getrusage: its maximum counts the parent from which this process was forked.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        print(int(status["VmHWM"].split()[0]) / 1024)
        return
    if sys.argv[1:] == ["cold"]:
        print(json.dumps(cold_scoring()))
        return
    cold = subprocess.run([sys.executable, __file__, "cold"], capture_output=True, text=True, check=True)
    rows = [json.loads(cold.stdout.splitlines()[-1])]
    print(rows[0], flush=True)
    check()
    for kind, make in makers.items():
        rows += run(kind, make())
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows[1:]:
        times = f"{row['times']:.2f} x {row['of']}"
        print(f"{row['arm']:<50}{row['seconds']:>9.3f} s  {times:<24}{row['peak_mib']:>8.0f} MiB")


if __name__ == "__main__":
    main()
