"""Files and directories that are whole or absent, on local disks and wherever else TensorFlow writes; strict JSON.

Everything is written under a temporary name and renamed. TensorFlow is imported only where it is needed: for
directories, which may lie in cloud storage, and for files whose path has a scheme such as `gs://`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from asvit_tf.errors import StoppedError, UserError

_LONGEST_NAME = 255  # Bytes that a file system allows,
_KEPT = 20  # and characters, of up to four bytes, that are kept of a longer one.
_NO_ROOM = ("No space left", "quota exceeded", "File too large")
_NO_ACCESS = ("Permission denied", "Read-only file system", "Not a directory", "Is a directory", "not a directory")
_NO_NAME = ("File name too long",)


def jsonable(value: Any) -> Any:
    """The value with every number that JSON cannot hold (NaN, infinity) replaced by None."""
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[str]:
    """Yields a temporary path with the suffix of `path`, whose name it takes at the end of the block, or vanishes."""
    target = os.fspath(path)
    partial = _beside(target, ".partial", os.path.splitext(target)[1])
    try:
        yield partial
        _rename(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def _beside(target: str, mark: str, suffix: str = "") -> str:
    """Another name in the same directory: that of `target` with a mark before its suffix, shortened if it is long."""
    directory, name = os.path.split(target)
    marked = name.removesuffix(suffix) + mark + suffix
    if len(os.fsencode(marked)) > _LONGEST_NAME:
        marked = f"{name[:_KEPT]}.{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{mark}{suffix[:_KEPT]}"
    return os.path.join(directory, marked)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file."""
    with whole_file(path) as partial:
        if _is_remote(partial):
            import tensorflow as tf

            with tf.io.gfile.GFile(partial, "w") as file:
                file.write(text)
        else:
            with open(partial, "w", encoding="utf-8") as file:
                file.write(text)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `jsonable(value)`."""
    write_text(path, json.dumps(jsonable(value), indent=1, allow_nan=False) + "\n")


def _is_remote(path: str) -> bool:
    return "://" in path


def _rename(source: str, target: str) -> None:
    if _is_remote(target):
        import tensorflow as tf

        tf.io.gfile.rename(source, target, overwrite=True)
    else:
        os.replace(source, target)


@contextlib.contextmanager
def whole_directory(target: str | os.PathLike) -> Iterator[str]:
    """Yields a temporary directory, which becomes `target` at the end of the `with` block, or vanishes.

    An older `target` is set aside before the new one takes its name and removed afterwards. A process killed between
    the two renames leaves it set aside, and the next use of this function puts it back first.

    Raises:
      StoppedError: The disk is full.
      UserError: Nothing can be written there.
    """
    import tensorflow as tf

    target = os.fspath(target).rstrip("/")
    partial, aside = _beside(target, ".partial"), _beside(target, ".previous")
    exists, rename = tf.io.gfile.exists, tf.io.gfile.rename
    try:
        if exists(aside):
            if exists(target):
                tf.io.gfile.rmtree(aside)
            else:
                rename(aside, target)
        if exists(partial):
            tf.io.gfile.rmtree(partial)
        tf.io.gfile.makedirs(partial)
        yield partial
        if exists(target):
            rename(target, aside)
        rename(partial, target)
        if exists(aside):
            tf.io.gfile.rmtree(aside)
    except (OSError, tf.errors.OpError) as error:
        explained = write_error(error, target)
        if explained is None:
            raise
        raise explained from error
    finally:
        with contextlib.suppress(tf.errors.OpError):
            if exists(partial):
                tf.io.gfile.rmtree(partial)


def write_error(error: Exception, target: str | os.PathLike) -> Exception | None:
    """The one-line exception for an operating system's refusal to write to `target`; None for any other error."""
    text = str(error)
    if any(words in text for words in _NO_ROOM):
        return StoppedError(f"cannot write to {target}, no room is left; make some and run it again")
    if any(words in text for words in (*_NO_ACCESS, *_NO_NAME)):
        return UserError(f"cannot write to {target}: {text.splitlines()[0][:200]}")
    return None


def readable_directory(path: str) -> str:
    """The same directory, of checkpoints or a SavedModel, by a name that TensorFlow can read.

    Its readers take a path for a pattern, and find nothing in a directory with brackets, * or ? in its name. They are
    given a link to it, which lasts as long as this process.
    """
    if "://" in path or not re.search(r"[\\*?\[]", path):
        return path
    return _link_to(os.path.abspath(path))


@functools.cache
def _link_to(directory: str) -> str:
    folder = tempfile.mkdtemp(prefix="asvit-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link = os.path.join(folder, "linked")
    os.symlink(directory, link)
    return link
