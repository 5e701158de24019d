"""Where images lie: folders, and what TensorFlow Datasets has prepared. No TensorFlow: wrong paths fail at once."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from asvit_tf.dataloaders.imagefiles import walk
from asvit_tf.dataloaders.imagefiles.skipped import BESIDE, Skipped
from asvit_tf.errors import OneClassError, UserError

# Names of the splits' folders, in any case, as in Training, val2017, test-set.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_SPLIT = re.compile(
    "|".join(f"(?P<{split}>{'|'.join(names)})" for split, names in _SPLIT_NAMES.items()).join(("^(?:", ")"))
    + r"(?:[-_ ]?(?:set|data|images|split))?(?:[-_ ]?20\d\d)?$",
    re.IGNORECASE,
)
_HOW = (
    "name the splits train and one of validation, val, valid, dev, or test, each with a folder for each class, or give "
    "the folder that holds the classes"
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """An image folder.

    Attributes:
      class_names: By label, in the order of the names.
      splits: Class folders by label, of "train" and, where the folder has them, "validation" and "test".
      skipped: Folders and files beside these.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[Path]]
    skipped: Skipped


def split_of(name: str) -> str | None:
    """The split that a folder or list of this name is called like, "train", "validation" or "test"; None for none."""
    match = _SPLIT.match(name)
    return str(match.lastgroup) if match else None


def newest_change(data_path: Path, without: Path, deep: int = 2) -> float:
    """When a file was last added to a folder or taken away, also in its subfolders; in seconds, as `time.time`.

    Args:
      data_path: The folder.
      without: A folder that is no part of it.
      deep: Levels of subfolders that are looked at.
    """
    newest = os.stat(data_path).st_mtime
    if deep:
        for entry in os.scandir(data_path):
            if entry.is_dir() and not (without.exists() and without.samefile(entry.path)):
                newest = max(newest, newest_change(Path(entry.path), without, deep - 1))
    return newest


def layout(data_path: str | os.PathLike, without: Iterable[str | os.PathLike] = ()) -> Layout:
    """Finds classes and splits of an image folder; no image is opened.

    Subfolders named like splits are splits if they hold folders and no images, or class folders and stray images beside
    them; else they are classes, as a folder of trains beside one of trams. Where one is a split for certain, none is
    taken for a class.

    Args:
      data_path: The folder.
      without: Folders that are no part of it, as the output of the command.

    Raises:
      OneClassError: It has one class.
      UserError: It is not a folder or has no classes, the splits are incomplete or contradict each other.
    """
    data_path = Path(data_path)
    folders, skipped = walk.subfolders(data_path, without)
    named = {folder: split for folder in folders if (split := split_of(folder.name))}
    splits = {folder: split for folder, split in named.items() if _is_split(folder)}
    others = [folder for folder in folders if folder not in splits]
    if not splits or _are_all_classes(folders, named, splits):
        if len(named) == len(folders) > 1 and "train" in named.values():
            raise UserError(f"{', '.join(_names(folders))} of {data_path} hold no class folders; {_HOW}")
        classes = _classes(data_path, folders)
        return Layout(_names(classes), {"train": classes}, skipped)
    _refuse_images_of_no_class(data_path, splits, others, named)
    if "train" not in splits.values() or len(set(splits.values())) < len(splits):
        raise UserError(f"{data_path} holds {', '.join(folder.name for folder in splits)}: {_HOW}")
    skipped += Skipped.of((), [BESIDE] * len(others))
    by_split = {}
    for folder, split in sorted(splits.items(), key=lambda item: list(_SPLIT_NAMES).index(item[1])):
        inner, left = walk.subfolders(folder, without, data_path)
        by_split[split] = _classes(folder, inner)
        skipped += left
    return Layout(_agreeing(by_split), by_split, skipped)


def _is_split(folder: Path) -> bool:
    """Whether a folder looks like a split: it holds folders and no images beside them, or two folders with images."""
    inner, _ = walk.subfolders(folder)
    return bool(inner) and (not walk.holds_images(folder, deep=False) or _hold_classes(inner))


