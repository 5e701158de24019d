"""Images and their label pictures brought together by name, and dealt out to splits. No TensorFlow."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from asvit_tf.dataloaders.folders import split_of
from asvit_tf.dataloaders.imagefiles import held_out, walk
from asvit_tf.dataloaders.imagefiles.skipped import BESIDE, Skipped
from asvit_tf.dataloaders.labels import lists
from asvit_tf.dataloaders.labels.lists import SPLITS, Key
from asvit_tf.errors import UserError

NO_MASK = "no label picture"


@dataclasses.dataclass(frozen=True)
class Naming:
    """How files are called, and which belong to which split.

    Attributes:
      image_suffix, mask_suffix: Ends of names, before the dot, that come off before names are compared; None: nothing,
        or for label pictures the one end that all of them have more than their images.
      splits: Folder with train.txt, val.txt and perhaps test.txt, lists of names; None where folders are splits, or a
        fifth is held out.
      skip_missing: Leave images out that have no label picture, or cannot be read, instead of refusing.
    """

    image_suffix: str | None = None
    mask_suffix: str | None = None
    splits: str | os.PathLike | None = None
    skip_missing: bool = False


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image and its label picture; its name is the path of the image below the folder of images."""

    name: str
    image: Path
    mask: Path


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What was found.

    Attributes:
      splits: Pairs of "train", "validation" and perhaps "test", at least one in each.
      masks_without_image: How many label pictures, of those whose names end right, no image has.
      skipped: Files that are not read.
      notes: What was decided without being told.
    """

    splits: Mapping[str, Sequence[Pair]]
    masks_without_image: int
    skipped: Skipped
    notes: tuple[str, ...]


def find(images: Path, masks: Path, naming: Naming, progress: bool = False) -> Pairs:
    """Finds the pairs of two folders; an image and its label picture lie in folders of the same name inside of these.

    Args:
      images, masks: The folders; one may lie in the other.
      naming: How names are compared.
      progress: Show a progress bar where images are held out.

    Raises:
      UserError: Images have no label picture, several files have one name, or a split has no images.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; expected one of images and one of label pictures")
    is_one = os.path.realpath(images) == os.path.realpath(masks)
    if is_one and not naming.mask_suffix:
        raise UserError(f"images and label pictures are both in {images}; say how the latter end with --mask-suffix")
    image_files, skipped = walk.images(images, without=[] if is_one else [masks])
    mask_files, _ = walk.images(masks, without=[] if is_one else [images])
    if is_one:
        image_files = [path for path in image_files if not _stem(path).endswith(str(naming.mask_suffix))]
    folders = {} if naming.splits else _split_folders(images, image_files)
    image_of, left = _by_key(image_files, images, naming.image_suffix or "", folders)
    mask_folders = folders and {name: split for name in os.listdir(masks) if (split := split_of(name))}
    mask_of, others = _by_key(mask_files, masks, naming.mask_suffix or "", mask_folders)
    notes = []
    if not image_of:
        ends = f" whose names end with {naming.image_suffix}" if naming.image_suffix else ""
        raise UserError(f"{images} holds no images{ends}")
    if naming.mask_suffix is None and not image_of.keys() & mask_of.keys():
        suffix = _common_end(image_of, mask_of, images, masks)
        mask_of, others = _by_key(mask_files, masks, suffix, mask_folders)
        notes.append(f"label pictures are called like their images, with {suffix} at the end")
    keys = _dealt(image_of, naming, folders)
    beside = sum(len(its) for its in keys.values()) < len(image_of)
    if beside:
        used = {key for its in keys.values() for key in its}
        reason = "in none of the lists of splits" if naming.splits else BESIDE
        left += [(os.path.relpath(path, images), reason) for key, path in image_of.items() if key not in used]
    wanted = [key for its in keys.values() for key in its]
    missing = [key for key in wanted if key not in mask_of]
    if missing and (not naming.skip_missing or len(missing) == len(wanted)):
        hint = "" if len(missing) == len(wanted) else "; --skip-missing leaves them out"
        raise UserError(
            f"{len(missing)} of {len(wanted)} images have no label picture of their name in {masks}, the first is "
            f"{os.path.relpath(image_of[missing[0]], images)}{hint}; see --image-suffix and --mask-suffix"
        )
    left += [(os.path.relpath(image_of[key], images), NO_MASK) for key in missing]
    found = {
        split: [
            Pair(os.path.relpath(image_of[key], images), image_of[key], mask_of[key]) for key in its if key in mask_of
        ]
        for split, its in keys.items()
    }
    found, held = _with_validation(found, progress)
    for split, its in found.items():
        if not its:
            raise UserError(f"the split {split} of {images} has no images with label pictures; take it away")
    alone = len(mask_of.keys() - image_of.keys())
    total = skipped + Skipped.of(left, ["label pictures of another ending"] * (0 if is_one else len(others)))
    return Pairs(found, alone, total, (*notes, *held))


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _split_folders(images: Path, files: Sequence[str]) -> dict[str, str]:
    """The first folders that are called like splits and hold images, and their splits; none where none is.

    Raises:
      UserError: Two are the same split, or none is to be trained on.
    """
    first = dict.fromkeys(parts[0] for path in files if len(parts := Path(path).relative_to(images).parts) > 1)
    found = {name: split for name in first if (split := split_of(name))}
    # A folder that is called like a split and holds nothing is meant as one, too.
    empty = [
        name for name in sorted(os.listdir(images)) if name not in found and split_of(name) and (images / name).is_dir()
    ]
    if found and empty:
        raise UserError(f"the split {empty[0]} of {images} has no images; take the folder away, or fill it")
    if found and ("train" not in found.values() or len(set(found.values())) < len(found)):
        raise UserError(
            f"{images} holds {', '.join(sorted(found))}: name the splits train and one of validation, val, valid, dev, "
            "or test; or list their images in a folder for --splits"
        )
    return found


