"""Files on several threads: in their order, few bytes waiting, errors where they belong."""

import threading
import time

import numpy as np
import pytest

from asvit_tf.dataloaders.imagefiles import door, memory, parallel
from asvit_tf.dataloaders.labels import reading


def watched(size, counts):
    """Reads nothing; counts what was read."""

    def read(path):
        counts.append(path)
        return bytes(size)

    return read


@pytest.mark.parametrize("threads", [1, 3])
def test_few_bytes_wait(threads, monkeypatch):
    monkeypatch.setattr(parallel, "_BYTES", 100)
    done: list[str] = []
    outcomes = parallel.mapped(watched(100, done), map(str, range(60)), threads)
    for number, outcome in enumerate(outcomes):
        assert len(outcome) == 100
        time.sleep(0.002)  # The threads could read on.
        assert len(done) <= number + 1 + 1 + threads  # Given, one that waits, one begun by each.
    assert sorted(done, key=int) == [str(i) for i in range(60)]


def test_what_holds_images_counts_by_its_bytes(monkeypatch):
    """As an image with its label picture does."""
    monkeypatch.setattr(parallel, "_BYTES", 100)
    done: list[str] = []

    def read(path):
        done.append(path)
        return reading.Read(path, bytes(60), bytes(40), 1, 1, np.zeros(256))

    for number, outcome in enumerate(parallel.mapped(read, map(str, range(40)), 2)):
        assert outcome.name == str(number)
        time.sleep(0.002)
        assert len(done) <= number + 1 + 1 + 2


def test_the_end_does_not_wait_for_threads_that_wait(monkeypatch):
    monkeypatch.setattr(parallel, "_BYTES", 1)
    outcomes = parallel.mapped(watched(5, []), map(str, range(200)), 3)
    next(outcomes)
    outcomes.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asvit-images")]


def test_an_error_comes_at_its_place():
    def read(path):
        if path == "11":
            raise MemoryError
        return path

    outcomes = parallel.mapped(read, map(str, range(40)), 2)
    assert [next(outcomes) for _ in range(11)] == [str(i) for i in range(11)]
    with pytest.raises(MemoryError):
        next(outcomes)


def test_large_images_share_a_room():
    room = memory.Room()
    inside, most = [0], [0]

    def work(pixels):
        with room.taken(pixels):
            inside[0] += pixels
            most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            inside[0] -= pixels

    sizes = [door.MAX_PIXELS, 1 << 25, door.MAX_PIXELS // 2, door.MAX_PIXELS // 2, 1 << 25, door.MAX_PIXELS]
    threads = [threading.Thread(target=work, args=(pixels,)) for pixels in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= door.MAX_PIXELS


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(door.MAX_BYTES + 1)
    monkeypatch.setattr(door, "open", _unread, raising=False)
    with pytest.raises(door.UnreadableError, match="1,024 MiB"):
        door.file_bytes(tmp_path / "large.png")


def _unread(path, mode):
    file = open(path, mode, buffering=0)  # noqa: SIM115

    class Unread:
        fileno = file.fileno

        def __enter__(self):
            return self

        def __exit__(self, *error):
            file.close()

        def read(self, count):
            raise AssertionError("it was read")

    return Unread()
