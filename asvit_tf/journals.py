"""Results on disk that survive being killed: journals, and directories with one owner."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from asvit_tf.errors import UserError
from asvit_tf.storage import jsonable, write_json

_LOCK = ".lock"
# Of file systems without locks: some mounts of NFS and Lustre, and some that a program serves.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
Keys = Mapping[str, type | tuple[type, ...]]


class Journal:
    """Rows of JSON in a file, one a line, each on disk before `append` returns.

    Opening cuts off a last line that a killed process left unfinished; who only reads takes `rows_in`.

    Args:
      path: Path of the file.
      keys: What every row has, and of which types.

    Attributes:
      rows: All of them, in order.

    Raises:
      UserError: A line is no such row.
    """

    def __init__(self, path: Path, keys: Keys | None = None):
        self._path = path
        content = _content(path)
        self.rows, complete = _parsed(path, content, keys)
        # What has grown meanwhile has another writer, whose line this is.
        if complete < len(content) == path.stat().st_size:
            os.truncate(path, complete)

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row."""
        row = jsonable(row)
        with open(self._path, "a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)


def rows_in(path: Path, keys: Keys | None = None) -> list[dict[str, Any]]:
    """The complete rows of a journal, which stays as it is: another process may be writing to it.

    Arguments and exceptions as of `Journal`.
    """
    return _parsed(path, _content(path), keys)[0]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _parsed(path: Path, content: bytes, keys: Keys | None) -> tuple[list[dict[str, Any]], int]:
    """The rows, and how many bytes their lines have."""
    rows: list[dict[str, Any]] = []
    complete = 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            row = dict(json.loads(line))
            if not all(name in row and isinstance(row[name], types) for name, types in (keys or {}).items()):
                raise ValueError("not such a row")
            rows.append(row)
        except (ValueError, TypeError):
            raise UserError(f"line {len(rows) + 1} of {path} is not what a run wrote") from None
        complete += len(line)
    return rows, complete


@contextlib.contextmanager
def workspace(
    directory: str | os.PathLike,
    settings: Mapping[str, Any],
    earlier: Mapping[str, Any] | None = None,
    changeable: Callable[[Path], Collection[str]] | None = None,
) -> Iterator[Path]:
    """Makes a directory this process's own for one configuration, as long as the `with` block lasts.

    The lock is the kernel's: it ends with the process however that ends, and child processes do not inherit it.

    Args:
      directory: Created if absent.
      settings: What the results in it depend on; kept as `settings.json`.
      earlier: What those settings were that earlier versions did not have: a directory without one is of this value.
      changeable: Given the directory, names the settings on which nothing there depends yet; all do, where it is None.

    Yields:
      The directory.

    Raises:
      UserError: It cannot be written, another process works in it, or it holds something made by other settings.
    """
    if "://" in os.fspath(directory):
        raise UserError(f"{os.fspath(directory)} is no directory of this machine; give one, and copy it afterwards")
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / _LOCK, "w")  # noqa: SIM115 - held until the end of the block
    except OSError as error:
        raise UserError(f"cannot write to {directory}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is working in {directory}; wait for it, or choose another directory"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"warning: the file system of {directory} has no locks; see to it that no other process works there",
                file=sys.stderr,
            )
        free = changeable(directory) if changeable else ()
        _check_settings(directory, jsonable(dict(settings)), jsonable(dict(earlier or {})), free)
        yield directory


def _check_settings(directory: Path, settings: dict[str, Any], earlier: dict[str, Any], free: Collection[str]) -> None:
    path = directory / "settings.json"
    if not path.exists() or set(os.listdir(directory)) <= {path.name, _LOCK}:  # Else nothing was made by them yet.
        write_json(path, settings)
        return
    try:
        before = {**earlier, **dict(json.loads(path.read_text(encoding="utf-8")))}
    except (ValueError, TypeError):
        raise UserError(f"{path} is not what a run wrote; choose another directory") from None
    changed = [name for name in sorted(before.keys() | settings.keys()) if before.get(name) != settings.get(name)]
    kept = [f"{name} was {before.get(name)}, now {settings.get(name)}" for name in changed if name not in free]
    if kept:
        raise UserError(f"{directory} holds results of other settings ({'; '.join(kept)}); choose another directory")
    if changed:
        write_json(path, settings)
