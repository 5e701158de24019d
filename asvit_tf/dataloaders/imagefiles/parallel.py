"""Image files through the door on all cores, in their order.

Threads, not processes: Pillow decodes without Python's lock, and what processes save of the rest they lose by starting
and by sending images to each other (docs/data.md).
"""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from asvit_tf.dataloaders.imagefiles import door

Outcome = bytes | str  # The image; or the reason why there is none.

_CHUNK = 8  # Files that a thread is given at once.
_AHEAD = 4  # Chunks for each thread that may wait; more would fill the memory where the disk is slow.


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encoded(paths: Iterable[str], threads: int | None = None) -> Generator[Outcome, None, None]:
    """What `door.read` gives for each of the files, in their order, whatever the number of threads.

    Args:
      paths: Image files.
      threads: How many; None for one a core.
    """
    return _mapped(_read, paths, threads)


def reasons_against(paths: Iterable[str], threads: int | None = None) -> Generator[str | None, None, None]:
    """`door.reason_against` for each of the files, likewise."""
    return _mapped(door.reason_against, paths, threads)


def _read(path: str) -> Outcome:
    try:
        return door.read(path)
    except door.UnreadableError as error:
        return str(error)


def _mapped(function: Callable, paths: Iterable[str], threads: int | None) -> Generator[Any, None, None]:
    threads = threads or cores()
    paths = iter(paths)
    waiting: collections.deque[Future] = collections.deque()
    with ThreadPoolExecutor(threads, "asvit-images") as pool:
        try:
            while chunk := list(itertools.islice(paths, _CHUNK)):
                waiting.append(pool.submit(_all, function, chunk))
                if len(waiting) > _AHEAD * threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for task in waiting:
                task.cancel()


def _all(function: Callable, chunk: list[str]) -> list:
    return [function(path) for path in chunk]
