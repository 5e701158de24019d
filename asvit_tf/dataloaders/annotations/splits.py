"""A split in the form in which it is written: entries of an annotation file and the image files, brought together."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_tools

from asvit_tf.dataloaders.annotations import box_forms, matching, pictures, segmentations
from asvit_tf.dataloaders.annotations.matching import Matched
from asvit_tf.dataloaders.annotations.pictures import Frame
from asvit_tf.dataloaders.annotations.schema import LEFT_OUT_IMAGE, Entries, ImageEntry, ObjectEntry
from asvit_tf.dataloaders.annotations.values import Box, Unreadable

MISSING = "missing or damaged"
_EMPTY_BOX, _OUTSIDE, _EMPTY_MASK = "empty box", "box outside of the image", "empty mask"
NO_MASK = "no segmentation"
_EMPTY = (_EMPTY_BOX, _OUTSIDE, _EMPTY_MASK, NO_MASK)
_LARGEST_IDENTIFIER = 2**31


@dataclasses.dataclass(frozen=True)
class SplitCount:
    """What became of one split: what was given is what was written and what was left out.

    Attributes:
      images: Written.
      without_boxes: Images among these in which nothing is annotated; they are kept.
      objects: Annotations written, crowds among them.
      crowds: Annotations of a crowd; kept, and skipped in training.
      degenerate: Annotations left out because their box or mask is empty.
      missing: Images left out because there is no such image file, or it is damaged.
      given_images, given_objects: Entries of the annotation file.
      images_left_out, objects_left_out: How many, by reason; `missing` and `degenerate` among them.
      notes: How many values were read that are not written as COCO writes them, by what they are; and how many
        photographs are stored reduced.
    """

    images: int = 0
    without_boxes: int = 0
    objects: int = 0
    crowds: int = 0
    degenerate: int = 0
    missing: int = 0
    given_images: int = 0
    given_objects: int = 0
    images_left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    objects_left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """An image that is written.

    Attributes:
      identifier: Its number in the records and in the annotations that an evaluation reads.
      path: Its file.
      file_name: As the annotation file has it.
      width, height: In pixels, upright.
      digest: Of what goes to the records, by `duplicates.digest`.
    """

    identifier: int
    path: Path
    file_name: str
    width: int
    height: int
    digest: bytes

    def row(self) -> dict[str, Any]:
        """As an annotation file lists it."""
        return dict(id=self.identifier, file_name=self.file_name, width=self.width, height=self.height)


@dataclasses.dataclass(frozen=True)
class Split:
    """One split in the form in which it is written.

    Attributes:
      images: Images whose file is there.
      objects: Their annotations: boxes inside the upright image and not empty, masks (where read) as compressed run
        lengths, `iscrowd` and `area` set, identifiers from 1: an evaluation overlooks 0, and one of two that are equal.
      unboxed: Annotations with a mask but no box, as crowds: of no class in a map of classes, but no background either.
      unmasked: Annotations with a box but no mask, where masks are read, as crowds whose mask is the box: likewise, and
        what is found there is no mistake.
      count: What became of everything.
      left_out: Image files that are missing or damaged, with the reason.
    """

    images: Sequence[ImageFile]
    objects: Sequence[Mapping[str, Any]]
    unboxed: Sequence[Mapping[str, Any]]
    unmasked: Sequence[Mapping[str, Any]]
    count: SplitCount
    left_out: Sequence[tuple[str, str]] = ()


def build(entries: Entries, data_path: Path, include_masks: bool, skip_missing: bool, progress: bool) -> Split:
    """Brings the entries of a split and its image files together; problems are added to those of the entries.

    Args:
      entries: What the annotation file says.
      data_path: The data set.
      include_masks: Read masks too; an object without one is left out of the objects.
      skip_missing: Leave images out whose file is missing or no image, instead of refusing.
      progress: Show a progress bar on standard error.

    Raises:
      UserError: Images are missing or damaged, or boxes are of another form.
    """
    found, missing = matching.match(entries, data_path, skip_missing, progress)
    if any(None in item.entry.stated for item in found):  # Else it was known before.
        box_forms.check(entries, {item.entry.key: item.size for item in found})
    numbers = _identifiers([item.entry for item in found], entries.notes)
    images = {
        item.entry.key: ImageFile(
            number, item.path, matching.text(item.entry.file_name), *item.picture.upright, item.digest
        )
        for item, number in zip(found, numbers)
    }
    by_key = {item.entry.key: item for item in found}
    images_left_out = collections.Counter({MISSING: len(missing)} if missing else {})
    objects: list[dict[str, Any]] = []
    unboxed: list[dict[str, Any]] = []
    unmasked: list[dict[str, Any]] = []
    objects_left_out: collections.Counter[str] = collections.Counter()
    for entry in entries.objects:
        if entry.key not in by_key:
            objects_left_out[LEFT_OUT_IMAGE] += 1
            continue
        try:
            row, reason = _row(entry, by_key[entry.key], include_masks, entries.notes)
        except Unreadable as problem:
            entries.problems.add("annotations", entry.row, problem)
            continue
        row = dict(id=len(objects) + 1, image_id=images[entry.key].identifier, category_id=entry.category, **row)
        if reason is None:
            objects.append(row)
            continue
        objects_left_out[reason] += 1
        if "segmentation" in row:
            unboxed.append({**row, "iscrowd": 1})
        elif include_masks and reason in (NO_MASK, _EMPTY_MASK) and "bbox" in row:
            image = images[entry.key]
            unmasked.append({**row, "iscrowd": 1, "segmentation": _filled(row["bbox"], image.height, image.width)})
    for kind, number in entries.problems.counts.items():
        name, rest = kind.split(" ", 1)
        (images_left_out if name == "images" else objects_left_out)[rest] += number
    count = SplitCount(
        images=len(images),
        without_boxes=len(images) - len({row["image_id"] for row in objects}),
        objects=len(objects),
        crowds=sum(row["iscrowd"] for row in objects),
        degenerate=sum(objects_left_out[reason] for reason in _EMPTY),
        missing=len(missing),
        given_images=entries.given["images"],
        given_objects=entries.given["annotations"],
        images_left_out=dict(images_left_out),
        objects_left_out={reason: number for reason, number in objects_left_out.items() if number},
        notes={note: number for note, number in entries.notes.items() if number},
    )
    return Split(list(images.values()), objects, unboxed, unmasked, count, missing)


def noting_reduced(split: Split, pixels: int) -> Split:
    """The split, with a note of the photographs that have more pixels than are stored."""
    number = sum(image.width * image.height > pixels for image in split.images)
    if not number:
        return split
    notes = {**split.count.notes, f"photographs are stored reduced, at most {pixels:,} pixels": number}
    return dataclasses.replace(split, count=dataclasses.replace(split.count, notes=notes))


def _identifiers(images: Sequence[ImageEntry], notes: collections.Counter[str]) -> list[int]:
    """Numbers of the images: their identifiers, if all can be numbers of the Model Garden's evaluation; else anew."""
    keys = [image.key for image in images]
    if all(isinstance(key, int) and 0 < key < _LARGEST_IDENTIFIER for key in keys):
        return keys  # type: ignore[return-value]
    notes["image identifiers given anew"] += len(keys)
    return list(range(1, len(keys) + 1))


