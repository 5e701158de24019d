"""The entries of an annotation file and the image files that they name, brought together."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tqdm

from asvit_tf.dataloaders.annotations import pictures
from asvit_tf.dataloaders.annotations.layout import ImageFiles
from asvit_tf.dataloaders.annotations.pictures import Frame, Picture
from asvit_tf.dataloaders.annotations.schema import Entries, ImageEntry
from asvit_tf.dataloaders.annotations.values import Box, Identifier, Unreadable
from asvit_tf.dataloaders.imagefiles import door, duplicates, skipped
from asvit_tf.errors import UserError

_GONE = f"{skipped.UNREADABLE} ({os.strerror(errno.ENOENT)})"
SLACK = 1.0  # Pixels by which a box may stick out of its image by rounding.


@dataclasses.dataclass(frozen=True)
class Matched:
    """The file of an image entry, a digest of it, and the frame in which its annotations are: `UPRIGHT` or `STORED`."""

    entry: ImageEntry
    path: Path
    picture: Picture
    frame: Frame
    digest: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in which its annotations are."""
        return self.picture.stored if self.frame is Frame.STORED else self.picture.upright


def match(
    entries: Entries, data_path: Path, skip_missing: bool, progress: bool
) -> tuple[list[Matched], list[tuple[str, str]]]:
    """Files, sizes and frames of the image entries.

    Entries that contradict their file are added to the problems of `entries`.

    Args:
      entries: What the annotation file says.
      data_path: The data set.
      skip_missing: Leave images out whose file is missing or no image, instead of refusing.
      progress: Show a progress bar on standard error.

    Returns:
      What was found; and the images that are missing or damaged, with the reason.

    Raises:
      UserError: Images are missing or damaged, or none are named.
    """
    if not entries.given["images"]:
        raise UserError(f"the annotations of {entries.place.name} name no images")
    files = ImageFiles(data_path, entries.place.folder)
    paths = []
    for entry in entries.images:
        path, is_elsewhere = files.find(entry.file_name)
        paths.append(path)
        entries.notes["image files found under another name than file_name"] += is_elsewhere
    found: list[Matched] = []
    missing: list[tuple[str, str]] = []
    taken: set[str] = set()
    # The bar first: the shortest ends a zip, and a bar that is not asked again stops before its end.
    for looked, entry, path in zip(_looked_at(paths, entries.place.name, progress), entries.images, paths):
        if path is None or isinstance(looked, str):
            missing.append((text(entry.file_name), str(looked)))
            continue
        picture, digest = looked
        try:
            place = _place(path)
            if place in taken:
                raise Unreadable("name the file of another image", path.name)
            frame = pictures.frame(entry.stated, picture)
        except Unreadable as problem:
            entries.problems.add("images", dict(file_name=entry.file_name), problem)
            continue
        taken.add(place)
        entries.notes["sizes read from the image file"] += None in entry.stated
        found.append(Matched(entry, path, picture, frame, digest))
    if missing and (not skip_missing or len(missing) == len(paths)):
        raise UserError(
            f"{len(missing)} of {len(paths)} images are missing in {entries.place.folder} or damaged, the first is "
            f"{': '.join(missing[0])}; --skip-missing leaves them out"
        )
    folder = entries.place.folder.name
    return _framed(found, entries), [(f"{folder}/{name}", reason) for name, reason in missing]


def _place(path: Path) -> str:
    """The file that a path means, by whatever way it leads there.

    A file that is itself a link stays one: where files are stored by their content, equal pictures are links to one.
    """
    return os.path.join(os.path.realpath(path.parent), path.name)


def _looked_at(paths: Sequence[Path | None], name: str, progress: bool) -> Iterator[tuple[Picture, bytes] | str]:
    """Each picture with the digest of what goes to the records, or why it cannot be read."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        options = dict(desc=f"checking {name}", total=len(paths), unit="image", leave=False)
        yield from tqdm.tqdm(pool.map(_look, paths), disable=not progress, **options)


def _look(path: Path | None) -> tuple[Picture, bytes] | str:
    if path is None:
        return _GONE
    try:
        picture, content = pictures.read(path)
        return picture, duplicates.digest(content)
    except door.UnreadableError as error:
        return str(error)


def _framed(found: list[Matched], entries: Entries) -> list[Matched]:
    """Decides the frame of every picture; those that contradict their own size are added to the problems.

    Where neither size nor boxes tell it, it is that of the others, else upright, as tools show them.
    """
    boxes: dict[Identifier, list[Box]] = collections.defaultdict(list)
    for entry in entries.objects:
        if entry.box is not None:
            boxes[entry.key].append(entry.box)
    framed = []
    for item in found:
        try:
            frame = _told(item, boxes[item.entry.key])
        except Unreadable as problem:
            entries.problems.add("images", dict(file_name=item.entry.file_name), problem)
            continue
        if frame is not item.frame:
            entries.notes[f"images turned by EXIF whose annotations were taken as {frame.value}, by their boxes"] += 1
        elif frame is Frame.STORED:
            entries.notes["images turned upright by EXIF, their annotations with them"] += 1
        framed.append(dataclasses.replace(item, frame=frame))
    told = {item.frame for item in framed if item.picture.orientation != 1} - {Frame.EITHER}
    by_default = Frame.STORED if told == {Frame.STORED} else Frame.UPRIGHT
    for place, item in enumerate(framed):
        if item.frame is Frame.EITHER:
            framed[place] = dataclasses.replace(item, frame=by_default)
            entries.notes[f"images turned by EXIF whose annotations were taken as {by_default.value}"] += 1
    return framed


def _told(item: Matched, boxes: Sequence[Box]) -> Frame:
    """The frame of a picture by its stated size and its boxes; `EITHER` where these do not tell it.

    Raises:
      Unreadable: The boxes stick out of the stated frame, but not of the other one.
    """
    sizes = {Frame.UPRIGHT: item.picture.upright, Frame.STORED: item.picture.stored}
    fitting = [frame for frame, size in sizes.items() if _fit(boxes, size)]
    if len(fitting) != 1 or item.frame is fitting[0]:
        return item.frame
    if item.frame is Frame.EITHER:
        return fitting[0]
    if item.frame is Frame.STORED:
        raise Unreadable(
            "have boxes outside of the file's pixels that fit the picture as EXIF turns it; state its width and height "
            "upright",
        )
    raise Unreadable(
        "have boxes outside of the picture as EXIF turns it that fit the file's pixels; state the width and height of "
        "these",
    )


def _fit(boxes: Sequence[Box], size: tuple[int, int]) -> bool:
    """Whether all boxes lie inside an image."""
    return all(
        x >= -SLACK and y >= -SLACK and x + width <= size[0] + SLACK and y + height <= size[1] + SLACK
        for x, y, width, height in boxes
    )


def text(name: Any) -> str:
    """A name as text in UTF-8, whatever was in the file."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")
