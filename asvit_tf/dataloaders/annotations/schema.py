"""One pass over an annotation file: every entry in one form, or counted with what is wrong. No file but this is opened.

What follows from an image file - sizes that are left out, run lengths that do not add up to it - is checked later, by
`splits`.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from asvit_tf.dataloaders.annotations import segmentations, values
from asvit_tf.dataloaders.annotations.layout import Place
from asvit_tf.dataloaders.annotations.problems import Problems, shown
from asvit_tf.dataloaders.annotations.values import Box, Identifier, Unreadable
from asvit_tf.errors import UserError

LISTS = ("images", "annotations", "categories")  # Of an annotation file, what matters here.
Content = Mapping[str, Sequence[Any]]  # An annotation file: the lists by name.
_SPARE = 100  # Classes without a category that a model may have, beside as many as have one.
LEFT_OUT_IMAGE = "belong to an image that is left out"
LEFT_OUT_ENTRY = "name no image that is listed"


@dataclasses.dataclass(frozen=True)
class ImageEntry:
    """An image of an annotation file.

    Attributes:
      key: Its identifier there.
      file_name: As it is written there.
      stated: Width and height, each None where it is left out.
    """

    key: Identifier
    file_name: Any
    stated: tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True)
class ObjectEntry:
    """An annotation of an annotation file.

    Attributes:
      key: Identifier of its image there.
      category: Our number of its category.
      box: x, y, width and height in pixels; None if it is left out.
      segmentation: As it is written there, readable by `segmentations.read`.
      is_crowd: 1 or 0.
      area: In pixels; None if it is left out, or no number.
      row: The entry itself, for messages.
    """

    key: Identifier
    category: int
    box: Box | None
    segmentation: Any
    is_crowd: int
    area: float | None
    row: Mapping[str, Any]


@dataclasses.dataclass
class Entries:
    """What an annotation file says.

    Attributes:
      place: Where it lies.
      given: How many entries of "images" and of "annotations" it has.
      images, objects: Those that can be read.
      problems: The others, by kind.
      notes: How many values were read that are not written as COCO writes them, by what they are.
    """

    place: Place
    given: Mapping[str, int]
    images: list[ImageEntry]
    objects: list[ObjectEntry]
    problems: Problems
    notes: collections.Counter[str]


@dataclasses.dataclass(frozen=True)
class Categories:
    """The categories of both splits.

    Attributes:
      names: By our number, from 1.
      numbers: Our numbers by identifier.
      notes: A line for everything about them that is not as the files have it.
    """

    names: Mapping[int, str]
    numbers: Mapping[Identifier, int]
    notes: tuple[str, ...] = ()


def load(path: str | os.PathLike) -> Content:
    """The three lists of an annotation file that matter here.

    Raises:
      UserError: It cannot be read, or is no annotation file.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{path} is no file")
        with open(path, "rb") as file:
            content = json.loads(file.read())  # From bytes: with or without a byte order mark, UTF-8, -16 or -32.
    except OSError as error:
        raise UserError(f"cannot read the annotation file {path}: {error.strerror}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path} is not a COCO annotation file: {type(error).__name__} {str(error)[:100]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a COCO annotation file: it holds no object with {', '.join(LISTS)}")
    for name in LISTS:
        if not isinstance(content.get(name), list):
            found = f"a {type(content[name]).__name__}" if name in content else "not there"
            raise UserError(f"{path} is not a COCO annotation file: {name} is {found}; it must be a list")
    return {name: content[name] for name in LISTS}


def categories(contents: Mapping[Place, Content]) -> Categories:
    """The categories of both splits, numbered from 1.

    Identifiers are kept where they can be classes of a model, whose class 0 is the background. Others - from 0, texts,
    negative, millions - are numbered anew in their order. A category 0 without annotations, as Roboflow writes it, is
    left out instead.

    Raises:
      UserError: One has no name or no identifier, two have the same one, or the splits contradict each other.
    """
    by_place = {place: _names(content, place.name) for place, content in contents.items()}
    (first, known), *others = by_place.items()
    names = dict(known)
    for place, more in others:
        both = set(names) & set(more)
        moved = {name for key, name in (names | more).items() if key not in both} & {names[key] for key in both}
        moved |= {names[key] for key in set(names) - both} & {more[key] for key in set(more) - both}
        if moved or any(names[key] != more[key] for key in both):
            raise UserError(
                f"the categories of {first.name} and {place.name} are not the same; give a name the same id in both"
            )
        names |= more
    notes = []
    if 0 in names and len(names) > 1 and not _is_used(0, contents):
        notes.append(f"category 0, {names.pop(0)!r}, has no annotations and is left out")
    by_name: dict[str, Identifier] = {}
    for key, name in names.items():
        if (other := by_name.setdefault(name.strip(), key)) != key:
            raise UserError(
                f"the categories {shown(other)} and {shown(key)} have the same name, {shown(name.strip())}; rename "
                "one, or give their annotations one id"
            )
    keys = sorted(names, key=lambda key: (isinstance(key, str), key))
    numbers: dict[Identifier, int] = {key: key for key in keys if isinstance(key, int)}
    most = 2 * len(keys) + _SPARE
    if len(numbers) < len(keys) or not all(0 < number <= most for number in numbers.values()):
        numbers = {key: number for number, key in enumerate(keys, start=1)}
        some = ", ".join(f"{shown(key)} is {number}" for key, number in list(numbers.items())[:3])
        notes.append(f"categories are numbered anew: {some}{', ...' if len(keys) > 3 else ''}")
    return Categories({numbers[key]: names[key] for key in keys}, numbers, tuple(notes))


