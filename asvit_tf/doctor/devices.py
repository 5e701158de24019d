"""TensorFlow's devices, chosen once for a process, before TensorFlow starts one of them."""

from __future__ import annotations

import tensorflow as tf

from asvit_tf.hardware import choice
from asvit_tf.hardware.choice import Chosen, Gpu
from asvit_tf.hardware.machine import Machine, examine


def take(hardware: str = "auto", tpu: str | None = None, machine: Machine | None = None) -> Chosen:
    """Chooses this process's devices; whatever is not chosen is hidden from TensorFlow.

    Of GPUs that are chosen, TensorFlow takes memory as it needs it. Otherwise it takes all of it at the first use, and
    no process beside this one could score or train.

    Args:
      hardware, tpu: As `choice.choose`.
      machine: As `hardware.machine.examine` found it; None to look.

    Raises:
      UserError: As `choice.choose`.
      RuntimeError: TensorFlow has started its devices already.
    """
    choice.check(hardware, tpu)
    listed = tf.config.list_physical_devices("GPU")
    has_cuda = bool(tf.sysconfig.get_build_info().get("cuda_version"))
    chosen = choice.choose(hardware, tpu, machine or examine(), list(map(_gpu, listed)), has_cuda)
    if chosen.kind == "gpu":
        for device in listed:
            tf.config.experimental.set_memory_growth(device, True)
    else:
        tf.config.set_visible_devices([], "GPU")
    return chosen


def _gpu(device: tf.config.PhysicalDevice) -> Gpu:
    details = tf.config.experimental.get_device_details(device)
    return Gpu(details.get("device_name"), details.get("compute_capability"))
