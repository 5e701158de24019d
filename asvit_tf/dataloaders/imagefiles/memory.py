"""Few large images are in memory at once, whatever the number of threads that read some."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from asvit_tf.dataloaders.imagefiles.skipped import MAX_PIXELS

LARGE_PIXELS = 1 << 24  # Of an image that has to wait for room.


class Room:
    """Lets large images into memory that have, together, no more pixels than the largest that is read."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pixels = 0

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for that many pixels, at most `MAX_PIXELS`, and takes it for the block."""
        if pixels <= LARGE_PIXELS:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._pixels + pixels <= MAX_PIXELS)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._changed:
                self._pixels -= pixels
                self._changed.notify_all()


room = Room()  # Of this process.
