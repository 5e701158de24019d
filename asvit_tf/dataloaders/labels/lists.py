"""Splits as lists of names in text files, as VOC's ImageSets/Segmentation has them. No TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from asvit_tf.dataloaders.folders import split_of
from asvit_tf.errors import UserError

SPLITS = ("train", "validation", "test")

Key = tuple[str, str]  # Folder, in which the first is called by its split where folders are splits; and name.


def dealt(folder: Path, image_of: Mapping[Key, Path], suffix: str) -> dict[str, list[Key]]:
    """The images that train.txt, val.txt and test.txt of a folder name, a line each, each image once.

    Other files, as trainval.txt, are left out of account.

    Args:
      folder: Holds the lists.
      image_of: Images by folder and name without suffix.
      suffix: End of the images' names, before the dot; a list may have it or not, and the dot with what follows, too.

    Raises:
      UserError: There is no list to train on, one is empty or names what is not there, or two name the same image.
    """
    places: dict[str, Path] = {}
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    for name in names:
        stem, end = os.path.splitext(name)
        split = split_of(stem) if end.lower() == ".txt" else None
        if split is None:
            continue
        if split in places:
            raise UserError(f"{places[split]} and {folder / name} are lists of the same split; take one away")
        places[split] = folder / name
    if "train" not in places:
        raise UserError(
            f"{folder} holds no train.txt; expected train.txt, val.txt and perhaps test.txt, lists of names"
        )
    known = {os.path.join(*key): key for key in image_of}
    taken: dict[Key, str] = {}
    return {split: _listed(places[split], known, suffix, taken) for split in SPLITS if split in places}


def _listed(path: Path, known: Mapping[str, Key], suffix: str, taken: dict[Key, str]) -> list[Key]:
    """The images of one list; `taken` remembers whose they are."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as text in UTF-8: {getattr(error, 'strerror', None) or error}") from error
    found: dict[Key, None] = {}
    unknown = []
    for number, line in enumerate(lines, 1):
        if not (name := os.path.normpath(line.strip()) if line.strip() else ""):
            continue
        whole = (name, os.path.splitext(name)[0])
        key = next((known[each.removesuffix(suffix)] for each in whole if each.removesuffix(suffix) in known), None)
        if key is None:
            unknown.append(f"{name} (line {number})")
        elif taken.setdefault(key, path.name) != path.name:
            raise UserError(f"line {number} of {path} names {name}, which {taken[key]} names, too")
        else:
            found[key] = None
    if unknown:
        raise UserError(f"{len(unknown)} names of {path} are no images, the first is {unknown[0]}")
    if not found:
        raise UserError(f"{path} names no images; take it away, or fill it")
    return list(found)
