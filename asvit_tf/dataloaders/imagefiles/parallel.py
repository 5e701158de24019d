"""Image files through the door on all cores, in their order.

Threads, not processes: Pillow decodes without Python's lock, and what processes save of the rest they lose by starting
and by sending images to each other (docs/data.md).
"""

from __future__ import annotations

import collections
import functools
import itertools
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from asvit_tf.dataloaders.imagefiles import door, reduced

Outcome = bytes | str  # The image; or the reason why there is none.

_CHUNK = 8  # Files that a thread is given at once.
_AHEAD = 4  # Chunks for each thread that may wait; more would fill the memory where the disk is slow.
_BYTES = 1 << 28  # Of images that wait; above it only the image that is asked for next is read.


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encoded(
    paths: Iterable[str], threads: int | None = None, side: int | None = None
) -> Generator[Outcome, None, None]:
    """What `door.read` gives for each of the files, in their order, whatever the number of threads.

    Args:
      paths: Image files.
      threads: How many; None for one a core.
      side: As of `reduced.reduced`; None for all images as they are.
    """
    return mapped(functools.partial(_read, side=side), paths, threads)


def reasons_against(paths: Iterable[str], threads: int | None = None) -> Generator[str | None, None, None]:
    """`door.reason_against` for each of the files, likewise."""
    return mapped(door.reason_against, paths, threads)


def _read(path: str, side: int | None) -> Outcome:
    try:
        encoded = door.read(path)
        return encoded if side is None else reduced.reduced(encoded, side)
    except door.UnreadableError as error:
        return str(error)


class _Waiting:
    """Counts the bytes of images that are read and not yet asked for, and holds threads back while they are many."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bytes = 0
        self._next: queue.SimpleQueue | None = None
        self._closed = False

    def may_read(self, results: queue.SimpleQueue) -> bool:
        """Waits until one more image may be read for this chunk; False if none is wanted any more."""
        with self._changed:
            self._changed.wait_for(
                # Whoever asks for the next image must get it, or all would wait for each other.
                lambda: self._closed or self._bytes < _BYTES or (results is self._next and results.empty())
            )
            return not self._closed

    def put(self, results: queue.SimpleQueue, outcome: Any) -> None:
        with self._changed:
            self._bytes += _size(outcome)
            results.put(outcome)

    def get(self, results: queue.SimpleQueue) -> Any:
        """The next outcome of a chunk."""
        with self._changed:
            self._next = results
            self._changed.notify_all()
        outcome = results.get()
        with self._changed:
            self._bytes -= _size(outcome)
            self._changed.notify_all()
        return outcome

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _size(outcome: Any) -> int:
    """Bytes of an image; of what holds some, its `nbytes`."""
    return len(outcome) if isinstance(outcome, bytes) else getattr(outcome, "nbytes", 0)


def mapped(function: Callable, files: Iterable, threads: int | None = None) -> Generator[Any, None, None]:
    """What a function gives for each of the files, in their order. Few are in work, and few results wait, at a time.

    Args:
      function: Of a file; an exception of it ends everything.
      files: Paths, or what else the function takes.
      threads: How many; None for one a core.
    """
    threads = threads or cores()
    files = iter(files)
    chunks: collections.deque[tuple[Future, queue.SimpleQueue, int]] = collections.deque()
    waiting = _Waiting()
    with ThreadPoolExecutor(threads, "asvit-images") as pool:
        try:
            while chunk := list(itertools.islice(files, _CHUNK)):
                results: queue.SimpleQueue = queue.SimpleQueue()
                chunks.append((pool.submit(_read_all, function, chunk, waiting, results), results, len(chunk)))
                if len(chunks) > _AHEAD * threads:
                    yield from _outcomes(waiting, *chunks.popleft()[1:])
            while chunks:
                yield from _outcomes(waiting, *chunks.popleft()[1:])
        finally:
            waiting.close()
            for task, _, _ in chunks:
                task.cancel()


def _outcomes(waiting: _Waiting, results: queue.SimpleQueue, count: int) -> Generator[Any, None, None]:
    for _ in range(count):
        outcome = waiting.get(results)
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome


def _read_all(function: Callable, chunk: list[str], waiting: _Waiting, results: queue.SimpleQueue) -> None:
    """Puts what becomes of each file of a chunk, or the error that ends it all."""
    try:
        for path in chunk:
            if not waiting.may_read(results):
                return
            waiting.put(results, function(path))
    except BaseException as error:
        results.put(error)
