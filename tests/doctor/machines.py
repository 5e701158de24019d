"""Machines, and what a process with TensorFlow would say of them."""

import dataclasses

from asvit_tf.doctor import examination
from asvit_tf.doctor.examination import Probe
from asvit_tf.hardware.machine import CUDA_LIBRARIES, Machine

COMMON = {"tf-keras": "2.20.1", "tf-models-official": "2.20.0", "tensorflow-text": "2.20.1"}
PLAIN = Machine("3.11.7", "Linux x86_64", {"tensorflow": "2.20.0", **COMMON})
TPU = dataclasses.replace(PLAIN, packages={"tensorflow-tpu": "2.20.0", "libtpu": "0.0.31", **COMMON})
TPU_VM = dataclasses.replace(TPU, tpu_kind="v5e", tpu_chips=4, tpu_devices=4)
GPU = dataclasses.replace(
    PLAIN,
    packages=PLAIN.packages | dict.fromkeys(CUDA_LIBRARIES.values(), "12.9") | {"nvidia-cudnn-cu12": "9.28"},
    **dict(gpus=2, gpu_devices=2, driver="550.54.15", driver_library=True, missing_libraries=()),
)
SPEED = dict(images_per_second=1000.0, steps=30, replicas=1, trace_seconds=9.0, loss=2.3)


def listing(*devices, gpus=()):
    details = [dict(name="GPU", compute_capability=list(capability)) for capability in gpus]
    return dict(tensorflow="2.20.0", build=dict(cuda=None, cudnn=None), devices=list(devices), gpus=details)


def examined(machine, *rows, failure=None):
    return examination.examine(machine, 1.0, lambda machine, seconds: Probe(list(rows), failure))
