"""How many images a second `asvit prepare` reads: 2,000 photographs of 500 x 375, a whole command each time.

    python benchmarks/data/prepare_images.py SCRATCH SOURCE... [--workers 1 --workers 2] [--reading]

SOURCE are folders with JPEG or PNG files below them; their images are enlarged in turn to 500 x 375 and written as
JPEGs of quality 90 in ten class folders in SCRATCH. Every row, a line of JSON, has seconds of the clock and those
of all processors together: the latter hardly depend on what else the machine does. `--reading` compares threads with
processes in the reading alone, without the records, start included.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
from PIL import Image

IMAGENET = 1_281_167 + 50_000
SIZE, CLASSES = (500, 375), 10
READ = """
import sys
from joblib import Parallel, delayed
from asvit_tf.dataloaders.imagefiles import door, parallel
kind, workers, files = sys.argv[1], int(sys.argv[2]), sys.stdin.read().split()
if kind == "threads":
    for _ in parallel.encoded(files, workers): pass
elif kind == "processes":
    for _ in Parallel(workers, return_as="generator", batch_size=32)(delayed(door.read)(file) for file in files): pass
"""


def photographs(folder: Path, sources: tuple[str, ...], count: int) -> Path:
    """Class folders of `count` photographs, made once; from the sources in turn."""
    if folder.exists():
        return folder
    found = [sorted([*Path(source).rglob("*.jpg"), *Path(source).rglob("*.png")]) for source in sources]
    partial = folder.with_name("making")
    shutil.rmtree(partial, ignore_errors=True)
    for i in range(count):
        files = found[i % len(found)]
        with Image.open(files[i // len(found) % len(files)]) as image:
            large = image.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
        target = partial / f"class_{i % CLASSES}" / f"{i:04d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        large.save(target, quality=90)
    partial.rename(folder)
    return folder


def timed(words: list[str], **options) -> dict[str, float]:
    """Seconds of a process of Python with its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return dict(seconds=round(time.perf_counter() - start, 2), processor_seconds=round(used, 2))


@click.command()
@click.argument("scratch", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--count", default=2000, show_default=True, help="Photographs.")
@click.option("--workers", multiple=True, type=int, default=(1, os.cpu_count() or 1), show_default=True)
@click.option("--reading", is_flag=True, help="Compare threads with processes, in the reading alone.")
def main(scratch: Path, sources: tuple[str, ...], count: int, workers: tuple[int, ...], reading: bool) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    folder = photographs(scratch / f"photographs_{count}", sources, count)
    files = "\n".join(str(path) for path in sorted(folder.rglob("*.jpg")))
    for number in workers:
        for what in ("start", "threads", "processes") if reading else ("prepare",):
            if reading:
                row = timed(["-c", READ, what, str(number)], input=files)
            else:
                shutil.rmtree(scratch / "records", ignore_errors=True)
                output = ["--output", str(scratch / "records"), "--threads", str(number)]
                row = timed(["-m", "asvit_tf.cli", "prepare", str(folder), *output])
            row = dict(what=what, workers=number, images=count, **row, load=round(os.getloadavg()[0], 1))
            if not reading:
                # Of a large set the start of TensorFlow is no part; it is measured beside it.
                start = timed(["-c", "import tensorflow, official.vision.data.tfrecord_lib"])
                rate = count / (row["processor_seconds"] - start["processor_seconds"])
                row |= dict(start=start, images_per_processor_second=round(rate, 1))
                row["processor_hours_of_imagenet"] = round(IMAGENET / rate / 3600, 2)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
