"""Shared by all tests: a quiet TensorFlow with two logical devices, and the golden networks."""

import contextlib
import itertools
import json
import os
import resource
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

DATA = Path(__file__).parent / "data"
GOLDEN = ("seed_h8_64", "ape_h12_96", "windows_h8_64")

_KEYS = itertools.count(0, 1000)


def pytest_configure(config):
    # Must happen before anything initializes TensorFlow.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


# Files that take minutes; begun first, they leave no process waiting for another at the end.
_LONG = (
    "test_strategies.py",
    "test_detection.py",
    "test_training.py",
    "test_pipeline.py",
    "test_runs.py",
    "test_configs.py",
    "test_inputs.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _LONG.index(item.path.name) if item.path.name in _LONG else len(_LONG))


class Golden:
    """One network of the released implementation: its description, arrays and, loaded into ours, its weights."""

    def __init__(self, name):
        self.scalars = json.loads((DATA / f"{name}.json").read_text())
        with np.load(DATA / f"{name}.npz") as arrays:
            self.arrays = dict(arrays)

    @property
    def state_dict(self):
        prefix = "weights/"
        return {name[len(prefix) :]: array for name, array in self.arrays.items() if name.startswith(prefix)}

    def images(self, name="input_nchw"):
        return tf.constant(self.arrays[name].transpose(0, 2, 3, 1))

    def model(self):
        from asvit_tf import Topology
        from asvit_tf.modeling import reference_weights

        return reference_weights.build_classifier(
            Topology.parse(self.scalars["arch"]),
            self.scalars["img"],
            self.scalars["num_classes"],
            self.scalars["ape"],
        )

    def loaded(self):
        from asvit_tf.modeling import reference_weights

        model = self.model()
        reference_weights.load(model, self.state_dict)
        return model

    def circle(self, radius):
        from asvit_tf.measures import complexity

        side = self.scalars["img"]
        u0, u1 = self.arrays["curve_u_chw"].T.reshape(2, 3, side, side).transpose(0, 2, 3, 1)
        length = 1.0 if radius == "unit" else (3 * side**2) ** 0.5
        return complexity.Circle(u0, u1, length, self.arrays["theta"])


@pytest.fixture(params=GOLDEN, scope="module")
def golden(request):
    return Golden(request.param)


def two_devices():
    """A mirrored strategy over two devices of this machine, whose collectives share no key with those of another.

    TensorFlow counts keys from the same number for every strategy, and remembers a tensor's shape by its key.
    """
    tf.distribute.MirroredStrategy._collective_key_base = next(_KEYS)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def relative_error(actual, expected):
    """Largest difference over the largest expected magnitude."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.fixture
def clean_policy():
    """Restores tf_keras's global dtype policy."""
    import tf_keras

    yield
    tf_keras.mixed_precision.set_global_policy("float32")


@contextlib.contextmanager
def files_no_larger_than(size):
    """A disk that is full for large files, as the operating system can pretend."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
