"""Files with the same bytes, found without decoding any and, mostly, without reading them whole."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Sequence

import numpy as np

from asvit_tf.dataloaders.imagefiles import parallel
from asvit_tf.dataloaders.imagefiles.duplicates import SIZE, digest
from asvit_tf.dataloaders.progress import brief_bar

_END = 4096  # Bytes; pictures of the same size that end alike are hardly ever different.


def copies(contents: Sequence[bytes | str], progress: bool = False, threads: int | None = None) -> dict[int, bytes]:
    """Those that have the same bytes as another, with what they have in common.

    Only files of a size that another one has are opened; of these the last 4 KiB are read, and all of those whose size
    and end agree.

    Args:
      contents: Paths of files, or bytes.
      progress: Show a progress bar.
      threads: That read; None for one a core.

    Returns:
      By place in `contents`, a digest. Two of the same digest have the same bytes; what has no copy, or cannot be read,
      is not in it.
    """
    sizes = np.fromiter((_size(content) for content in contents), np.int64, len(contents))
    left = _repeated(sizes, np.flatnonzero(sizes > 0))
    digests: list[bytes] = []
    for part in (_of_end, _of_whole):
        bar = brief_bar(left, "looking for copies", progress)
        with contextlib.closing(parallel.mapped(part, (contents[i] for i in left), threads)) as found:
            digests = [next(found) for _ in bar]
        known = np.array([place for place, found in enumerate(digests) if found], np.int64)
        numbers = np.frombuffer(b"".join(found or bytes(SIZE) for found in digests), "<u8")
        kept = _repeated(numbers, known)
        left, digests = left[kept], [digests[i] for i in kept]
    return dict(zip(left.tolist(), digests))


def _repeated(keys: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Of some places in `keys`, in their order, those whose key another one of them has."""
    _, where, counts = np.unique(keys[places], return_inverse=True, return_counts=True)
    return places[counts[where] > 1]


def _size(content: bytes | str) -> int:
    """Bytes; 0 of what is not to be opened."""
    if isinstance(content, bytes):
        return len(content)
    try:
        found = os.stat(content)
    except (OSError, ValueError):  # ValueError: a name with a zero in it.
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _opened(content: bytes | str) -> io.BytesIO | io.BufferedReader:
    return io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb")


def _of_end(content: bytes | str) -> bytes:
    """A digest of size and end; b"" where a file cannot be read."""
    try:
        with _opened(content) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END))
            return digest(size.to_bytes(8, "little") + file.read(_END))
    except OSError:
        return b""


def _of_whole(content: bytes | str) -> bytes:
    """The digest of all, in parts, because a file may be larger than the memory; b"" where it cannot be read."""
    try:
        with _opened(content) as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=SIZE)).digest()
    except OSError:
        return b""
