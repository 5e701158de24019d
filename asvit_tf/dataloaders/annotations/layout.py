"""Where annotation files and images lie: the layouts of COCO and Roboflow and their relatives. No TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from asvit_tf.dataloaders.annotations import other_layouts
from asvit_tf.errors import UserError

STARTS = {"train": "train", "validation": "val"}  # Of our splits, how the names of theirs begin; so valid, too.
_ROBOFLOW = "_annotations.coco.json"
_BOTH = re.compile(r"train[^a-z0-9]*val", re.IGNORECASE)  # Holds the images of validation, too.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_NO_IMAGES = (".json", ".txt", ".xml", ".csv", ".yaml", ".npy")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a split lies.

    Attributes:
      name: As train2017.
      file: Its annotation file.
      folder: Of its images.
    """

    name: str
    file: Path
    folder: Path


def find(data_path: Path, split: str, name: str | None = None) -> Place:
    """Annotation file and images of a split.

    Args:
      data_path: Holds both.
      split: One of `STARTS`.
      name: Name of the split there; None for the one that begins as `STARTS` says.

    Raises:
      UserError: There are none or several.
    """
    found = seek(data_path, split, name)
    if found is None:
        raise missing(data_path, split, name)
    return found


def seek(data_path: Path, split: str, name: str | None = None) -> Place | None:
    """Likewise; None if there is none.

    Raises:
      UserError: There are several.
    """
    wanted = re.compile(re.escape(name) + "$" if name else STARTS[split], re.IGNORECASE)
    for files in _candidates(data_path, {}):
        found = {file: its for file, its in files.items() if wanted.match(its)}
        if name is None and any(re.match(STARTS["validation"], its, re.IGNORECASE) for its in files.values()):
            found = {file: its for file, its in found.items() if not _BOTH.match(its)}
        if len(found) == 1:
            ((file, its),) = found.items()
            return Place(its, file, _folder(data_path, file, its))
        if found:
            names = ", ".join(str(file.relative_to(data_path)) for file in found)
            raise UserError(f"{data_path} holds {names}; name one split with --{split}")
    return None


def everything(data_path: Path) -> list[Place]:
    """All files that may be of annotations, whatever their split is called; some are something else."""
    names = {file: its for files in _candidates(data_path, {}) for file, its in files.items()}
    return [Place(its, file, _folder(data_path, file, its)) for file, its in names.items()]


def missing(data_path: Path, split: str, name: str | None = None) -> UserError:
    """That there is no such split, and what is there."""
    unreadable: dict[Path, str] = {}
    there = [str(file.relative_to(data_path)) for files in _candidates(data_path, unreadable) for file in files]
    if not there and (other := other_layouts.found(data_path)):
        return UserError(
            f"{data_path} holds {other}; needed is COCO's layout: annotations/instances_{STARTS[split]}*.json and the "
            f"images in {STARTS[split]}*/; convert them first"
        )
    closed = [f"{os.path.relpath(folder, data_path)} ({reason})" for folder, reason in unreadable.items()]
    start = name or f"{STARTS[split]}*"
    return UserError(
        f"{data_path} should hold one annotations/instances_{start}.json, or {start}/{_ROBOFLOW}; found "
        f"{', '.join(there[:6]) or 'none'}{'; cannot read ' if closed else ''}{', '.join(closed[:3])}"
        + (f"; name the split with --{split}" if there else "")
    )


def _candidates(data_path: Path, unreadable: dict[Path, str]) -> Iterator[dict[Path, str]]:
    """Annotation files and the names of their splits, one layout after the other.

    Folders that cannot be listed, as lost+found, are put into `unreadable` with the reason.
    """
    annotations = _json_files(data_path / "annotations", unreadable)
    prefix = re.compile("instances_", re.IGNORECASE)
    yield {file: file.stem[len("instances_") :] for file in annotations if prefix.match(file.stem)}
    yield {file: file.stem for file in annotations if not prefix.match(file.stem)}
    folders = [path for path in _listed(data_path, unreadable) if os.path.isdir(path)]
    yield {folder / _ROBOFLOW: folder.name for folder in folders if os.path.isfile(folder / _ROBOFLOW)}
    inside = {folder: _json_files(folder, unreadable) for folder in folders if folder.name != "annotations"}
    yield {files[0]: folder.name for folder, files in inside.items() if len(files) == 1}
    yield {file: prefix.sub("", file.stem) for file in _json_files(data_path, unreadable)}


