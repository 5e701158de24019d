"""Images and label pictures in, TFRecords for semantic segmentation out; complete or not at all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from asvit_tf.dataloaders import experiment_yaml
from asvit_tf.dataloaders.annotations import pictures
from asvit_tf.dataloaders.annotations.pictures import Frame
from asvit_tf.dataloaders.imagefiles.skipped import Skipped, in_words, printable
from asvit_tf.dataloaders.labels import pairs as pairing
from asvit_tf.dataloaders.labels import reading, records, table
from asvit_tf.dataloaders.labels.pairs import Naming, Pair
from asvit_tf.dataloaders.labels.reading import Read, Unread
from asvit_tf.dataloaders.labels.table import Table
from asvit_tf.dataloaders.masks import IGNORED
from asvit_tf.dataloaders.progress import brief_bar
from asvit_tf.errors import OneClassError, UserError
from asvit_tf.storage import whole_directory, write_json

_COMMENT = "Written by asvit prepare-segmentation; to be given to asvit train as a further --config_file."


@dataclasses.dataclass(frozen=True)
class SplitCount:
    """What was written of a split.

    Attributes:
      images: Pairs of image and label picture.
      pixels: By class.
      ignored_pixels: Pixels of no class.
      height, width: The largest, each by itself.
    """

    images: int
    pixels: tuple[int, ...]
    ignored_pixels: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Prepared:
    """TFRecords with a class for every pixel.

    Attributes:
      directory: Holds the records, `semantic.yaml` and `dataset.json`.
      class_names: By class.
      labels: By class: its number in the label pictures, or red, green and blue.
      ignored_labels: Of pixels that are neither trained on nor evaluated.
      counts: By split, "train", "validation" and perhaps "test".
      masks_without_image: How many label pictures no image has.
      notes: What was decided without being told, and what is odd.
      skipped: Image files that were left out, and why.
      stored_pixels: Most pixels of photographs in the training records; None where they are not reduced.
    """

    directory: str
    class_names: tuple[str, ...]
    labels: tuple[table.Label, ...]
    ignored_labels: tuple[table.Label, ...]
    counts: Mapping[str, SplitCount]
    masks_without_image: int
    notes: tuple[str, ...]
    skipped: Skipped
    stored_pixels: int | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """A line for everything that the records do not hold, or that was decided without being told."""
        unused = (f"{self.masks_without_image} label pictures without an image",) if self.masks_without_image else ()
        return (*unused, *in_words(self.skipped.as_dict()).splitlines(), *self.notes)

    @property
    def config_file(self) -> str:
        """Paths, classes, names and how to evaluate as a YAML for `--config_file`."""
        return os.path.join(self.directory, "semantic.yaml")


def prepare(
    directory: str | os.PathLike,
    images: str | os.PathLike,
    masks: str | os.PathLike,
    classes: str | os.PathLike | None = None,
    ignored: Sequence[str] = (),
    naming: Naming = Naming(),
    shards: int = 1,
    threads: int | None = None,
    progress: bool = False,
    stored_pixels: int | None = None,
) -> Prepared:
    """Writes the TFRecords of images with label pictures.

    Args:
      directory: Where they go; it must not exist.
      images: Folder of images, in splits or not.
      masks: Folder of label pictures, in the same folders.
      classes: File of classes (see `table.read`); None where the label pictures hold numbers, and all are classes.
      ignored: Labels or names of classes that are neither trained on nor evaluated.
      naming: How files are called, and which belong to which split.
      shards: Files of each split, >= 1.
      threads: That read images; None for one a core.
      progress: Show a progress bar on standard error.
      stored_pixels: Most pixels of photographs in the training records, with their classes; larger ones are reduced
        (`reduced.within`). None stores all as they are.

    Raises:
      OneClassError: All pixels to train on are of one class.
      UserError: Files do not suit each other, or cannot be read; the message names one.
      StoppedError: The disk is full.
    """
    if shards < 1:
        raise UserError(f"shards is {shards}; it must be at least 1")
    if os.path.lexists(directory):
        raise UserError(f"{directory} exists; choose another directory")
    directory = os.path.abspath(directory)
    its_table = table.of_numbers(ignored) if classes is None else table.read(classes, ignored)
    found = pairing.find(Path(images), Path(masks), naming, progress)
    by_default, frame_notes = _frame(found.splits, threads, progress)
    unread: list[Unread] = []
    sums: dict[str, _Sum] = {}
    with whole_directory(directory) as partial:
        for split, its in found.splits.items():
            shuffled = [its[i] for i in records.order(len(its))]
            rows = reading.read(shuffled, its_table, by_default, threads, stored_pixels if split == "train" else None)
            rows = iter(brief_bar(rows, split, progress, len(its)))
            sums[split] = _write(Path(partial), split, shards, _readable(rows, naming.skip_missing, unread))
        if "test" in sums and not sums["test"].pixels[:IGNORED].any():
            for path in Path(partial).glob(records.pattern("test", shards)):
                path.unlink()
            del sums["test"]
            frame_notes += ("the split test is left out: no pixel of it is of a class",)
        used = _used(its_table, sums)
        counts = {split: its.count(len(used.names)) for split, its in sums.items()}
        absent = [name for name, pixels in zip(used.names, counts["train"].pixels) if not pixels]
        notes = (*found.notes, *frame_notes)
        if absent:
            notes += (f"no pixel to train on is of {', '.join(absent[:10])}{', ...' if len(absent) > 10 else ''}",)
        if number := sums["train"].reduced:
            notes += (f"train: {number} photographs are stored reduced, at most {stored_pixels:,} pixels",)
        result = Prepared(
            directory,
            class_names=used.names,
            labels=used.labels,
            ignored_labels=tuple(sorted(used.ignored, key=table.code)),
            counts=counts,
            masks_without_image=found.masks_without_image,
            notes=notes,
            skipped=found.skipped + Skipped.of(unread),
            stored_pixels=stored_pixels,
        )
        _describe(Path(partial), result, shards)
    return result


def _frame(splits: Mapping[str, Sequence[Pair]], threads: int | None, progress: bool) -> tuple[Frame, tuple[str, ...]]:
    """What label pictures are of where both sizes of their image are the same; all are looked at before any is read.

    It is what the others are of; upright where there are none.
    """
    everything = [pair for its in splits.values() for pair in its]
    told = {Frame.UPRIGHT: 0, Frame.STORED: 0, Frame.EITHER: 0}
    for _, frame in brief_bar(reading.looked_at(everything, threads), "looking", progress, len(everything)):
        if isinstance(frame, Frame):
            told[frame] += 1
    by_default = Frame.STORED if told[Frame.STORED] else Frame.UPRIGHT
    notes = []
    if told[Frame.STORED]:
        notes.append(f"{told[Frame.STORED]} label pictures are turned upright with their images")
    if told[Frame.EITHER]:
        notes.append(f"{told[Frame.EITHER]} label pictures of images turned by EXIF are taken as {by_default.value}")
    return by_default, tuple(notes)


def _readable(rows: Iterator[Read | Unread], skip: bool, unread: list[Unread]) -> Iterator[Read]:
    """What can be read; the others are added to `unread`, or refused."""
    for row in rows:
        if isinstance(row, Read):
            yield row
        elif skip:
            unread.append(row)
        else:
            raise UserError(f"cannot read {printable(row[0])}: {row[1]}; --skip-missing leaves such images out")


@dataclasses.dataclass
class _Sum:
    """Counts of a split while it is written; `pixels` [256] by class, the ignored ones at 255."""

    images: int
    pixels: np.ndarray
    height: int = 0
    width: int = 0
    reduced: int = 0

    def count(self, classes: int) -> SplitCount:
        pixels = tuple(map(int, self.pixels[:classes]))
        return SplitCount(self.images, pixels, int(self.pixels[IGNORED]), self.height, self.width)


def _write(directory: Path, split: str, shards: int, rows: Iterator[Read]) -> _Sum:
    """Writes the records of one split.

    Raises:
      UserError: Nothing of it can be read, or no pixel has a class; the latter is allowed in a test split.
    """
    # Here, because importing it defines flags.
    from official.vision.data import tfrecord_lib

    total = _Sum(0, np.zeros(IGNORED + 1, np.int64))
    with records.writer(directory, split, shards) as write:
        for row in rows:
            total.images += 1
            total.pixels += row.pixels
            total.height, total.width = max(total.height, row.height), max(total.width, row.width)
            kind = pictures.format_of(row.image)
            features = tfrecord_lib.image_info_to_feature_dict(
                row.height, row.width, printable(row.name), total.images, row.image, kind
            )
            features[records.CLASSES] = tfrecord_lib.convert_to_feature(row.classes)
            if row.own_size is not None:
                total.reduced += 1
                features |= dict(zip(records.OWN_SIZE, map(tfrecord_lib.convert_to_feature, row.own_size)))
            write(tf.train.Example(features=tf.train.Features(feature=features)))
    if not total.images:
        raise UserError(f"no image of the split {split} is left that can be read")
    if split != "test" and not total.pixels[:IGNORED].any():
        raise UserError(f"no pixel of the split {split} is of a class; all labels are ignored")
    return total


def _used(its_table: Table, sums: Mapping[str, _Sum]) -> Table:
    """The table; without a file up to the largest class that is found.

    Raises:
      OneClassError: All pixels to train on are of one class.
    """
    used = its_table
    if used.source is None:
        used = used.up_to(1 + max(int(np.flatnonzero(its.pixels[:IGNORED])[-1]) for its in sums.values()))
    (present,) = np.nonzero(sums["train"].pixels[:IGNORED])
    if len(present) == 1:
        is_binary = used.source is None and sums["train"].pixels[IGNORED]
        hint = "; 255 is ignored unless a file of classes has colours, as 255 255 255 NAME" if is_binary else ""
        raise OneClassError(
            f"all pixels to train on are of one class, {used.names[present[0]]!r}; a single class cannot be learned"
            f"{hint}"
        )
    return used


def _describe(directory: Path, result: Prepared, shards: int) -> None:
    """Writes `semantic.yaml` and `dataset.json`."""
    task: dict[str, Any] = records.task(result.class_names, shards, result.stored_pixels)
    evaluated = result.counts["validation"]
    task["validation_data"] |= dict(
        resize_eval_groundtruth=False, groundtruth_padded_size=[evaluated.height, evaluated.width]
    )
    task["evaluation"] = dict(report_per_class_iou=True)
    text = experiment_yaml.text(dict(task=task), _COMMENT)
    (directory / "semantic.yaml").write_text(text, encoding="utf-8")
    write_json(
        directory / "dataset.json",
        dict(
            class_names=result.class_names,
            labels=result.labels,
            ignored_labels=result.ignored_labels,
            stored_pixels=result.stored_pixels,
            splits={split: dataclasses.asdict(count) for split, count in result.counts.items()},
        ),
    )