def _names(content: Content, split: str) -> dict[Identifier, str]:
    """Names of a split's categories by identifier."""
    names: dict[Identifier, str] = {}
    for row in content["categories"]:
        key = values.identifier(row.get("id")) if isinstance(row, dict) else None
        name = row.get("name") if isinstance(row, dict) else None
        if isinstance(name, (int, float)) and not isinstance(name, bool):
            name = str(name)
        if key is None or not isinstance(name, str) or not name.strip():
            raise UserError(f"a category of {split} has no id or no name: {shown(row)}")
        if not _is_text(name):
            raise UserError(f"the category {shown(name)} of {split} is no text in UTF-8; rename it")
        if key in names:
            raise UserError(f"two categories of {split} have the same identifier, {shown(key)}")
        names[key] = name
    if not names:
        raise UserError(f"{split} has no categories")
    return names


def _is_text(name: str) -> bool:
    return name.encode("utf-8", "replace").decode("utf-8") == name


def _is_used(key: Identifier, contents: Mapping[Place, Content]) -> bool:
    rows = (row for content in contents.values() for row in content["annotations"])
    return any(isinstance(row, dict) and values.identifier(row.get("category_id")) == key for row in rows)


def entries(place: Place, content: Content, known: Categories, include_masks: bool) -> Entries:
    """Brings every entry of a file into one form, and counts those that have none.

    Args:
      place: Where it lies.
      content: From `load`.
      known: From `categories`.
      include_masks: Read segmentations too; else only where a box is left out.
    """
    given = {name: len(content[name]) for name in ("images", "annotations")}
    found = Entries(place, given, [], [], Problems(place.file.name), collections.Counter())
    keys = [values.identifier(row.get("id")) if isinstance(row, dict) else None for row in content["images"]]
    listed = collections.Counter(key for key in keys if key is not None)  # Also by entries that cannot be read.
    for row, key in zip(content["images"], keys):
        try:
            if not isinstance(row, dict):
                raise Unreadable("are no objects of JSON", row)
            if key is None:
                raise Unreadable("have no identifier", row.get("id"))
            if listed[key] > 1:  # All of them: nobody knows whose the annotations are.
                raise Unreadable("have the identifier of another image", key)
            stated = (values.side(row.get("width")), values.side(row.get("height")))
        except Unreadable as problem:
            found.problems.add("images", row, problem)
            continue
        found.images.append(ImageEntry(key, row.get("file_name"), stated))
    for row in content["annotations"]:
        try:
            found.objects.append(_object(row, known, listed.keys(), include_masks, found.notes))
        except Unreadable as problem:
            found.problems.add("annotations", row, problem)
    return found


def _object(
    row: Any,
    known: Categories,
    listed: Collection[Identifier],
    include_masks: bool,
    notes: collections.Counter[str],
) -> ObjectEntry:
    if not isinstance(row, dict):
        raise Unreadable("are no objects of JSON", row)
    key, category = values.identifier(row.get("image_id")), values.identifier(row.get("category_id"))
    if key is None or key not in listed:
        raise Unreadable(LEFT_OUT_ENTRY, row.get("image_id"))
    if category is None or category not in known.numbers:
        raise Unreadable("have a category that is not listed", row.get("category_id"))
    box = values.box(row.get("bbox"))
    segmentation = row.get("segmentation")
    if include_masks or box is None:
        parts = segmentations.read(segmentation, box)
        if box is None and not parts:
            raise Unreadable("have neither a box nor a segmentation")
    is_crowd = values.truth(row.get("iscrowd"))
    if is_crowd is None:
        raise Unreadable("have an iscrowd that is not 0 or 1", row["iscrowd"])
    area = values.number(row.get("area"))
    if area is None and not values.is_absent(row.get("area")):
        notes["areas that are no numbers, computed"] += 1
    return ObjectEntry(key, known.numbers[category], box, segmentation, is_crowd, area, row)
