"""Files in any place that TensorFlow can write, cloud storage included: whole or absent, and what fails explained."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from asvit_tf.errors import StoppedError, UserError
from asvit_tf.jsonfiles import jsonable

_NO_ROOM = ("No space left", "quota exceeded", "File too large")
_NO_ACCESS = ("Permission denied", "Read-only file system", "Not a directory", "Is a directory", "not a directory")


def write_error(error: Exception, target: str | os.PathLike) -> Exception | None:
    """What a failure of the operating system means for who wanted to write to `target`; None if it is none."""
    text = str(error)
    if any(words in text for words in _NO_ROOM):
        return StoppedError(f"cannot write to {target}, no room is left; make some and run it again")
    if any(words in text for words in _NO_ACCESS):
        return UserError(f"cannot write to {target}: {text.splitlines()[0][:200]}")
    return None


def write_json(path: str, value: Any) -> None:
    """Writes `jsonable(value)`, whole: under a temporary name first."""
    with tf.io.gfile.GFile(path + ".partial", "w") as file:
        file.write(json.dumps(jsonable(value), indent=1, allow_nan=False) + "\n")
    tf.io.gfile.rename(path + ".partial", path, overwrite=True)


@contextlib.contextmanager
def whole_directory(target: str | os.PathLike) -> Iterator[str]:
    """A temporary directory to write into, which becomes `target` at the end of the `with` block, or vanishes.

    An older `target` is replaced.

    Raises:
      StoppedError: The disk is full.
      UserError: It is a place where nothing can be written.
    """
    target = os.fspath(target).rstrip("/")
    partial = target + ".partial"
    try:
        if tf.io.gfile.exists(partial):
            tf.io.gfile.rmtree(partial)
        tf.io.gfile.makedirs(partial)
        yield partial
        if tf.io.gfile.exists(target):
            tf.io.gfile.rmtree(target)
        tf.io.gfile.rename(partial, target)
    except (OSError, tf.errors.OpError) as error:
        explained = write_error(error, target)
        if explained is None:
            raise
        raise explained from error
    finally:
        with contextlib.suppress(tf.errors.OpError):
            if tf.io.gfile.exists(partial):
                tf.io.gfile.rmtree(partial)
