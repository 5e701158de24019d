"""One training step by TensorFlow's threads: all of them inside an operation, or operations side by side.

    python benchmarks/training/threads.py

Forward, backward and AdamW of classifiers from tiny to Small, float32, each arm a process of its own with
`TF_NUM_INTRAOP_THREADS` and `TF_NUM_INTEROP_THREADS`, the arms of a network in turn, three rounds; medians of 15 steps,
of which the least of the rounds counts. Rows go to benchmarks/results/threads.jsonl.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

RESULTS = Path(__file__).parents[1] / "results" / "threads.jsonl"
CORES = len(os.sched_getaffinity(0))
# Topology, image size, base stride, batch.
NETWORKS = (
    ("7,2,6,1|4,1,4,1|4,1,2,1|2,1,5,1|16,16", 32, 4, 128),
    ("6,2,4,2|4,1,5,1|4,1,2,3|2,1,3,2|16,34", 32, 4, 128),
    ("7,4,5,1|4,2,5,2|4,1,2,1|4,1,3,1|16,20", 32, 2, 128),
    ("4,2,3,1|3,1,4,1|3,1,4,2|3,1,4,1|8,32", 64, 4, 32),
    ("small", 224, 4, 8),
)
ARMS = {"inside operations": (CORES, CORES), "operations side by side": (1, CORES)}
STEPS, ROUNDS = 15, 3


def seconds_of(topology: str, size: int, base_stride: int, batch: int) -> float:
    """Median seconds of a step."""
    import tensorflow as tf
    import tf_keras

    from asvit_tf import build_classifier

    model = build_classifier(topology, 10, size, base_stride=base_stride, seed=0)
    optimizer = tf_keras.optimizers.AdamW(1e-3)
    optimizer.build(model.trainable_variables)
    images, labels = tf.random.stateless_normal((batch, size, size, 3), (0, 0)), tf.range(batch) % 10

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images, training=True))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    seconds = []
    for _ in range(STEPS + 2):
        start = time.perf_counter()
        step().numpy()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def measured(network: tuple, threads: tuple[int, int]) -> float:
    """The same in a process of its own."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    variables = {**os.environ, **dict(zip(names, map(str, threads)))}
    command = [sys.executable, __file__, json.dumps(network)]
    finished = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return float(finished.stdout.splitlines()[-1])


def main() -> None:
    if len(sys.argv) == 2:
        print(seconds_of(*json.loads(sys.argv[1])))
        return
    rows = []
    for network in NETWORKS:
        seconds: dict[str, float] = {}
        for _ in range(ROUNDS):
            for arm, threads in ARMS.items():
                seconds[arm] = min(measured(network, threads), seconds.get(arm, float("inf")))
        inside, beside = seconds.values()
        names = ("topology", "image_size", "base_stride", "batch")
        rows.append({**dict(zip(names, network)), "cores": CORES, "seconds": seconds, "faster": inside / beside})
        print(json.dumps(rows[-1]), flush=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
