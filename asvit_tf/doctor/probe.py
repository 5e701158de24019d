"""What TensorFlow says of this machine, and how fast it trains; in a process of its own, which may abort.

    python -m asvit_tf.doctor.probe REPORT [SECONDS]

Appends one JSON object a line to the file REPORT: `build` and `devices` first, then with SECONDS (of training on each
device) `speed`, device by device, each on disk before the next begins. What fails is a row with `error` instead.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras

from asvit_tf.design.topology import Topology
from asvit_tf.doctor.examination import trained
from asvit_tf.modeling.reference_weights import build_classifier

TOPOLOGY = "4,2,2|2,2,2|2,1,2|2,1,2|8,8"
IMAGE_SIZE = 32
BATCH_SIZE = 64
_CLASSES = 10


def listing() -> dict[str, Any]:
    """The build and the devices of this TensorFlow."""
    build = tf.sysconfig.get_build_info()
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    for kind in ("CPU", "GPU"):
        for device in tf.config.list_physical_devices(kind):
            if kind == "GPU":  # Other processes may use it, too.
                tf.config.experimental.set_memory_growth(device, True)
    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    return dict(
        tensorflow=tf.__version__,
        build=dict(cuda=build.get("cuda_version"), cudnn=build.get("cudnn_version")),
        devices=[name for name in names if not name.startswith("XLA")],
        gpus=[dict(name=gpu.get("device_name"), compute_capability=gpu.get("compute_capability")) for gpu in gpus],
    )


def training_speed(
    strategy: tf.distribute.Strategy, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Trains a tiny As-ViT on noise.

    Args:
      strategy: Whose devices train.
      seconds: For how long, after tracing and two steps; the last step is finished.
      clock: Seconds from some moment on.

    Returns:
      `images_per_second` of all replicas together, `steps`, `replicas`, `trace_seconds` (of the first two steps), and
      `loss` after the last step.
    """
    images = tf.random.stateless_normal((BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3), seed=(0, 0))
    labels = tf.range(BATCH_SIZE, dtype=tf.int32) % _CLASSES
    with strategy.scope():
        model = build_classifier(Topology.parse(TOPOLOGY), IMAGE_SIZE, _CLASSES, position_embedding=True)
        optimizer = tf_keras.optimizers.Adam(1e-3)
        optimizer.build(model.trainable_variables)

    @tf.function
    def step(images, labels):
        def replica_step(images, labels):
            with tf.GradientTape() as tape:
                logits = model(images, training=True)
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            return loss

        losses = strategy.run(replica_step, (images, labels))
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None)

    start = clock()
    for _ in range(2):
        loss = float(step(images, labels))
    begin = clock()
    steps = 0
    while steps == 0 or clock() - begin < seconds:
        loss = float(step(images, labels))  # Its value is waited for.
        steps += 1
    spent = clock() - begin
    replicas = strategy.num_replicas_in_sync
    return dict(
        images_per_second=BATCH_SIZE * replicas * steps / spent,
        steps=steps,
        replicas=replicas,
        trace_seconds=begin - start,
        loss=loss,
    )


def _strategy(device: str) -> tf.distribute.Strategy:
    if device != "TPU":
        return tf.distribute.OneDeviceStrategy(f"/{device}")
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver("local")
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def main(report: str, seconds: str | None = None, has_tpu: str = "") -> None:
    """The process; `has_tpu` is "tpu" where there are chips, which TensorFlow lists only once they are started."""
    with Path(report).open("a") as file:

        def write(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        try:
            found = listing()
        except Exception as error:  # Whatever it is, it is for the report.
            write(dict(error=_reason(error)))
            return
        write(found)
        if seconds is None:
            return
        for device in trained(found["devices"], has_tpu == "tpu"):
            try:
                speed = training_speed(_strategy(device), float(seconds))
            except Exception as error:  # The next device may train.
                write(dict(device=device, error=_reason(error)))
            else:
                write(dict(device=device, speed=speed))


if __name__ == "__main__":
    main(*sys.argv[1:])
