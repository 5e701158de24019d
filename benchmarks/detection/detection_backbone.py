"""As-ViT Large on one image of the sizes of detection, float32: does it run here, how long, with what memory.

    python benchmarks/detection/detection_backbone.py

Windows of the edge that they have at 224 ("fixed"), padded where the grid is no multiple of it. Each size runs in a
process of its own, forward only, as one graph program; memory is the largest resident size of that process (VmHWM),
about 0.5 GB of which is TensorFlow itself. Rows go to benchmarks/results/detection_backbone.jsonl.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

RESULTS = Path(__file__).parents[1] / "results" / "detection_backbone.jsonl"
SIZES = ((224, 224), (1024, 1024), (800, 1333))
RUNS = 3


def peak_mebibytes():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def run(height, width):
    """Prints the row of one size."""
    import tensorflow as tf
    import tf_keras

    from asvit_tf import AsViT, Topology
    from asvit_tf.design import counting

    imported = peak_mebibytes()
    topology = Topology.named("large")
    model = AsViT(topology, tf_keras.layers.InputSpec(shape=[None, height, width, 3]), window="fixed", seed=0)
    forward = tf.function(lambda images: model(images, training=False), autograph=False)
    images = tf.random.stateless_normal((1, height, width, 3), seed=(0, 0))
    seconds = []
    for _ in range(1 + RUNS):  # The first one traces.
        start = time.perf_counter()
        features = {name: value.numpy() for name, value in forward(images).items()}
        seconds.append(time.perf_counter() - start)
    counted = counting.count(topology, (height, width), window="fixed", representation=False)
    row = dict(
        image_size=[height, width],
        features={name: list(value.shape) for name, value in features.items()},
        finite=all(bool((abs(value) < 1e6).all()) for value in features.values()),
        gmacs=sum(stage.macs for stage in counted.stages) / 1e9,
        seconds=statistics.median(seconds[1:]),
        mebibytes=peak_mebibytes(),
        mebibytes_after_import=imported,
    )
    print(json.dumps(row))


def main():
    if len(sys.argv) > 1:
        run(*map(int, sys.argv[1:]))
        return
    rows = []
    for size in SIZES:
        command = [sys.executable, __file__, *map(str, size)]
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode:
            sys.exit(f"{size} failed: {finished.stderr[-2000:]}")
        rows.append(finished.stdout.splitlines()[-1])
        print(rows[-1])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(row + "\n" for row in rows))


if __name__ == "__main__":
    main()
