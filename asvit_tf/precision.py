"""Keras's global dtype policy, and the width of products on GPUs, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf
import tf_keras


@contextlib.contextmanager
def policy(chosen: str | tf_keras.mixed_precision.Policy) -> Iterator[None]:
    """Layers made within the `with` block have this policy."""
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy(chosen)
    try:
        yield
    finally:
        tf_keras.mixed_precision.set_global_policy(before)


@contextlib.contextmanager
def mixed_precision(dtype: str | None) -> Iterator[None]:
    """An experiment's `runtime.mixed_precision_dtype`, for the length of a `with` block; float32 for None."""
    from official.modeling import performance

    with policy(tf_keras.mixed_precision.global_policy()):
        performance.set_mixed_precision_policy(dtype or "float32")
        yield


@contextlib.contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
    """Whether GPUs from the A100 on may round factors of float32 products to 10 bits, for the length of a `with` block.

    TensorFlow allows it. In training that is faster; measures would have other digits than the released code's.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