def _json_files(folder: Path, unreadable: dict[Path, str]) -> list[Path]:
    found = (path for path in _listed(folder, unreadable) if path.suffix.lower() == ".json")
    return [path for path in found if not path.name.startswith(".") and os.path.isfile(path)]


def _listed(folder: Path, unreadable: dict[Path, str]) -> list[Path]:
    """What a folder holds, sorted; nothing if there is no such folder, or it cannot be read."""
    try:
        return sorted(folder / name for name in os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        unreadable[folder] = error.strerror or str(error)
        return []


def _folder(data_path: Path, file: Path, name: str) -> Path:
    """The folder of a split's images; where none of the usual ones is there, the one that COCO has."""
    usual = [data_path / name, data_path / "images" / name, data_path / "images", data_path / name / "images"]
    if file.parent not in (data_path, data_path / "annotations"):
        usual = [file.parent / "images", file.parent]
    return next((folder for folder in usual if os.path.isdir(folder)), data_path / name)


class ImageFiles:
    """Finds the image files that an annotation file names.

    A name may have folders of the machine where it was written, backslashes, a URL around it, letters of another case,
    or the suffix of another format. Only a file that is the single one of such a name is taken.

    Args:
      data_path: Nothing outside of it is found by a relative name.
      folder: Where the images of the split should be.
    """

    def __init__(self, data_path: Path, folder: Path):
        self._data_path, self._folder = data_path, folder
        self._by_name: dict[str, list[Path]] | None = None
        self._by_stem: dict[str, list[Path]] = {}

    def find(self, file_name: Any) -> tuple[Path | None, bool]:
        """Path of a file, None if there is none; and whether it is not exactly where the name says."""
        text = str(file_name) if isinstance(file_name, (str, int)) else ""
        if not text or "\0" in text:
            return None, False
        if (exact := self._inside(self._folder / text)) is not None:
            return exact, False
        for spelled in dict.fromkeys((text, urllib.parse.unquote(text))):
            if _SCHEME.match(spelled):
                spelled = urllib.parse.unquote(re.split("[?#]", spelled.split("://", 1)[1])[0])
            parts = [part for part in re.split(r"[\\/]+", spelled) if part not in ("", ".", "..")]
            for i in range(len(parts)):
                for root in (self._folder, self._data_path):
                    if (path := self._inside(root.joinpath(*parts[i:]))) is not None:
                        return path, True
            if parts and (path := self._alike(parts)) is not None:
                return path, True
        return None, False

    def _inside(self, path: Path) -> Path | None:
        """The path if it is a file of the data."""
        absolute = os.path.normpath(os.path.abspath(path))
        root = os.path.abspath(self._data_path)
        return path if os.path.commonpath([absolute, root]) == root and os.path.isfile(path) else None

    def _alike(self, parts: list[str]) -> Path | None:
        """The one file in the folder with this name but for case, or else with this name but for case and suffix.

        Of another suffix may be a mask, too, in a folder beside the image or below; so it must lie where the name says.
        """
        if self._by_name is None:
            self._by_name = {}
            for parent, folders, names in os.walk(self._folder):
                folders.sort()
                for found in map(Path(parent).joinpath, sorted(names)):
                    if not found.name.startswith(".") and found.suffix.lower() not in _NO_IMAGES:
                        self._by_name.setdefault(_folded(found.name), []).append(found)
                        self._by_stem.setdefault(_folded(found.stem), []).append(found)
        name, said = parts[-1], [_folded(part) for part in parts[:-1]]
        by_stem = self._by_stem.get(_folded(PurePosixPath(name).stem), [])
        for found_paths in (
            self._by_name.get(_folded(name), []),
            [path for path in by_stem if self._is_at(path, said)],
        ):
            if found_paths:
                return found_paths[0] if len(found_paths) == 1 and os.path.isfile(found_paths[0]) else None
        return None

    def _is_at(self, path: Path, said: list[str]) -> bool:
        """Whether the folders from that of the split to a file are the last of those that a name says."""
        between = [_folded(part) for part in path.relative_to(self._folder).parts[:-1]]
        return between == said[len(said) - len(between) :]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
