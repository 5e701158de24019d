"""Keras's global dtype policy, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
