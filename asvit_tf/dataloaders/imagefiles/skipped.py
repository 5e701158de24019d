"""Files that are not read: which, how many, and why, in the same words for every command."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_PIXELS = 2**29 // 3  # What TensorFlow decodes as RGB, and Pillow's own bound against decompression bombs.
MAX_BYTES = 2**30  # A record holds less than 2 GiB.
MAX_SIDE = 1_000_000  # libpng's longest.

EMPTY = "empty file"
NOT_AN_IMAGE = "not an image that Pillow reads"
DAMAGED = "truncated or damaged"
TOO_LARGE = f"more than {MAX_PIXELS:,} pixels or {MAX_BYTES >> 20:,} MiB"
TOO_LONG = f"a side of more than {MAX_SIDE:,} pixels"
CAMERA_RAW = "camera raw, or a smaller copy of another image"
NOT_FINITE = "numbers that are not finite"
NOT_REGULAR = "not a regular file"
UNREADABLE = "cannot be read"
LEFTOVER = "hidden, or left by another program"
CIRCLE = "link to a folder that was read already"
OWN = "results of asvit"
BESIDE = "beside the folders of the splits"

_NAMED = 10  # Files that are named in text; JSON and `skipped.json` name all.


class UnreadableError(Exception):
    """A file that is not read; its text is the reason, one of those above."""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """What was not read.

    Attributes:
      files: Name and reason of each file that is named like an image, or begins like one.
      others: Counts of everything else (texts, leftovers, folders of other programs), by reason.
    """

    files: tuple[tuple[str, str], ...] = ()
    others: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, files: Iterable[tuple[str, str]], others: Iterable[str] = ()) -> Skipped:
        """From names with reasons, and reasons of the others; sorted."""
        return cls(tuple(sorted(files)), dict(sorted(collections.Counter(others).items())))

    @classmethod
    def together(cls, parts: Sequence[Skipped]) -> Skipped:
        """The sum of many, which takes the time of one: each `+` copies and sorts what there is so far."""
        counts: collections.Counter[str] = collections.Counter()
        for part in parts:
            counts.update(part.others)
        return cls(tuple(sorted(file for part in parts for file in part.files)), dict(sorted(counts.items())))

    def __add__(self, other: Skipped) -> Skipped:
        return Skipped.together((self, other))

    @property
    def reasons(self) -> dict[str, int]:
        """Counts by reason, the files and the others together."""
        counts = collections.Counter(reason for _, reason in self.files) + collections.Counter(self.others)
        return dict(sorted(counts.items()))

    def as_dict(self) -> dict[str, Any]:
        """What every command adds to its JSON."""
        return dict(
            skipped_images=len(self.files),
            skipped_reasons=self.reasons,
            skipped_files=[dict(file=name, reason=reason) for name, reason in self.files],
        )

    def text(self) -> str:
        """As JSON, which `of_text` reads."""
        return json.dumps(dict(files=self.files, others=dict(self.others)))

    @classmethod
    def of_text(cls, text: str) -> Skipped:
        """From `text`."""
        fields = json.loads(text)
        return cls(tuple((name, reason) for name, reason in fields["files"]), fields["others"])

    def __str__(self) -> str:
        return in_words(self.as_dict())


def counted(reasons: Mapping[str, int]) -> str:
    """Counts by reason, in one line."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items())


def in_words(result: Mapping[str, Any]) -> str:
    """One line, and a line for each of the first files; "" where nothing was skipped.

    Args:
      result: Holds what `Skipped.as_dict` gave; results of earlier versions hold `skipped_images` alone.
    """
    images, reasons = result["skipped_images"], result.get("skipped_reasons", {})
    if not images and not reasons:
        return ""
    counts = counted(reasons)
    files = result.get("skipped_files", [])
    lines = [f"{images} image files skipped" + (f"; of all that was not read: {counts}" if counts else "")]
    lines += [f"  {printable(row['file'])}: {row['reason']}" for row in files[:_NAMED]]
    if len(files) > _NAMED:
        lines.append(f"  and {len(files) - _NAMED} more")
    return "\n".join(lines)


def printable(name: str) -> str:
    """A file name in UTF-8; bytes that are not are written like \\udce9, or printing them would end the command."""
    return name.encode("utf-8", "backslashreplace").decode()
