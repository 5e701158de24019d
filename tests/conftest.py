"""Fixtures of all tests, and a quiet TensorFlow with two logical devices."""

import gc

import pytest
import tensorflow as tf
from helpers import GOLDEN, Golden

from asvit_tf import traces


def pytest_configure(config):
    # Must happen before anything initializes TensorFlow.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    # Most of the time is tracing. A quarter of it would be the rewriting of graphs that then run for a few steps, and
    # the search for garbage among the modules; what the tests start as a process of its own is rewritten as usual.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    gc.freeze()
    # Nor are pipelines tuned: what collects an iterator of a test before waits for the thread that tunes it.
    iterate, untuned = tf.data.Dataset.__iter__, tf.data.Options()
    untuned.autotune.enabled = False
    tf.data.Dataset.__iter__ = lambda dataset: iterate(dataset.with_options(untuned))


# Files that take minutes; begun first, they leave no process waiting for another at the end.
_LONG = (
    "test_strategies.py",
    "test_detection.py",
    "test_training.py",
    "test_run.py",
    "test_pipeline.py",
    "test_runs.py",
    "test_configs.py",
    "test_inputs.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _LONG.index(item.path.name) if item.path.name in _LONG else len(_LONG))


@pytest.fixture(scope="module", autouse=True)
def forgotten_traces():
    """What a file traces is freed at its end; all files together would fill the memory."""
    with traces.forgotten():
        yield


@pytest.fixture(params=GOLDEN, scope="module")
def golden(request):
    return Golden(request.param)


@pytest.fixture
def rewritten_graphs():
    """Graphs are rewritten as usual, for a test that compares bits with those of another process."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture
def clean_policy():
    """Restores tf_keras's global dtype policy."""
    import tf_keras

    yield
    tf_keras.mixed_precision.set_global_policy("float32")
