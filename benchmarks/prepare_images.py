"""How many images a second `asvit prepare` reads: 2,000 photographs of about 500 x 375, a whole command each time.

    python benchmarks/prepare_images.py SCRATCH SOURCE... [--processes 1 --processes 2] [--threads]

SOURCE are folders with JPEG files below them; their images are enlarged in turn to 500 x 375 and written as JPEGs of
quality 90 in ten class folders in SCRATCH. A row a line goes to standard output; results/prepare_images.jsonl has
some. `--threads` compares processes with threads in the reading alone, without the records.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
from PIL import Image

IMAGENET = 1_281_167 + 50_000
SIZE, CLASSES = (500, 375), 10


def photographs(folder: Path, sources: tuple[str, ...], count: int) -> Path:
    """Class folders of `count` photographs, made once; from the sources in turn."""
    if folder.exists():
        return folder
    found = [
        sorted(path for path in Path(source).rglob("*") if path.suffix.lower() in (".jpg", ".png"))
        for source in sources
    ]
    partial = folder.with_name("partial")
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


def prepared(folder: Path, output: Path, processes: int) -> dict:
    """Seconds of `asvit prepare`, start of Python and TensorFlow included."""
    shutil.rmtree(output, ignore_errors=True)
    words = ["prepare", str(folder), "--output", str(output), "--processes", str(processes), "--json"]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "asvit_tf.cli", *words], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    result = json.loads(done.stdout)
    return dict(seconds=seconds, images=result["train_examples"] + result["validation_examples"])


def read(files: list[str], workers: int, threads: bool) -> dict:
    """Seconds of the reading alone, after a first round that starts processes and fills the file cache."""
    from asvit_tf.dataloaders.imagefiles import door, parallel

    def once() -> None:
        if threads:
            with concurrent.futures.ThreadPoolExecutor(workers) as pool:
                for _ in pool.map(door.read, files):
                    pass
        else:
            for _ in parallel.encoded(files, workers):
                pass

    once()
    start = time.perf_counter()
    once()
    return dict(seconds=time.perf_counter() - start, images=len(files))


@click.command()
@click.argument("scratch", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--count", default=2000, show_default=True, help="Photographs.")
@click.option("--processes", multiple=True, type=int, default=(1, os.cpu_count() or 1), show_default=True)
@click.option("--threads", is_flag=True, help="Compare processes with threads, in the reading alone.")
def main(scratch: Path, sources: tuple[str, ...], count: int, processes: tuple[int, ...], threads: bool) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    folder = photographs(scratch / f"photographs_{count}", sources, count)
    files = [str(path) for path in sorted(folder.rglob("*.jpg"))]
    for number in processes:
        if threads:
            rows = [(kind, read(files, number, kind == "threads")) for kind in ("processes", "threads")]
        else:
            rows = [("prepare", prepared(folder, scratch / "records", number))]
        for kind, row in rows:
            rate = row["images"] / row["seconds"]
            print(
                json.dumps(
                    dict(
                        what=kind,
                        workers=number,
                        images=row["images"],
                        seconds=round(row["seconds"], 2),
                        images_per_second=round(rate, 1),
                        hours_of_imagenet=round(IMAGENET / rate / 3600, 2),
                    )
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
