"""Paths of record files as the Model Garden's `input_path` takes them. No TensorFlow.

There a comma separates paths, spaces around one are cut off, and a path with * or ? is a pattern, in which [ and \\
have a meaning, too. So a path with any of these has to be written as a pattern that only it matches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"[*?,]")


def pattern(directory: str | os.PathLike, name: str) -> str:
    """A value of `input_path` for files of a directory.

    Args:
      directory: Any name that the file system allows.
      name: Name of a file, or a pattern of several, as in train-*-of-00002.tfrecord.
    """
    path = os.path.join(os.fspath(directory), name)
    if path[:1].isspace():
        directory = os.path.abspath(directory)
        path = os.path.join(directory, name)
    if not _SPECIAL.search(path) and path == path.strip():
        return path
    # A comma cannot be escaped; any one character in its place can only be mistaken for a directory of almost its name.
    escaped = re.sub(r"[\\*?\[\]]", r"\\\g<0>", os.path.join(os.fspath(directory), "")).replace(",", "?")
    return escaped + name


def understood(input_path: str | Sequence[str]) -> str | Sequence[str]:
    """The same paths, each that names a file or a pattern in a directory as it stands written as `pattern` does.

    What can be read both ways means the file: `a, b/train.tfrecord` where there is a directory named `a, b`.
    """
    if isinstance(input_path, str):
        return _understood(input_path)
    if not isinstance(input_path, (list, tuple)):
        return input_path
    return [_understood(path) if isinstance(path, str) else path for path in input_path]


def _understood(path: str) -> str:
    if "://" in path or not re.search(r"[\\*?\[\],]|^\s|\s$", path):
        return path
    directory, name = os.path.split(path)
    if os.path.isfile(path):
        found = pattern(directory, re.sub(r"[*?\[\]\\]", r"\\\g<0>", name).replace(",", "?"))
        return found if "*" in found or "?" in found else path
    is_plain = not re.search(r"[\\*?\[\],]|^\s", directory)
    if directory and not is_plain and os.path.isdir(directory) and "," not in name:
        return pattern(directory, name)
    return path
