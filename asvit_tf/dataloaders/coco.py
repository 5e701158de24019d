"""COCO's files in, TFRecords out: boxes and masks as the Model Garden's input pipeline reads them.

The Model Garden's own conversion makes every example; around it, what is missing or wrong is refused in one line or
counted, and nothing is left half-written.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm
from pycocotools import mask as mask_tools

from asvit_tf.dataloaders.shapes import run_lengths
from asvit_tf.errors import UserError
from asvit_tf.storage import whole_directory

BACKGROUND = "background"  # Class 0 of a map of classes.
IGNORED = 255  # In a map of classes: pixels that are neither trained on nor evaluated.
SPLITS = {"train": "train", "validation": "val"}  # Ours, and how the names of COCO's begin.
_LISTS = ("images", "annotations", "categories")  # Of an annotation file, what matters here.
_MIN_POLYGON = 6  # Numbers: three corners.


@dataclasses.dataclass
class SplitCount:
    """What became of one split.

    Attributes:
      images: Written.
      without_boxes: Of these, images in which nothing is annotated; they are kept.
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
class Prepared:
    """TFRecords of detection data.

    Attributes:
      directory: Holds the records, `annotations_validation.json` and `data.yaml`; with a class for every pixel
        `semantic.yaml` too.
      class_names: By category identifier; "" where there is no such category.
      counts: Of both splits.
      semantic: Whether the records hold a class for every pixel too.
    """

    directory: str
    class_names: tuple[str, ...]
    counts: Mapping[str, SplitCount]
    semantic: bool = False

    @property
    def config_file(self) -> str:
        """Paths, classes and names as a YAML for `--config_file` of a detector."""
        return os.path.join(self.directory, "data.yaml")

    @property
    def semantic_config_file(self) -> str | None:
        """The same for semantic segmentation."""
        return os.path.join(self.directory, "semantic.yaml") if self.semantic else None


def prepare(
    directory: str | os.PathLike,
    data_path: str | os.PathLike,
    names: Mapping[str, str | None] | None = None,
    shards: int = 1,
    include_masks: bool = True,
    skip_missing: bool = False,
    progress: bool = False,
    semantic: bool = False,
) -> Prepared:
    """Writes the TFRecords of a data set in COCO's layout; complete or not at all.

    Args:
      directory: Where they go; it must not exist.
      data_path: Holds `annotations/instances_NAME.json` and the images of each in `NAME/`.
      names: NAME of "train" and "validation"; what is left out is found if there is one that begins with train or val.
      shards: Files of each split, >= 1.
      include_masks: Write masks too; Cascade Mask R-CNN needs them, RetinaNet does not.
      skip_missing: Leave images out whose file is missing or no image, instead of refusing.
      progress: Show a progress bar on standard error.
      semantic: Write a class for every pixel too (see `class_map`), from the masks; semantic segmentation needs it.

    Raises:
      UserError: A file is missing or is no COCO annotation file; identifiers contradict each other; an image has not
        the size that is stated.
      StoppedError: The disk is full.
    """
    if shards < 1:
        raise UserError(f"shards is {shards}; it must be at least 1")
    if semantic and not include_masks:
        raise UserError("a class for every pixel is made from the masks; leave them in")
    if os.path.exists(directory):
        raise UserError(f"{directory} exists; choose another directory")
    directory, data_path, names = os.path.abspath(directory), Path(data_path), names or {}
    found = {split: names.get(split) or _find(data_path, split, start) for split, start in SPLITS.items()}
    contents = {split: _read(data_path / "annotations" / f"instances_{name}.json") for split, name in found.items()}
    categories = {split: _categories(content, found[split]) for split, content in contents.items()}
    if categories["train"] != categories["validation"]:
        raise UserError(f"the categories of {found['train']} and {found['validation']} are not the same")
    if semantic and len(categories["train"]) >= IGNORED:
        raise UserError(f"{len(categories['train'])} categories; a class for every pixel allows {IGNORED - 1}")
    form = _Form(shards, include_masks, semantic, categories["train"])
    counts = {split: SplitCount() for split in SPLITS}
    for split, content in contents.items():
        try:
            _check_images(content, data_path / found[split], counts[split], skip_missing, progress)
            _check_annotations(content, found[split], categories[split], counts[split], include_masks)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"an image or annotation of {found[split]} lacks a field or has another type: {error}"
            ) from error
    with whole_directory(directory) as partial:
        for split, content in contents.items():
            folder = data_path / found[split]
            _write(Path(partial), split, content, folder, form, progress)
        # What an evaluation compares with; the records hold the same objects.
        compared = {name: contents["validation"][name] for name in _LISTS}
        (Path(partial) / "annotations_validation.json").write_text(json.dumps(compared))
        class_names = tuple(categories["train"].get(i, "") for i in range(max(categories["train"]) + 1))
        prepared = Prepared(directory, class_names, counts, semantic)
        annotations = os.path.join(directory, "annotations_validation.json")
        data = f"  annotation_file: {json.dumps(annotations)}\n" + _config(directory, class_names, form)
        (Path(partial) / "data.yaml").write_text(_HEADER + data)
        if semantic:
            classes = (BACKGROUND, *(categories["train"][i] for i in sorted(categories["train"])))
            (Path(partial) / "semantic.yaml").write_text(_HEADER + _config(directory, classes, form))
    return prepared


