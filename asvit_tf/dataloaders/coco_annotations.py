"""COCO's annotation files: read, checked, and brought into one form. Checks change nothing; `without_missing` and
`Split.of` make the form.

What is wrong is refused in one line; what is missing or empty is left out, where that is allowed, and counted.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tqdm

from asvit_tf.dataloaders import masks
from asvit_tf.dataloaders.imagefiles import door
from asvit_tf.errors import UserError

LISTS = ("images", "annotations", "categories")  # Of an annotation file, what matters here.
Row = Mapping[str, Any]  # An entry of one of them.
Content = Mapping[str, Sequence[Row]]  # An annotation file: the lists by name.


@dataclasses.dataclass(frozen=True)
class SplitCount:
    """What became of one split.

    Attributes:
      images: Written.
      without_boxes: Images among these in which nothing is annotated; they are kept.
      objects: Annotations written, crowds among them.
      crowds: Annotations of a crowd; kept, and skipped in training.
      degenerate: Annotations left out because their box or mask is empty.
      missing: Images left out because there is no such image file.
    """

    images: int = 0
    without_boxes: int = 0
    objects: int = 0
    crowds: int = 0
    degenerate: int = 0
    missing: int = 0


@dataclasses.dataclass(frozen=True)
class Split:
    """One split in the form in which it is written.

    Attributes:
      folder: Folder of the image files.
      images: Entries whose image file is there.
      objects: Their annotations: boxes inside the image and not empty, masks (where read) as compressed run lengths,
        `iscrowd` and `area` set, identifiers from 1.
      unboxed: Annotations with a mask but no box, as crowds: of no class in a map of classes, but no background either.
      count: What became of everything.
    """

    folder: Path
    images: Sequence[Row]
    objects: Sequence[Row]
    unboxed: Sequence[Row]
    count: SplitCount

    @classmethod
    def of(cls, folder: Path, content: Content, missing: int, include_masks: bool) -> Split:
        """Cuts boxes at the border of their image, leaves empty ones out, gives masks one form.

        Identifiers are given anew: an evaluation overlooks objects whose identifiers are 0 or the same.

        Args:
          folder: Folder of the image files.
          content: An annotation file that the checks of this module have passed, without missing images.
          missing: How many images are missing.
          include_masks: Read masks too; an object with an empty one is left out.
        """
        images = {image["id"]: image for image in content["images"]}
        objects: list[Row] = []
        unboxed: list[Row] = []
        degenerate = 0
        for row in content["annotations"]:
            image = images[row["image_id"]]
            mask = masks.compressed(row["segmentation"], image["height"], image["width"]) if include_masks else None
            box = _cut(row["bbox"], image)
            if box is None or (include_masks and mask is None):
                degenerate += 1
                if mask is not None:
                    unboxed.append({**row, "segmentation": mask, "iscrowd": 1})
                continue
            whole = {**row, "bbox": box, "iscrowd": int(row.get("iscrowd", 0))}
            whole.setdefault("area", row["bbox"][2] * row["bbox"][3])
            whole["id"] = len(objects) + 1
            whole.pop("segmentation", None)
            objects.append(whole | ({"segmentation": mask} if mask is not None else {}))
        count = SplitCount(
            images=len(images),
            without_boxes=len(images) - len({row["image_id"] for row in objects}),
            objects=len(objects),
            crowds=sum(row["iscrowd"] for row in objects),
            degenerate=degenerate,
            missing=missing,
        )
        return cls(folder, content["images"], objects, unboxed, count)


def _cut(box: Sequence[float], image: Row) -> list[float] | None:
    """x, y, width and height of the part of a box inside its image; None if there is none."""
    x, y, width, height = box
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, image["width"]), min(y + height, image["height"])
    return None if right <= left or bottom <= top else [left, top, right - left, bottom - top]


def find(data_path: Path, split: str, start: str) -> str:
    """Name of the one split whose annotation file begins like that.

    Raises:
      UserError: There are none or several.
    """
    found = sorted((data_path / "annotations").glob(f"instances_{start}*.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"{data_path / 'annotations'} should hold one instances_{start}*.json, found {names}; "
            f"name the split with --{split}"
        )
    return found[0].stem.removeprefix("instances_")


def read(path: Path) -> Content:
    """The three lists of an annotation file that matter here.

    Raises:
      UserError: It cannot be read, or is no annotation file.
    """
    try:
        content = json.loads(path.read_text())
        return {name: list(content[name]) for name in LISTS}
    except OSError as error:
        raise UserError(f"cannot read the annotation file {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a COCO annotation file: {type(error).__name__} {error}") from error


def categories(content: Content, name: str) -> dict[int, str]:
    """Names by identifier.

    Raises:
      UserError: A category has no name, or no identifier of its own from 1.
    """
    try:
        names = {row["id"]: str(row["name"]) for row in content["categories"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"a category of {name} has no id or no name") from error
    if not names or not all(isinstance(i, int) and i > 0 for i in names):
        raise UserError(f"category identifiers of {name} are {list(names)[:5]}; allowed are numbers from 1")
    if len(names) < len(content["categories"]):
        raise UserError(f"two categories of {name} have the same identifier")
    return names


def image_sizes(images: Sequence[Row], folder: Path, progress: bool) -> list[tuple[int, int] | None]:
    """Width and height of every image file as it is written; None where it cannot be read, or is missing."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sizes = pool.map(functools.partial(_size, folder), images)
        options = dict(desc=f"checking {folder.name}", total=len(images), unit="image", leave=False)
        return list(tqdm.tqdm(sizes, disable=not progress, **options))


def _size(folder: Path, image: Row) -> tuple[int, int] | None:
    try:
        return door.size(folder / str(image.get("file_name")), stated_size(image))
    except door.UnreadableError:
        return None


def stated_size(image: Row) -> tuple[float, float]:
    """Width and height that the annotation file states; `door.read` takes them."""
    return image.get("width", 0), image.get("height", 0)


def check_images(
    images: Sequence[Row], sizes: Sequence[tuple[int, int] | None], folder: Path, skip_missing: bool
) -> None:
    """Checks the images of a split.

    Args:
      images: Entries of the annotation file.
      sizes: Sizes of the image files, by `image_sizes`.
      folder: Folder of the image files.
      skip_missing: Some may be missing.

    Raises:
      UserError: Identifiers are not numbers, or the same; a size is not the stated one; images are missing.
    """
    seen: set[int] = set()
    for image, size in zip(images, sizes):
        if not isinstance(image.get("id"), int) or image["id"] in seen:
            raise UserError(f"images of {folder.name} need identifiers that are numbers and differ; got {image}"[:200])
        seen.add(image["id"])
        if size is not None and size != (image["width"], image["height"]):
            raise UserError(
                f"{folder / image['file_name']} is {size[0]} x {size[1]}, but its annotation says "
                f"{image['width']} x {image['height']}, which it is neither as stored nor set upright by EXIF"
            )
    missing = [str(image.get("file_name")) for image, size in zip(images, sizes) if size is None]
    if missing and (not skip_missing or len(missing) == len(images)):
        raise UserError(
            f"{len(missing)} of {len(images)} images are missing in {folder} or damaged, the first is "
            f"{missing[0]}: {door.reason_against(folder / missing[0])}; --skip-missing leaves them out"
        )
    if not images:
        raise UserError(f"the annotations of {folder.name} name no images")


def left_out(images: Sequence[Row], present: Sequence[Row]) -> list[Row]:
    """Images whose file is missing or cannot be read."""
    there = {image["id"] for image in present}
    return [image for image in images if image["id"] not in there]


def without_missing(content: Content, sizes: Sequence[tuple[int, int] | None]) -> Content:
    """The same without the images that have no size, and without their annotations."""
    gone = {image["id"] for image, size in zip(content["images"], sizes) if size is None}
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] not in gone],
        "annotations": [row for row in content["annotations"] if row["image_id"] not in gone],
    }


def check_annotations(content: Content, name: str, include_masks: bool) -> None:
    """Checks the annotations of a split.

    Args:
      content: The annotation file.
      name: Name of the split, for messages.
      include_masks: Check masks too.

    Raises:
      UserError: An annotation names an image or a category that is not listed; a box is not finite; a mask is not
        there or has another size than its image.
    """
    images = {image["id"]: image for image in content["images"]}
    known = {row["id"] for row in content["categories"]}
    for row in content["annotations"]:
        if row["image_id"] not in images:
            raise UserError(f"an annotation of {name} belongs to image {row['image_id']}, which is not listed")
        if row["category_id"] not in known:
            raise UserError(f"an annotation of {name} has category {row['category_id']}, which is not listed")
        if not all(map(math.isfinite, row["bbox"])):
            raise UserError(f"an annotation of {name} has the box {row['bbox']}; allowed are finite numbers")
        if not include_masks:
            continue
        if "segmentation" not in row:
            raise UserError(f"annotation {row.get('id')} of {name} has no segmentation; --no-masks writes boxes alone")
        image = images[row["image_id"]]
        size = [image["height"], image["width"]]
        other = masks.size_beyond(row["segmentation"], *size)
        if other is not None:
            raise UserError(f"a mask of {name} has the size {other}, its image {image['file_name']} {size}")
