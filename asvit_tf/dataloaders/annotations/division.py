"""Which images are trained on and which evaluate: two annotation files, or one of which a fifth is held out."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from asvit_tf.dataloaders.annotations import layout, schema
from asvit_tf.dataloaders.annotations.layout import ImageFiles, Place
from asvit_tf.dataloaders.annotations.problems import Problems
from asvit_tf.dataloaders.annotations.schema import Entries
from asvit_tf.dataloaders.imagefiles import held_out
from asvit_tf.errors import UserError

_TEST = re.compile("test", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the splits lie.

    Attributes:
      train: Its annotation file and images.
      validation: Likewise; None where it is to be a fifth of `train`.
      notes: A line for each test split, which is not used.
    """

    train: Place
    validation: Place | None
    notes: tuple[str, ...]


def find(data_path: Path, names: Mapping[str, str | None]) -> Places:
    """Finds the annotation files.

    Args:
      data_path: The data set.
      names: NAME of "train" and "validation"; what is left out is found (`layout.find`). Where only one annotation file
        is left beside those of test splits, it is the one to train on, and validation is a fifth of it.

    Raises:
      UserError: A split is missing, is there twice, or both are the same file.
    """
    files = layout.everything(data_path)
    others = [place for place in files if not _TEST.match(place.name)]
    train = layout.seek(data_path, "train", names.get("train"))
    validation = layout.seek(data_path, "validation", names.get("validation"))
    if train is None and validation is None and len(others) == 1 and not any(names.values()):
        (train,) = others
    if train is None:
        raise layout.missing(data_path, "train", names.get("train"))
    if validation is None and names.get("validation"):
        raise layout.missing(data_path, "validation", names["validation"])
    if validation is not None and os.path.samefile(train.file, validation.file):
        if names.get("validation"):
            raise UserError(
                f"train and validation are the same file, {validation.file}; leave --validation out, and a fifth of "
                "its images is held out"
            )
        validation = None
    if validation is None and any(_may_be_validation(place, train) for place in others):
        raise layout.missing(data_path, "validation")
    used = [place.file for place in (train, validation) if place is not None]
    tests = [place for place in files if _TEST.match(place.name) and place.file not in used]
    notes = (
        f"the split {place.name} ({os.path.relpath(place.file, data_path)}) is not used; a detector is evaluated on "
        "the validation split"
        for place in tests
    )
    return Places(train, validation, tuple(notes))


def _may_be_validation(place: Place, train: Place) -> bool:
    """Whether a file holds annotations of other images than `train`; captions_train2017.json has the same ones."""
    if os.path.samefile(place.file, train.file) or place.name.endswith(train.name):
        return False
    try:
        schema.load(place.file)
    except UserError:
        return False
    return True


def divide(entries: Entries, data_path: Path, progress: bool) -> tuple[dict[str, Entries], str]:
    """Holds out a fifth of the images, as nearly as copies allow, always the same: of those with objects, and without.

    Args:
      entries: What the annotation file says. What cannot be read of it, or has no file, stays in "train".
      data_path: The data set.
      progress: Show a progress bar on standard error.

    Returns:
      Entries of "train" and "validation"; and a line about it.

    Raises:
      UserError: There are too few images.
    """
    files = ImageFiles(data_path, entries.place.folder)
    with_objects = {entry.key for entry in entries.objects if not entry.is_crowd}
    orders: list[list[schema.ImageEntry]] = [[], []]
    paths: list[list[bytes | str]] = [[], []]
    for i in np.random.default_rng(0).permutation(len(entries.images)):
        entry = entries.images[i]
        path, _ = files.find(entry.file_name)
        if path is not None:
            kind = int(entry.key not in with_objects)
            orders[kind].append(entry)
            paths[kind].append(os.fspath(path))
    name = entries.place.name
    if len(orders[0]) < 2:
        raise UserError(
            f"{len(orders[0])} images of {name} have objects and a file in {entries.place.folder}; at least 2 are "
            "needed, to hold one out, as there is no validation split"
        )
    places = held_out.places(paths, progress)
    out = {order[place].key for order, its in zip(orders, places) for place in its}
    parts = {
        split: dataclasses.replace(
            entries,
            images=[entry for entry in entries.images if (entry.key in out) is is_out],
            objects=[entry for entry in entries.objects if (entry.key in out) is is_out],
        )
        for split, is_out in (("train", False), ("validation", True))
    }
    held = parts["validation"]
    given = dict(images=len(held.images), annotations=len(held.objects))
    rest = {what: number - given[what] for what, number in entries.given.items()}
    parts["train"] = dataclasses.replace(parts["train"], given=rest)
    parts["validation"] = dataclasses.replace(
        held, given=given, problems=Problems(entries.problems.source), notes=collections.Counter()
    )
    note = (
        f"{given['images']} of {entries.given['images']} images of {name} are held out, as there is no validation split"
    )
    return parts, note
