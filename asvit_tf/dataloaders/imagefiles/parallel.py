"""Image files through the door on all cores, in their order. No TensorFlow, so that a process starts in half a second.

Processes, not threads: see docs/benchmarks.md. One calls, the others stay for the next call.
"""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from asvit_tf.dataloaders.imagefiles import door
from asvit_tf.errors import StoppedError

Outcome = bytes | str  # The image; or the reason why there is none.

_CHUNK = 64  # Most files that a process is given at once,
_CHUNK_BYTES = 4_000_000  # and their most bytes, but for the first: so that the bar moves.
_AHEAD = 3  # Chunks for each process that may wait; more would fill the memory where the disk is slow.
_WORTHWHILE = 256  # Fewer files are done before the processes have started.


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encoded(paths: Iterable[str], processes: int | None = None) -> Generator[Outcome, None, None]:
    """What `door.read` gives for each of the files, in their order, whatever the number of processes.

    Args:
      paths: Image files.
      processes: How many; None for all cores.

    Raises:
      StoppedError: A process was killed.
    """
    return _mapped(_read, paths, processes)


def reasons_against(paths: Iterable[str], processes: int | None = None) -> Generator[str | None, None, None]:
    """`door.reason_against` for each of the files, likewise."""
    return _mapped(door.reason_against, paths, processes)


def _read(path: str) -> Outcome:
    try:
        return door.read(path)
    except door.UnreadableError as error:
        return str(error)


def _mapped(function: Callable, paths: Iterable[str], processes: int | None) -> Generator[Any, None, None]:
    processes = processes or cores()
    paths = iter(paths)
    first = list(itertools.islice(paths, _WORTHWHILE))
    if processes == 1 or len(first) < _WORTHWHILE:
        yield from map(function, itertools.chain(first, paths))
        return
    pool = get_reusable_executor(processes)
    waiting: collections.deque = collections.deque()
    chunks = _chunks(itertools.chain(first, paths))
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_all, function, chunk))
            if len(waiting) > _AHEAD * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except TerminatedWorkerError as error:
        raise StoppedError(
            "a process that read images was killed, perhaps for want of memory; run it again to continue, with fewer "
            "--processes"
        ) from error
    finally:
        for task in waiting:
            task.cancel()


def _all(function: Callable, chunk: list[str]) -> list:
    return [function(path) for path in chunk]


def _chunks(paths: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    total = 0
    for path in paths:
        try:
            total += os.stat(path).st_size
        except OSError:
            total += 0  # The door gives the reason.
        chunk.append(path)
        if len(chunk) == _CHUNK or total > _CHUNK_BYTES:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk
