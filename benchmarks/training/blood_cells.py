"""Blood cells cut out of photographs by their boxes: a small, uneven set of three classes, as folders of JPEGs.

    python benchmarks/training/blood_cells.py --coco BCCD --output CELLS [--of_each 16]

`BCCD` holds `train/`, `val/` and `annotations/instances_{train,val}.json` in COCO's form. Every white cell and platelet
is cut out, and of every photograph the first `--red_cells` red cells, which are ten times as many. Crops of the
photographs for training and of those for validation stay apart: `CELLS/train/CLASS/*.jpg` and `CELLS/val/CLASS/*.jpg`
are what `asvit run --data_path CELLS` reads. With `--of_each N`, N of each class for training, drawn from a seed.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
from pathlib import Path

from PIL import Image

LEAST_SIDE = 8  # Pixels; a few boxes have none.


def cut(coco: Path, output: Path, red_cells: int = 3) -> dict[str, dict[str, int]]:
    """Writes the crops; returns how many of each split and class."""
    counts: dict[str, dict[str, int]] = {}
    for split in ("train", "val"):
        described = json.loads((coco / "annotations" / f"instances_{split}.json").read_text())
        names = {category["id"]: category["name"] for category in described["categories"]}
        files = {image["id"]: image["file_name"] for image in described["images"]}
        seen: collections.Counter = collections.Counter()
        written: collections.Counter = collections.Counter()
        for annotation in described["annotations"]:
            name, image_id = names[annotation["category_id"]], annotation["image_id"]
            left, top, width, height = annotation["bbox"]
            seen[image_id, name] += 1
            if min(width, height) < LEAST_SIDE or (name == "RBC" and seen[image_id, name] > red_cells):
                continue
            folder = output / split / name
            folder.mkdir(parents=True, exist_ok=True)
            with Image.open(coco / split / files[image_id]) as photograph:
                crop = photograph.convert("RGB").crop((left, top, left + width, top + height))
            crop.save(folder / f"{Path(files[image_id]).stem}_{annotation['id']}.jpg", quality=95)
            written[name] += 1
        counts[split] = dict(written)
    return counts


def keep(output: Path, number: int) -> None:
    """Leaves so many images of each class for training."""
    for folder in sorted((output / "train").iterdir()):
        paths = sorted(folder.iterdir())
        for path in set(paths) - set(random.Random(1).sample(paths, number)):
            path.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--red_cells", type=int, default=3)
    parser.add_argument("--of_each", type=int)
    arguments = parser.parse_args()
    print(json.dumps(cut(arguments.coco, arguments.output, arguments.red_cells)))
    if arguments.of_each is not None:
        keep(arguments.output, arguments.of_each)
