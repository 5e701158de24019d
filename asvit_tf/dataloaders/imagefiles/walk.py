"""Folders walked through: links followed, what other programs leave behind set aside, everything counted."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from asvit_tf.dataloaders.imagefiles import door
from asvit_tf.dataloaders.imagefiles.skipped import (
    CIRCLE,
    EMPTY,
    LEFTOVER,
    NOT_AN_IMAGE,
    OWN,
    UNREADABLE,
    Skipped,
)
from asvit_tf.errors import UserError

# Of file managers, archives, editors, downloads and notebooks; names in lower case.
_LEFTOVERS = re.compile(
    "|".join(
        fnmatch.translate(pattern)
        for pattern in (
            *(".*", "__*", "~$*", "*~", "#*#", "*.swp", "*.swo", "*.tmp", "*.bak", "*.part", "*.crdownload"),
            *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "*.partial"),
            *("@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
        )
    )
)
# A folder that holds all the files of a line was written by a command of this package; its figures are no data. Other
# programs write a dataset.json, too, but no records beside it.
_OWN = (
    (".lock", "settings.json"),  # run, search, grow, study, and prepare while it works
    ("dataset.json", "*.tfrecord"),  # prepare
    ("data.yaml", "annotations_validation.json"),  # prepare-coco
    ("params.yaml", "blocks.jsonl"),  # train
    ("saved_model.pb",),  # export
)


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or one that other programs leave behind."""
    return _LEFTOVERS.match(name.lower()) is not None


def is_own(folder: str | os.PathLike) -> bool:
    """Whether a command of this package wrote a folder."""
    return any(all(_holds(folder, name) for name in names) for names in _OWN)


def _holds(folder: str | os.PathLike, name: str) -> bool:
    """Whether a file of this name, or pattern of names, is in a folder."""
    if "*" not in name:
        return os.path.exists(os.path.join(folder, name))
    try:
        return bool(fnmatch.filter(os.listdir(folder), name))
    except OSError:
        return False  # What is wrong with it shows when it is read.


def named_like_an_image(name: str) -> bool:
    """Whether the suffix is one of an image, in any case."""
    return os.path.splitext(name)[1].lower() in door.image_suffixes()


def subfolders(
    data_path: Path, without: Iterable[str | os.PathLike] = (), relative_to: Path | None = None
) -> tuple[list[Path], Skipped]:
    """Subfolders that may be classes or splits, by name, and what is not read of what lies beside them.

    Of several links to one folder, and the folder itself, one is taken; the folder itself if it is among them.

    Args:
      data_path: The folder.
      without: Folders that are no part of it.
      relative_to: What the names of skipped files are relative to; None for the folder.

    Raises:
      UserError: It is no folder, or cannot be read.
    """
    walker = _Walker(relative_to or data_path, without)
    walker.bar(data_path)
    try:
        names = os.listdir(data_path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{data_path} is not a folder; expected one with a subfolder of images for each class"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {data_path}: {error.strerror}") from error
    folders = []
    for name in sorted(names, key=lambda name: (os.path.islink(os.path.join(data_path, name)), name)):
        path = os.path.join(data_path, name)
        if not os.path.isdir(path):
            if walker.is_candidate(path, name):
                walker.set_aside(path, name, "beside the class folders")
        elif walker.enters(path, name):
            walker.remember(path)
            folders.append(data_path / name)
    return sorted(folders), walker.skipped()


def images(
    folder: Path, relative_to: Path | None = None, without: Iterable[str | os.PathLike] = ()
) -> tuple[list[str], Skipped]:
    """Files below a folder that are named like images, or have another name but begin like one; and the others.

    Whether they are images shows when they are decoded. Links are followed; a folder is read once.

    Args:
      folder: The folder.
      relative_to: What the names of skipped files are relative to; None for the folder.
      without: Folders that are no part of it.

    Returns:
      Paths, sorted by their parts; and what was skipped.
    """
    walker = _Walker(relative_to or folder, without)
    walker.bar(Path(os.path.realpath(folder)).parent)
    if relative_to is not None:
        walker.bar(relative_to)
    found = [path for path, name in walker.files(str(folder), folder.name) if walker.is_candidate(path, name)]
    return sorted(found, key=lambda path: path.split(os.sep)), walker.skipped()


def holds_images(folder: Path, deep: bool = True) -> bool:
    """Whether a folder holds a file that is named like an image or begins like one; below it too, if deep."""
    walker = _Walker(folder, ())
    return any(walker.is_candidate(path, name) for path, name in walker.files(str(folder), folder.name, deep))


class _Walker:
    """Decides what is read, and counts the rest."""

    def __init__(self, root: Path, without: Iterable[str | os.PathLike]):
        self._root = root
        self._without = {os.path.realpath(path) for path in without}
        self._files: list[tuple[str, str]] = []
        self._others: list[str] = []
        self._entered: set[tuple[int, int] | None] = set()

    def bar(self, folder: str | os.PathLike) -> None:
        """Has links to this folder and to those around it lead nowhere: they would lead in a circle."""
        real = Path(os.path.realpath(folder))
        self._entered |= {self._identity(str(each)) for each in (real, *real.parents)}

    def remember(self, folder: str) -> None:
        """Has links to this folder lead nowhere from now on: it is read."""
        self._entered.add(self._identity(folder))

    def skipped(self) -> Skipped:
        return Skipped.of(self._files, self._others)

    def set_aside(self, path: str, name: str, reason: str) -> None:
        """Counts a file or folder that is not read; names it if one would expect an image."""
        if named_like_an_image(name):
            self._files.append((os.path.relpath(path, self._root), reason))
        else:
            self._others.append(reason)

    def enters(self, path: str, name: str) -> bool:
        """Whether a folder is read; counted if it is not."""
        reason = None
        if is_leftover(name):
            reason = LEFTOVER
        elif os.path.realpath(path) in self._without or is_own(path):
            reason = OWN
        elif self._identity(path) in self._entered:
            reason = CIRCLE
        if reason is not None:
            self._others.append(reason)
        return reason is None

    def is_candidate(self, path: str, name: str) -> bool:
        """Whether a file may be an image; counted if not."""
        if is_leftover(name):
            self.set_aside(path, name, LEFTOVER)
            return False
        if named_like_an_image(name):
            return True
        try:
            if os.path.isfile(path) and os.path.getsize(path) == 0:
                reason = EMPTY
            elif door.is_image(path):
                return True
            else:
                reason = NOT_AN_IMAGE
        except door.UnreadableError as error:
            reason = str(error)
        except OSError:
            reason = UNREADABLE
        self.set_aside(path, name, reason)
        return False

    def files(self, folder: str, name: str, deep: bool = True) -> Iterator[tuple[str, str]]:
        """Path and name of every file that is not in a folder set aside; the folder itself is entered in any case."""
        self.remember(folder)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self._others.append(f"{UNREADABLE} ({error.strerror})")
            return
        for entry in entries:
            if not self._is_folder(entry):
                yield entry.path, entry.name
            elif deep and self.enters(entry.path, entry.name):
                yield from self.files(entry.path, entry.name)

    @staticmethod
    def _is_folder(entry: os.DirEntry) -> bool:
        try:
            return entry.is_dir()
        except OSError:  # A circle of links.
            return False

    @staticmethod
    def _identity(folder: str) -> tuple[int, int] | None:
        try:
            found = os.stat(folder)
        except OSError:
            return None  # What is wrong with it shows when it is read.
        return found.st_dev, found.st_ino