def _row(
    entry: ObjectEntry, image: Matched, include_masks: bool, notes: collections.Counter[str]
) -> tuple[dict[str, Any], str | None]:
    """Box, area and mask of an object, upright; and why it cannot be written, None if it can.

    Raises:
      Unreadable: Its segmentation does not suit its image.
    """
    turned = image.frame is Frame.STORED
    width, height = image.size
    box, mask = entry.box, None
    if include_masks or box is None:
        parts = segmentations.read(entry.segmentation, box)
        mask, is_filled = segmentations.mask_of(parts, height, width)
        notes["run lengths filled up with background"] += is_filled
        if box is None and mask is not None:
            x, y, box_width, box_height = map(float, mask_tools.toBbox(mask))
            box = (x, y, box_width, box_height)
            notes["boxes made from the segmentation"] += 1
        if mask is not None and turned:
            pixels = pictures.turned_pixels(mask_tools.decode(mask), image.picture)
            whole = mask_tools.encode(np.asfortranarray(pixels))
            mask = dict(size=list(whole["size"]), counts=whole["counts"].decode())
    row: dict[str, Any] = dict(iscrowd=entry.is_crowd)
    if include_masks and mask is not None:
        row["segmentation"] = mask
    if box is None:
        return row, _EMPTY_MASK
    whole_box = pictures.turned_box(box, image.picture) if turned else box
    inside, reason = _cut(whole_box, *image.picture.upright)
    notes["boxes that stick out of their image, cut"] += reason is None and _sticks_out(whole_box, inside)
    if reason is None and include_masks and mask is None:
        reason = _EMPTY_MASK if parts else NO_MASK
    row |= dict(bbox=inside, area=_area(entry, mask if include_masks else None, inside, width * height))
    return row, reason


def _cut(box: Box, image_width: int, image_height: int) -> tuple[list[float], str | None]:
    """x, y, width and height of the part of a box inside its image; and what is wrong with it."""
    x, y, width, height = box
    left, inside_width = _overlap(x, width, image_width)
    top, inside_height = _overlap(y, height, image_height)
    reason = None
    if width <= 0 or height <= 0:
        reason = _EMPTY_BOX
    elif inside_width <= 0 or inside_height <= 0:
        reason = _OUTSIDE
    return [left, top, inside_width, inside_height], reason


def _sticks_out(box: Box, inside: Sequence[float]) -> bool:
    """Whether more was cut than what rounding explains."""
    return any(whole - part > matching.SLACK for whole, part in zip(box[2:], inside[2:]))


def _filled(box: Sequence[float], height: int, width: int) -> dict[str, Any]:
    """The mask of all pixels that a box inside its image touches, as compressed run lengths."""
    left, top = (math.floor(start) for start in box[:2])
    right, bottom = (math.ceil(start + length) for start, length in zip(box[:2], box[2:]))
    (mask,) = mask_tools.frPyObjects(np.array([[left, top, right - left, bottom - top]], float), height, width)
    return dict(size=[height, width], counts=mask["counts"].decode())


def _overlap(start: float, length: float, end: float) -> tuple[float, float]:
    """Start and length of what an interval has in common with [0, end]; they add up to `end` at most, also rounded."""
    left = max(start, 0)
    inside = min(start + length, end) - left
    while inside > 0 and left + inside > end:  # The Model Garden would leave such a box out.
        inside = math.nextafter(inside, 0)
    return left, inside


def _area(entry: ObjectEntry, mask: dict[str, Any] | None, box: Sequence[float], pixels: int) -> float:
    """Area in pixels: the one that is stated, if there can be such a one; else that of the mask, or of the box."""
    if entry.area is not None and 0 < entry.area <= pixels:
        return entry.area
    return float(mask_tools.area(mask)) if mask is not None else box[2] * box[3]