@dataclasses.dataclass(frozen=True)
class _Form:
    """What the records of both splits are like: how many files, what they hold, names by category identifier."""

    shards: int
    include_masks: bool
    semantic: bool
    categories: Mapping[int, str]


_HEADER = "# Written by asvit prepare-coco; to be given to asvit train as a further --config_file.\ntask:\n"


def _config(directory: str, class_names: Sequence[str], form: _Form) -> str:
    """The part of a task that names data and classes; JSON, which is YAML too, keeps every name a text."""

    def path(split: str) -> str:
        return json.dumps(os.path.join(directory, _pattern(split, form.shards)))

    return (
        f"  class_names: {json.dumps(class_names)}\n"
        f"  model: {{num_classes: {len(class_names)}}}\n"
        f"  train_data: {{input_path: {path('train')}}}\n"
        f"  validation_data: {{input_path: {path('validation')}}}\n"
    )


def _pattern(split: str, shards: int) -> str:
    return f"{split}.tfrecord" if shards == 1 else f"{split}-*-of-{shards:05d}.tfrecord"


def _find(data_path: Path, split: str, start: str) -> str:
    """Name of the one split whose annotation file begins like that."""
    found = sorted((data_path / "annotations").glob(f"instances_{start}*.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"{data_path / 'annotations'} should hold one instances_{start}*.json, found {names}; "
            f"name the split with --{split}"
        )
    return found[0].stem.removeprefix("instances_")


def _read(path: Path) -> dict[str, Any]:
    """The three lists of an annotation file that matter here."""
    try:
        content = json.loads(path.read_text())
        return {name: list(content[name]) for name in _LISTS}
    except OSError as error:
        raise UserError(f"cannot read the annotation file {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a COCO annotation file: {type(error).__name__} {error}") from error


def _categories(content: Mapping[str, Any], name: str) -> dict[int, str]:
    """Names by identifier."""
    try:
        categories = {row["id"]: str(row["name"]) for row in content["categories"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"a category of {name} has no id or no name") from error
    if not categories or not all(isinstance(i, int) and i > 0 for i in categories):
        raise UserError(f"category identifiers of {name} are {list(categories)[:5]}; allowed are numbers from 1")
    if len(categories) < len(content["categories"]):
        raise UserError(f"two categories of {name} have the same identifier")
    return categories


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image file as the input pipeline decodes it; None where it cannot."""
    try:
        pixels = tf.io.decode_image(tf.io.read_file(str(path)), channels=3, expand_animations=False)
    except tf.errors.OpError:
        return None
    return int(pixels.shape[1]), int(pixels.shape[0])


def _check_images(content: dict[str, Any], folder: Path, count: SplitCount, skip_missing: bool, progress: bool) -> None:
    """Removes images whose file is missing or damaged, if that is allowed; refuses wrong sizes and identifiers."""
    kept, missing, seen = [], [], set()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        paths = [folder / str(image.get("file_name")) for image in content["images"]]
        bar = tqdm.tqdm(
            pool.map(_size, paths),
            desc=f"checking {folder.name}",
            total=len(paths),
            unit="image",
            disable=not progress,
            leave=False,
        )
        sizes = list(bar)
    for image, size in zip(content["images"], sizes):
        if not isinstance(image.get("id"), int) or image["id"] in seen:
            raise UserError(f"images of {folder.name} need identifiers that are numbers and differ; got {image}"[:200])
        seen.add(image["id"])
        if size is None:
            missing.append(str(image.get("file_name")))
            continue
        if size != (image["width"], image["height"]):
            raise UserError(
                f"{folder / image['file_name']} is {size[0]} x {size[1]}, but its annotation says "
                f"{image['width']} x {image['height']}"
            )
        kept.append(image)
    if missing and (not skip_missing or not kept):
        raise UserError(
            f"{len(missing)} of {len(content['images'])} images are missing in {folder} or damaged, the first is "
            f"{missing[0]}; --skip-missing leaves them out"
        )
    if not kept:
        raise UserError(f"the annotations of {folder.name} name no images")
    count.missing = len(missing)
    gone = seen - {image["id"] for image in kept}
    content["images"] = kept
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] not in gone]


def _check_annotations(
    content: dict[str, Any], name: str, categories: Mapping[int, str], count: SplitCount, include_masks: bool
) -> None:
    """Cuts boxes at the border of their image, removes empty ones, gives masks one form; refuses contradictions.

    Identifiers are given anew: an evaluation overlooks objects whose identifiers are 0 or the same.
    """
    images = {image["id"]: image for image in content["images"]}
    kept: list[dict[str, Any]] = []
    unboxed: list[dict[str, Any]] = []
    for row in content["annotations"]:
        if row["image_id"] not in images:
            raise UserError(f"an annotation of {name} belongs to image {row['image_id']}, which is not listed")
        if row["category_id"] not in categories:
            raise UserError(f"an annotation of {name} has category {row['category_id']}, which is not listed")
        image = images[row["image_id"]]
        x, y, width, height = row["bbox"]
        if not all(map(math.isfinite, row["bbox"])):
            raise UserError(f"an annotation of {name} has the box {row['bbox']}; allowed are finite numbers")
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, image["width"]), min(y + height, image["height"])
        empty = right <= left or bottom <= top
        mask = _mask(row, name, image) if include_masks else None
        if empty or (include_masks and mask is None):
            count.degenerate += 1
            if mask is not None:  # Of no class in a map, but no background either.
                unboxed.append({**row, "segmentation": mask, "iscrowd": 1})
            continue
        cut = {**row, "bbox": [left, top, right - left, bottom - top], "iscrowd": int(row.get("iscrowd", 0))}
        cut.setdefault("area", width * height)
        cut["id"] = len(kept) + 1
        cut.pop("segmentation", None)
        kept.append(cut | ({"segmentation": mask} if mask is not None else {}))
        count.crowds += cut["iscrowd"]
    content["annotations"], content["unboxed"] = kept, unboxed
    count.objects = len(kept)
    count.images = len(images)
    count.without_boxes = len(images) - len({row["image_id"] for row in kept})


def _mask(row: Mapping[str, Any], name: str, image: Mapping[str, Any]) -> dict[str, Any] | None:
    """The mask of an annotation, polygons or run lengths of either form, as compressed run lengths; None if empty."""
    if "segmentation" not in row:
        raise UserError(f"annotation {row.get('id')} of {name} has no segmentation; --no-masks writes boxes alone")
    size = [image["height"], image["width"]]
    parts = []
    for part in row["segmentation"] if isinstance(row["segmentation"], list) else [row["segmentation"]]:
        if isinstance(part, dict):
            if list(part["size"]) != size:
                raise UserError(f"a mask of {name} has the size {part['size']}, its image {image['file_name']} {size}")
            parts.append(mask_tools.frPyObjects(part, *size) if isinstance(part["counts"], list) else part)
        elif len(part) >= _MIN_POLYGON:
            parts += mask_tools.frPyObjects([part], *size)
    whole = mask_tools.merge(parts) if parts else None
    if whole is None or not mask_tools.area(whole):
        return None
    return dict(size=size, counts=whole["counts"].decode())


def class_map(rows: Sequence[Mapping[str, Any]], categories: Sequence[int], height: int, width: int) -> np.ndarray:
    """The class of every pixel, from the masks of an image's objects.

    Args:
      rows: Annotations, their masks as compressed run lengths.
      categories: Identifiers in the order of the classes, of which the first is class 1.
      height, width: Of the image.

    Returns:
      [height, width] uint8: 0 where no object is; `IGNORED` where a crowd is, or where objects of two classes overlap.
    """
    classes = np.zeros((height, width), np.uint8)
    for row in rows:
        pixels = mask_tools.decode(row["segmentation"]).astype(bool)
        here = IGNORED if row["iscrowd"] else 1 + categories.index(row["category_id"])
        below = classes[pixels]
        classes[pixels] = np.where((below == 0) | (below == here), here, IGNORED)
    return classes


def _convertible(row: Mapping[str, Any]) -> dict[str, Any]:
    """The annotation with its mask as the Model Garden's conversion takes it: run lengths, in a list if no crowd's."""
    lengths = run_lengths(np.asarray(mask_tools.decode(row["segmentation"])))
    return {**row, "segmentation": lengths if row["iscrowd"] else [lengths]}


def _write(
    directory: Path,
    split: str,
    content: Mapping[str, Any],
    folder: Path,
    form: _Form,
    progress: bool,
) -> None:
    """Writes the records of one split, images in a fixed random order, dealt out to the shards in turn."""
    # Here, because importing it defines flags. Of it only the conversion is used: its writer forks this process, with
    # TensorFlow's threads in it, and may hang.
    from official.vision.data import create_coco_tf_record

    objects: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in content["annotations"]:
        objects[row["image_id"]].append(row)
    unboxed: dict[int, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in content["unboxed"]:
        unboxed[row["image_id"]].append(row)
    images: Sequence[dict[str, Any]] = content["images"]
    order = np.random.default_rng(0).permutation(len(images))
    identifiers = sorted(form.categories)
    names = [_pattern(split, form.shards).replace("*", f"{i:05d}") for i in range(form.shards)]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(tf.io.TFRecordWriter(str(directory / name))) for name in names]
        for written, i in enumerate(tqdm.tqdm(order, desc=split, unit="image", disable=not progress)):
            rows = objects[images[i]["id"]]
            example, dropped = create_coco_tf_record.create_tf_example(
                images[i],
                [str(folder)],
                bbox_annotations=[_convertible(row) for row in rows] if form.include_masks else rows,
                id_to_name_map=form.categories,
                include_masks=form.include_masks,
            )
            if dropped:
                raise UserError(f"the Model Garden dropped {dropped} boxes of {images[i]['file_name']}")
            if form.semantic:
                drawn = rows + unboxed[images[i]["id"]]
                classes = class_map(drawn, identifiers, images[i]["height"], images[i]["width"])
                encoded = tf.io.encode_png(classes[..., None]).numpy()
                example.features.feature["image/segmentation/class/encoded"].bytes_list.value.append(encoded)
            writers[written % form.shards].write(example.SerializeToString())