def _hold_classes(folders: Iterable[Path]) -> bool:
    """Whether two of them hold images; the others are not looked at."""
    return len(list(itertools.islice(filter(walk.holds_images, folders), 2))) == 2


def _are_all_classes(folders: Iterable[Path], named: Mapping[Path, str], splits: Iterable[Path]) -> bool:
    """Whether a single folder that is called like a split is a class beside other classes.

    Not if it is a train that holds class folders alone, nor if another folder with images is called like another split.
    """
    if not any(folder not in named and walk.holds_images(folder) for folder in folders):
        return False
    if len({split for folder, split in named.items() if walk.holds_images(folder)}) > 1:
        return False
    clear = (folder for folder in splits if named[folder] == "train" and not walk.holds_images(folder, deep=False))
    return not any(_hold_classes(walk.subfolders(folder)[0]) for folder in clear)


def _refuse_images_of_no_class(
    data_path: Path, splits: Mapping[Path, str], others: Iterable[Path], named: Mapping[Path, str]
) -> None:
    """Refuses folders beside the splits that may be meant as a split or as a class.

    Such are folders called like splits; beside a single split all that hold images, as nobody calls one folder a split.
    """
    is_single = len(set(splits.values())) == 1
    found = [folder.name for folder in others if (is_single or folder in named) and walk.holds_images(folder)]
    if found:
        hold, them = ("hold", "them") if len(found) > 1 else ("holds", "it")
        raise UserError(
            f"{', '.join(found)} of {data_path} {hold} images of no class beside the split{'' if is_single else 's'} "
            f"{', '.join(folder.name for folder in splits)}; take {them} away, or {_HOW}"
        )


def _classes(data_path: Path, folders: list[Path]) -> list[Path]:
    if not folders:
        raise UserError(f"{data_path} has 0 subfolders; expected at least two, one for each class")
    if len(folders) == 1:
        inner = [] if walk.holds_images(folders[0], deep=False) else walk.subfolders(folders[0])[0]
        raise OneClassError(
            f"{data_path} has one subfolder, {folders[0].name!r}; a single class cannot be learned; expected at "
            "least two, one for each class" + (f"; if these are in it, give {folders[0]}" if len(inner) > 1 else "")
        )
    for folder in folders:
        if os.fsencode(folder.name).decode("utf-8", "replace") != folder.name:
            raise UserError(f"class folder {os.fsencode(folder.name)!r} of {data_path} is not named in UTF-8")
    return folders


def _names(folders: Sequence[Path]) -> tuple[str, ...]:
    return tuple(folder.name for folder in folders)


def _agreeing(splits: Mapping[str, Sequence[Path]]) -> tuple[str, ...]:
    """The class names, which all splits have."""
    train = _names(splits["train"])
    for folders in splits.values():
        if (names := _names(folders)) != train:
            first, second = folders[0].parent, splits["train"][0].parent
            only = [
                f"only in {parent}: {', '.join(sorted(mine - others)[:5])}"
                for parent, mine, others in ((first, set(names), set(train)), (second, set(train), set(names)))
                if mine - others
            ]
            raise UserError(f"{first} and {second} do not have the same class folders; {'; '.join(only)}")
    return train


def prepared_tfds(name: str, data_dir: str | None = None) -> Path:
    """Newest version of a data set that TensorFlow Datasets has prepared on this machine.

    TensorFlow Datasets itself would first try the network, for minutes.

    Args:
      name: Name of the data set, with or without configuration and version.
      data_dir: Where it was prepared; None for the default of TensorFlow Datasets.

    Raises:
      UserError: It is not there.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    prepared = [file.parent for file in (root / name.replace(":", "/")).rglob("dataset_info.json")]
    if not prepared:
        raise UserError(
            f"dataset {name!r} is not prepared in {root}; let TensorFlow Datasets build it there, or name the "
            "directory where it has (TFDS_DATA_DIR, --data_dir, or tfds_data_dir in a config)"
        )
    return max(prepared, key=lambda path: [int(part) if part.isdigit() else 0 for part in path.name.split(".")])
