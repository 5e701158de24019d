"""Traced programs that can be forgotten."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from asvit_tf import private_names

_CUSTOM = "CustomGradient-"


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Frees what is traced inside, once nothing else refers to it; its gradients cannot be taken any more.

    `tf.custom_gradient` registers every use inside a graph for the life of the process, and with it the whole graph.
    There is no public way to take that back.
    """
    registered = private_names.gradient_registry()
    before = set(registered)
    try:
        yield
    finally:
        for name in set(registered) - before:
            if name.startswith(_CUSTOM):
                del registered[name]
        gc.collect()  # Traced programs refer to each other in circles; a search makes hundreds.
