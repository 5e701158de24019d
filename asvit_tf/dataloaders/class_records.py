"""Examples in, TFRecords in the ImageNet form out: by shard, on all cores, continued after a kill.

Everything is written in `DIRECTORY.partial`, which takes its name at the end. A shard is written under a temporary name
and renamed; beside it lies its receipt: counts, what was skipped, digests of the images, size and checksum. Started
again on the same files, what has a right receipt is kept. Example i of a split goes to shard i modulo their number, so
that records and their order depend on nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm
from official.vision.data import tfrecord_lib

from asvit_tf.dataloaders.imagefiles import door, duplicates, parallel
from asvit_tf.dataloaders.imagefiles.skipped import Skipped, counted
from asvit_tf.errors import UserError
from asvit_tf.journals import workspace
from asvit_tf.storage import write_error, write_json

PNG = b"\x89PNG\r\n\x1a\n"  # How the files begin.
_FORM = 1  # Of the records; one more where they change, so that none of an older form are kept.
_WRITTEN = ".writing"
_RECEIPT = ".receipt.json"
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Example:
    """One image with its label and where it came from: encoded, or the path of its file."""

    label: int
    source: str
    contents: bytes | str


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of a shard, or of several.

    Attributes:
      examples: Written, by label.
      skipped: Name and reason of what was not.
      kinds: "JPEG" and "PNG", those that there are.
      digests: Of the image of every example in order, by `duplicates.digest`; `duplicates.NONE` where none was written.
    """

    examples: Mapping[int, int]
    skipped: tuple[tuple[str, str], ...]
    kinds: frozenset[str]
    digests: bytes

    @classmethod
    def together(cls, parts: Sequence[Written]) -> Written:
        """All shards of a split, in order."""
        labels = {label for part in parts for label in part.examples}
        size = duplicates.SIZE
        digests = np.empty((sum(len(part.digests) for part in parts) // size, size), np.uint8)
        for i, part in enumerate(parts):
            digests[i :: len(parts)] = np.frombuffer(part.digests, np.uint8).reshape(-1, size)
        return cls(
            {label: sum(part.examples.get(label, 0) for part in parts) for label in labels},
            tuple(row for part in parts for row in part.skipped),
            frozenset[str]().union(*(part.kinds for part in parts)),
            digests.tobytes(),
        )

    def text(self) -> dict[str, Any]:
        """For JSON."""
        return dict(
            examples={str(label): count for label, count in self.examples.items()},
            skipped=self.skipped,
            kinds=sorted(self.kinds),
            digests=self.digests.hex(),
        )

    @classmethod
    def of_text(cls, fields: Mapping[str, Any]) -> Written:
        """From `text`."""
        examples = {int(label): int(count) for label, count in fields["examples"].items()}
        skipped = tuple((name, reason) for name, reason in fields["skipped"])
        return cls(examples, skipped, frozenset(fields["kinds"]), bytes.fromhex(fields["digests"]))


def shard_names(split: str, shards: int) -> list[str]:
    """File names of a split's records."""
    return (
        [f"{split}.tfrecord"] if shards == 1 else [f"{split}-{i:05d}-of-{shards:05d}.tfrecord" for i in range(shards)]
    )


@contextlib.contextmanager
def continued_directory(target: Path, plan: str) -> Iterator[Path]:
    """Yields `TARGET.partial`, with the whole shards of the same plan in it; at the end of the block it is `target`.

    Where the block ends with an error, whole shards stay for the next time, unless the error is the input's.

    Args:
      target: Must not exist, or be empty.
      plan: What the records depend on; whatever was written for another plan is removed.

    Raises:
      StoppedError: The disk is full.
      UserError: Nothing can be written there, or another process does.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        with workspace(partial, {}):
            noted = partial / "plan.txt"
            if not noted.exists() or noted.read_text() != plan:
                _remove(partial, lambda name: True)
                noted.write_text(plan)
            _remove(partial, lambda name: name.endswith(_WRITTEN))
            try:
                yield partial
                kept = (".tfrecord", "dataset.json", ".lock")
                _remove(partial, lambda name: not name.endswith(kept))
                (partial / ".lock").unlink()
                os.replace(partial, target)
            except BaseException as error:
                if isinstance(error, UserError) or not list(partial.glob(f"*{_RECEIPT}")):
                    shutil.rmtree(partial, ignore_errors=True)
                else:
                    _remove(partial, lambda name: name.endswith(_WRITTEN))
                raise
    except (OSError, tf.errors.OpError) as error:
        explained = write_error(error, target)
        if explained is None:
            raise
        raise explained from error


def _remove(folder: Path, which: Any) -> None:
    for path in folder.iterdir():
        if path.name not in (".lock", "settings.json") and which(path.name):
            path.unlink()
    if which("settings.json"):
        (folder / "settings.json").unlink(missing_ok=True)


def plan_of(
    splits: Mapping[str, Sequence[Example]], class_names: Sequence[str], shards: int, side: int | None = None
) -> str:
    """What the records depend on, as a checksum: names, labels, sizes and times of the files, in their order."""
    reduced = [] if side is None else [side]
    digest = hashlib.sha256(json.dumps([_FORM, list(class_names), shards, *reduced]).encode())
    for split, examples in splits.items():
        digest.update(f"\n{split} {len(examples)}".encode())
        for example in examples:
            digest.update(f"\n{example.label} {example.source} {_stamp(example.contents)}".encode(errors="replace"))
    return digest.hexdigest()


def _stamp(contents: bytes | str) -> str:
    if isinstance(contents, bytes):
        return str(zlib.crc32(contents))
    try:
        found = os.stat(contents)
    except OSError:
        return "none"
    return f"{found.st_size} {found.st_mtime_ns}"


def without_images(name: str, left: Skipped, split: str | None = None) -> UserError:
    """That no image of a class can be decoded, in a split if one is given, and why; `left` is what it has instead."""
    suffixes = {os.path.splitext(file)[1].lower() for file, _ in left.files if door.is_foreign(file)}
    reasons = [counted(left.reasons)] if left.reasons else []
    reasons += [f"convert {', '.join(sorted(suffixes))} before"] if suffixes else []
    return UserError(
        f"class {name!r} has no image {f'for {split} ' if split else ''}that can be decoded; add some, or take its "
        f"folder away" + (f" ({'; '.join(reasons)})" if reasons else "")
    )


def write(
    directory: Path,
    splits: Mapping[str, Sequence[Example]],
    class_names: Sequence[str],
    shards: int,
    bar: tqdm.tqdm,
    threads: int | None = None,
    side: int | None = None,
) -> dict[str, Written]:
    """Writes the shards that the directory does not hold whole.

    Args:
      directory: Of `continued_directory`.
      splits: Examples by the name of their split.
      class_names: By label.
      shards: Files of each split.
      bar: Counts examples.
      threads: That read image files; None for one a core.
      side: To which their shorter sides are reduced (`reduced.reduced`); None leaves them.

    Raises:
      UserError: A class has no image that can be decoded in one of the splits.
    """
    parts = [
        (split, directory / name, examples[i::shards])
        for split, examples in splits.items()
        for i, name in enumerate(shard_names(split, shards))
    ]
    receipts = {path: _whole(path) for _, path, _ in parts}
    missing = [examples for _, path, examples in parts if receipts[path] is None]
    # One stream for all shards, or the threads would wait for each other at the end of every shard.
    files = (each.contents for examples in missing for each in examples if isinstance(each.contents, str))
    with contextlib.closing(parallel.encoded(files, threads, side)) as outcomes:
        written: dict[str, list[Written]] = {split: [] for split in splits}
        for split, path, examples in parts:
            receipt = receipts[path]
            if receipt is not None:
                bar.update(len(examples))
            else:
                receipt = _write_shard(path, examples, outcomes, class_names, bar)
            written[split].append(receipt)
    together = {split: Written.together(shard) for split, shard in written.items()}
    for split, result in together.items():
        for label, name in enumerate(class_names):
            if not result.examples.get(label):
                its = {example.source for example in splits[split] if example.label == label}
                left = Skipped.of(row for row in result.skipped if row[0] in its)
                raise without_images(name, left, split)
    return together


def _write_shard(
    path: Path,
    examples: Sequence[Example],
    outcomes: Iterator[parallel.Outcome],
    class_names: Sequence[str],
    bar: tqdm.tqdm,
) -> Written:
    """Writes one shard and its receipt."""
    labels: dict[int, int] = {}
    skipped: list[tuple[str, str]] = []
    kinds: set[str] = set()
    digests = bytearray()
    writing = path.with_name(path.name + _WRITTEN)
    with tf.io.TFRecordWriter(str(writing)) as writer:
        for example in examples:
            outcome = example.contents if isinstance(example.contents, bytes) else next(outcomes)
            bar.update()
            if isinstance(outcome, str):
                skipped.append((example.source, outcome))
                digests += duplicates.NONE
                continue
            writer.write(_record(example, outcome, class_names).SerializeToString(deterministic=True))
            labels[example.label] = labels.get(example.label, 0) + 1
            kinds.add("PNG" if outcome.startswith(PNG) else "JPEG")
            digests += duplicates.digest(outcome)
    written = Written(labels, tuple(skipped), frozenset(kinds), bytes(digests))
    write_json(_receipt(path), dict(**written.text(), size=writing.stat().st_size, checksum=_checksum(writing)))
    os.replace(writing, path)
    return written


def _record(example: Example, encoded: bytes, class_names: Sequence[str]) -> tf.train.Example:
    feature = {
        "image/encoded": encoded,
        "image/filename": os.fsencode(example.source),
        "image/class/label": example.label,
        "image/class/text": class_names[example.label].encode(),
    }
    feature = {name: tfrecord_lib.convert_to_feature(value) for name, value in feature.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature))


def _receipt(path: Path) -> Path:
    return path.with_name(path.name + _RECEIPT)


def _whole(path: Path) -> Written | None:
    """What became of a shard that is there as its receipt says; None for any other."""
    try:
        fields = json.loads(_receipt(path).read_text(encoding="utf-8"))
        if path.stat().st_size != fields["size"] or _checksum(path) != fields["checksum"]:
            return None
        return Written.of_text(fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum
