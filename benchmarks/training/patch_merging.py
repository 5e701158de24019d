"""Patch merging without its patches, against building them: time and memory of forward and backward.

    python benchmarks/training/patch_merging.py

Both arms compute the same numbers (checked first), in float32, as one traced program each, at the three mergings of
As-ViT Small, 224 x 224, batch 8. Times are medians of runs in turn, in one process; memory is the growth of the peak
resident size of a process that runs one arm only. Rows go to benchmarks/results/patch_merging.jsonl.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from asvit_tf import Topology
from asvit_tf.design import grids
from asvit_tf.modeling.layers import NORM_EPSILON, PatchMerging

RESULTS = Path(__file__).parents[1] / "results" / "patch_merging.jsonl"
BATCH, ROUNDS = 8, 15


def unfolded(layer, x):
    """The same layer with [B, rows, columns, k * k * C] patches, each normalized and multiplied."""
    size = layer.kernel_size
    paddings = [grids.same_padding(side, size, 2) for side in x.shape[1:3]]
    padded = tf.pad(x, [(0, 0), *paddings, (0, 0)])
    rows, columns = (grids.ceil_div(side, 2) for side in x.shape[1:3])
    taps = itertools.product(range(size), range(size))
    patches = tf.concat([padded[:, y : y + 2 * rows - 1 : 2, z : z + 2 * columns - 1 : 2] for y, z in taps], -1)
    centred = patches - tf.reduce_mean(patches, -1, keepdims=True)
    normalized = centred * tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + NORM_EPSILON)
    flat = tf.reshape(layer.gamma, [-1]), tf.reshape(layer.beta, [-1])
    return (normalized * flat[0] + flat[1]) @ tf.reshape(layer.kernel, [-1, layer.width])


def arms(index, jit_compile):
    """Input and the two compiled steps of merging `index` of Small."""
    small = Topology.named("small")
    grid = grids.token_grids((224, 224), 4)[index - 1]
    layer = PatchMerging(small.widths[index], small.stages[index].kernel_size, seed=0)
    x = tf.random.stateless_normal((BATCH, *grid, small.widths[index - 1]), seed=(0, index))
    layer(x)

    def step(forward):
        @tf.function(jit_compile=jit_compile)
        def run(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                output = forward(x)
                total = tf.reduce_sum(tf.sin(output))
            return output, tape.gradient(total, [x, *layer.trainable_variables])

        return run

    return x, {"pooled": step(layer), "patches": step(lambda x: unfolded(layer, x))}


def peak_growth(index, arm, jit_compile):
    """MiB by which running one arm raises the peak resident size, in a fresh process."""
    arguments = [sys.executable, __file__, "--memory", str(index), arm, str(int(jit_compile))]
    return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def peak():
    """Peak resident size of this process, MiB. Not getrusage's, which a child inherits from its parent."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def measure_memory(index, arm, jit_compile):
    x, steps = arms(index, jit_compile)
    before = peak()
    for _ in range(3):
        steps[arm](x)
    print(peak() - before)


def main():
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1")
        return
    rows = []
    for index, jit_compile in itertools.product((1, 2, 3), (False, True)):
        x, steps = arms(index, jit_compile)
        outputs = {name: step(x)[0] for name, step in steps.items()}
        difference = float(tf.reduce_max(tf.abs(outputs["pooled"] - outputs["patches"])))
        times = {name: [] for name in steps}
        for _ in range(ROUNDS):
            for name, step in steps.items():
                start = time.perf_counter()
                tf.nest.map_structure(lambda tensor: tensor.numpy(), step(x)[0])
                times[name].append(time.perf_counter() - start)
        seconds = {name: statistics.median(values) for name, values in times.items()}
        memory = {name: peak_growth(index, name, jit_compile) for name in steps}
        rows.append(
            dict(
                merging=index,
                xla=jit_compile,
                largest_difference=difference,
                seconds=seconds,
                mebibytes=memory,
                time_ratio=seconds["patches"] / seconds["pooled"],
                memory_ratio=memory["patches"] / memory["pooled"],
            )
        )
        print(json.dumps(rows[-1]))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
