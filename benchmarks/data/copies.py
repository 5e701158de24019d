"""What it costs to look for copies: processor seconds of reading, of digests, and of comparing files before a split.

    python benchmarks/data/copies.py FOLDER [--repeats 3]

FOLDER has image files below it. For each of them, in one thread: reading and decoding by the door, as `asvit prepare`
does; the digest of what comes out; the digest of the decoded pixels, which is not taken, for comparison. Then files of
one size are compared, as they are before a fifth is held out; and digests of 1.28 million images are counted. A line
of JSON with the least of the repeats, in milliseconds an image.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image

from asvit_tf.dataloaders.imagefiles import copies, door, duplicates

IMAGENET = 1_281_167, 50_000


def least(work: Callable, repeats: int) -> float:
    """Processor seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def pixels(encoded: bytes) -> bytes:
    with Image.open(io.BytesIO(encoded)) as image:
        return image.convert("RGB").tobytes()


def counting() -> dict[str, float]:
    """Seconds and bytes an image of counting a set as large as ImageNet."""
    train, held_out = IMAGENET
    digests = np.random.default_rng(0).integers(1, 2**63, train + held_out).astype("<u8").tobytes()
    labels = np.random.default_rng(1).integers(0, 1000, train + held_out).astype(np.int32)
    cut = train * duplicates.SIZE
    parts = {
        "train": duplicates.Part(digests[:cut], labels[:train], str),
        "validation": duplicates.Part(digests[cut:], labels[train:], str),
    }
    seconds = least(lambda: duplicates.count(parts), 1)
    tracemalloc.start()
    duplicates.count(parts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return dict(seconds=round(seconds, 2), bytes_per_image=round(peak / sum(IMAGENET)))


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--repeats", default=3, show_default=True)
def main(folder: Path, repeats: int) -> None:
    files = sorted(str(path) for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))
    read = [door.read(path) for path in files]
    decoded = [pixels(content) for content in read[:500]]
    milliseconds = {
        "reading": least(lambda: [door.read(path) for path in files], repeats) / len(files),
        "digest": least(lambda: [duplicates.digest(content) for content in read], repeats) / len(files),
        "digest_of_pixels": least(lambda: [hashlib.blake2b(each).digest() for each in decoded], repeats) / len(decoded),
        "comparing_before_the_split": least(lambda: copies.copies(files, threads=1), repeats) / len(files),
    }
    row = dict(
        folder=folder.name,
        images=len(files),
        mean_bytes=round(sum(map(len, read)) / len(read)),
        mean_pixels=round(sum(map(len, decoded)) / len(decoded) / 3),
        milliseconds_per_image={name: round(1000 * seconds, 4) for name, seconds in milliseconds.items()},
        counting=counting(),
    )
    print(json.dumps(row))


if __name__ == "__main__":
    main()
