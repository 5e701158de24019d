"""Images that a data set holds more than once: in several splits, in one of them, under several labels.

Two images are the same if the bytes in their records are, that is, if a file was copied, linked or renamed, or if two
files of kinds that are written anew (docs/data.md) have the same pixels. An image that was saved anew as a JPEG, or
cropped, is another one: to find those, pixels would have to be compared, not digests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from asvit_tf.dataloaders.imagefiles.skipped import printable

SIZE = 8  # Bytes of a digest: two of 1.3 million images agree by chance once in 20 million such sets.
NONE = bytes(SIZE)  # In the place of an image that was not written.

_NAMED = 3  # Of each kind.
# Which of two splits should hold nothing of which other, by what a copy does.
_LEAKS = (("validation", "train"), ("test", "train"), ("test", "validation"))


def digest(content: bytes) -> bytes:
    """The `SIZE` bytes by which content is recognized: BLAKE2b, the same on every machine."""
    return hashlib.blake2b(content, digest_size=SIZE).digest()


@dataclasses.dataclass(frozen=True)
class Part:
    """The images of a split.

    Attributes:
      digests: `SIZE` bytes of each, one behind the other; `NONE` for one that was not written.
      labels: Of each, int [n].
      name: Gives the name of the image at a place.
    """

    digests: bytes
    labels: np.ndarray
    name: Callable[[int], str]


class _Sorted:
    """The written images of a part by their digests."""

    def __init__(self, part: Part):
        numbers = np.frombuffer(part.digests, "<u8")
        written = np.flatnonzero(numbers)
        self.places = written[np.argsort(numbers[written], kind="stable")]
        self.digests = numbers[self.places]
        self.labels = part.labels[self.places]
        self.name = part.name

    def repeated(self) -> int:
        """How many have the same content as one before them."""
        return int((self.digests[1:] == self.digests[:-1]).sum())

    def in_(self, other: _Sorted) -> np.ndarray:
        """Indices of those whose content the other part has, too; [n]."""
        return np.flatnonzero(other.digests[other.index(self.digests)] == self.digests)

    def index(self, digests: np.ndarray) -> np.ndarray:
        """Where these digests are, if they are there."""
        return np.minimum(np.searchsorted(self.digests, digests), len(self.digests) - 1)

    def named(self, index: int) -> str:
        return self.name(int(self.places[index]))


def count(parts: Mapping[str, Part]) -> dict[str, Any]:
    """Counts images that occur more than once. Of a million images it needs some tens of MB.

    Args:
      parts: By the names of the splits, "train", "validation" and perhaps "test"; each with an image at least.

    Returns:
      For JSON: `images`, the number in each split; `validation_in_train`, `test_in_train`, `test_in_validation`: images
      of the first split that the second has, too; `repeated`: for each split, images that repeat another of it;
      `conflicting`: images of which a copy, in any split, has another label; and of each of these kinds a few `names`:
      pairs of an image and its copy, the first by name.
    """
    splits = {split: _Sorted(part) for split, part in parts.items()}
    result: dict[str, Any] = dict(images={split: len(its.digests) for split, its in splits.items()})
    names: dict[str, list[tuple[str, str]]] = {}
    for inner, outer in _LEAKS:
        if inner not in splits:
            continue
        here, there = splits[inner], splits[outer]
        found = here.in_(there)
        kind = f"{inner}_in_{outer}"
        result[kind] = len(found)
        names[kind] = _first(
            (here.named(int(i)), there.named(int(j))) for i, j in zip(found, there.index(here.digests[found]))
        )
    result["repeated"] = {split: its.repeated() for split, its in splits.items()}
    names["repeated"] = _first(
        (its.named(int(i) + 1), its.named(int(i)))
        for its in splits.values()
        for i in np.flatnonzero(its.digests[1:] == its.digests[:-1])
    )
    result["conflicting"], names["conflicting"] = _conflicts(list(splits.values()))
    return {**result, "names": names}


def _first(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return heapq.nsmallest(_NAMED, pairs)


def _conflicts(parts: list[_Sorted]) -> tuple[int, list[tuple[str, str]]]:
    """How many images have a copy with another label, and a few of them with such a copy."""
    digests, labels = (np.concatenate([getattr(part, what) for part in parts]) for what in ("digests", "labels"))
    order = np.lexsort((labels, digests))  # By content, then by label.
    digests, labels = digests[order], labels[order]
    starts = np.flatnonzero(np.concatenate(([True], digests[1:] != digests[:-1])))
    ends = np.append(starts[1:], len(digests))
    differ = np.flatnonzero(labels[starts] != labels[ends - 1])
    firsts = np.cumsum([0, *(len(part.digests) for part in parts)])

    def name(index: int) -> str:
        which = int(np.searchsorted(firsts, order[index], side="right")) - 1
        return parts[which].named(int(order[index] - firsts[which]))

    pairs = ((name(start), name(end - 1)) for start, end in zip(starts[differ], ends[differ]))
    return int((ends - starts)[differ].sum()), _first(pairs)


_SHARE = "the accuracy"  # A share of the images, so that it is known by how much it may be wrong.
_WORDS = dict(
    validation_in_train=(
        "validation images that are training images, too: {count} of {images}; {measure} on validation is too high{by}"
    ),
    test_in_train=("test images that are training images, too: {count} of {images}; {measure} on test is too high{by}"),
    test_in_validation=(
        "test images that are validation images, too: {count} of {images}; the network is chosen by them, so "
        "{measure} on test may be a little too high"
    ),
)


def in_words(duplicates: Mapping[str, Any] | None, measure: str = _SHARE) -> str:
    """A line for each kind of copies with what follows from it, and lines that name a few; "" where there are none.

    Args:
      duplicates: What `count` gave; None where nothing was counted, as by earlier versions. Without `conflicting` where
        images have no labels.
      measure: What is too high.
    """
    if duplicates is None:
        return ""
    lines: list[str] = []

    def add(kind: str, line: str) -> None:
        lines.append(line)
        lines.extend(
            f"  {printable(image)} is the same as {printable(copy)}" for image, copy in duplicates["names"][kind]
        )

    for kind, words in _WORDS.items():
        if found := duplicates.get(kind):
            images = duplicates["images"][kind.partition("_")[0]]
            by = f" by up to {100 * found / images:.1f} percentage points" if measure == _SHARE else ""
            add(kind, words.format(count=found, images=images, measure=measure, by=by))
    repeated = [f"{found} of {split}" for split, found in duplicates["repeated"].items() if found]
    if repeated:
        add("repeated", f"images that repeat another of their split: {', '.join(repeated)}; they count more than once")
    if duplicates.get("conflicting"):
        add(
            "conflicting",
            f"images of which a copy has another label: {duplicates['conflicting']}; whatever a network says, it is "
            "wrong about one of the two",
        )
    return "\n".join(lines)