def _by_key(
    files: Sequence[str], root: Path, suffix: str, folders: Mapping[str, str]
) -> tuple[dict[Key, Path], list[tuple[str, str]]]:
    """Files by what their names have in common with those of the other folder; and those that end otherwise.

    Raises:
      UserError: Two have the same name.
    """
    found: dict[Key, Path] = {}
    others = []
    for path in map(Path, files):
        relative = path.relative_to(root)
        if not path.stem.endswith(suffix):
            others.append((str(relative), f"a name that does not end with {suffix}"))
            continue
        parts = list(relative.parts[:-1])
        if parts and parts[0] in folders:
            parts[0] = folders[parts[0]]
        key = (os.sep.join(parts), path.stem.removesuffix(suffix))
        if key in found:
            raise UserError(f"{found[key]} and {path} have the same name, so that they are one pair; rename one")
        found[key] = path
    return found, others


def _common_end(image_of: Mapping[Key, Path], mask_of: Mapping[Key, Path], images: Path, masks: Path) -> str:
    """What all names of label pictures have more at their end than that of an image.

    Raises:
      UserError: It is not the same for all.
    """
    ends: collections.Counter[str] = collections.Counter()
    for folder, name in mask_of:
        longest = next((n for n in range(len(name) - 1, 0, -1) if (folder, name[:n]) in image_of), None)
        if longest is not None:
            ends[name[longest:]] += 1
    if len(ends) == 1:
        return next(iter(ends))
    if ends:
        several = ", ".join(end for end, _ in ends.most_common(5))
        raise UserError(f"label pictures of {masks} end with {several}; choose one with --mask-suffix")
    mask = os.path.relpath(next(iter(mask_of.values())), masks) if mask_of else "nothing"
    image = os.path.relpath(next(iter(image_of.values())), images)
    raise UserError(
        f"no image of {images} is called like a label picture of {masks}; they are called {image} and {mask}; see "
        "--image-suffix and --mask-suffix"
    )


def _dealt(image_of: Mapping[Key, Path], naming: Naming, folders: Mapping[str, str]) -> dict[str, list[Key]]:
    """The images of each split, in the order of their names; all in "train" where nothing says which."""
    if naming.splits:
        return lists.dealt(Path(naming.splits), image_of, naming.image_suffix or "")
    if not folders:
        return {"train": sorted(image_of)}
    present = [split for split in SPLITS if split in folders.values()]
    found: dict[str, list[Key]] = {split: [] for split in present}
    for key in sorted(image_of):
        split = key[0].split(os.sep)[0]
        if split in found:
            found[split].append(key)
    return found


def _with_validation(found: dict[str, list[Pair]], progress: bool) -> tuple[dict[str, list[Pair]], tuple[str, ...]]:
    """The splits, with a fifth of "train" as "validation" where there is none, and a note about it.

    Raises:
      UserError: There are too few images for that.
    """
    if "validation" in found:
        return {split: found[split] for split in SPLITS if split in found}, ()
    pairs = found["train"]
    if len(pairs) < 2:
        raise UserError(f"{len(pairs)} images with label pictures; at least 2 are needed, to hold one out")
    order = np.random.default_rng(0).permutation(len(pairs))
    (places,) = held_out.places([[os.fspath(pairs[i].image) for i in order]], progress)
    out = {int(order[place]) for place in places}
    parts: dict[str, list[Pair]] = {"train": [], "validation": []}
    for i, pair in enumerate(pairs):
        parts["validation" if i in out else "train"].append(pair)
    rest = {"test": found["test"]} if "test" in found else {}
    note = f"{len(parts['validation'])} of {len(pairs)} images are held out, as there is no validation split"
    return {**parts, **rest}, (note,)
