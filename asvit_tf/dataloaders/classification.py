"""Images in, TFRecords out: one door for the embedded digits and for a user's folders.

Whatever comes in is written once as TFRecords in the ImageNet form, and from there the Model Garden's own input
pipeline, augmentation and trainer read it. The embedded data are scikit-learn's 1,797 scans of handwritten digits, as
they are or cluttered (see `clutter`).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from asvit_tf.choices import EMBEDDED
from asvit_tf.dataloaders import class_records, clutter, folders
from asvit_tf.dataloaders.class_records import Example
from asvit_tf.dataloaders.imagefiles import door, duplicates, held_out, parallel, walk
from asvit_tf.dataloaders.imagefiles.skipped import Skipped
from asvit_tf.dataloaders.inputs import record_files
from asvit_tf.dataloaders.progress import brief_bar
from asvit_tf.errors import UserError
from asvit_tf.storage import write_json

SPLITS = ("train", "validation", "test")
_SPLIT_SEED = 0  # The split is part of the data, not of an experiment: accuracies of different seeds compare.
_DIGIT_SIDE = 32
_GREY = 128


@dataclasses.dataclass(frozen=True)
class Dataset:
    """TFRecords of one data set, split into training and validation.

    Attributes:
      directory: Holds the records and `dataset.json`.
      class_names: By label.
      train_examples, validation_examples: Counts.
      skipped: Files that are named like images, or begin like some, and were not read; relative to the source.
      shards: Files of each split.
      jpeg_only: Whether there are no PNGs; if there are, the input pipeline needs `decode_jpeg_only=false`.
      test_examples: Count of the third split, which only an evaluation at the very end may see; 0 without one.
      skipped_reasons: The reason of each in `skipped`.
      skipped_others: Counts of everything else that was not read, by reason.
      duplicates: What `imagefiles.duplicates.count` found; None for a data set of an earlier version.
      stored_side: To which the shorter sides of larger images are reduced; None where they are as they were.
    """

    directory: str
    class_names: tuple[str, ...]
    train_examples: int
    validation_examples: int
    skipped: tuple[str, ...] = ()
    shards: int = 1
    jpeg_only: bool = False
    test_examples: int = 0
    skipped_reasons: tuple[str, ...] = ()
    skipped_others: Mapping[str, int] = dataclasses.field(default_factory=dict)
    duplicates: Mapping[str, Any] | None = None
    stored_side: int | None = None

    @property
    def train_path(self) -> str:
        """Path of the training records; a pattern where there are several files."""
        return self._path("train")

    @property
    def validation_path(self) -> str:
        """Path of the validation records, likewise."""
        return self._path("validation")

    @property
    def test_path(self) -> str | None:
        """Path of the test records, likewise; None where there are none."""
        return self._path("test") if self.test_examples else None

    @property
    def train_bytes(self) -> int:
        """Size of the training records; 0 where they are not there."""
        return sum(path.stat().st_size for path in Path(self.directory).glob(Path(self.train_path).name))

    @property
    def all_skipped(self) -> Skipped:
        """Everything that was not read; of data sets of earlier versions without reasons."""
        reasons = self.skipped_reasons or ("not known",) * len(self.skipped)
        return Skipped(tuple(zip(self.skipped, reasons)), self.skipped_others)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields, the paths, and what every command says of skipped files."""
        paths = dict(train_path=self.train_path, validation_path=self.validation_path, test_path=self.test_path)
        return {**dataclasses.asdict(self), **paths, **self.all_skipped.as_dict()}

    def shares(self, split: str) -> list[float]:
        """Share of each class in the images of "train" or "validation"."""
        labels = [
            tf.train.Example.FromString(record).features.feature["image/class/label"].int64_list.value[0]
            for record in tf.data.TFRecordDataset(record_files(split, self._path(split))).as_numpy_iterator()
        ]
        return (np.bincount(labels, minlength=len(self.class_names)) / len(labels)).tolist()

    def _path(self, split: str) -> str:
        name = f"{split}.tfrecord" if self.shards == 1 else f"{split}-*-of-{self.shards:05d}.tfrecord"
        return os.path.join(self.directory, name)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> Dataset:
        """Reads what `prepare` wrote."""
        fields = json.loads((Path(directory) / "dataset.json").read_text())
        for name in {"class_names", "skipped", "skipped_reasons"} & fields.keys():
            fields[name] = tuple(fields[name])
        return cls(directory=str(directory), **fields)


def prepare(
    directory: str | os.PathLike,
    data_path: str | os.PathLike | None = None,
    shards: int = 1,
    progress: bool = False,
    embedded: str = "digits",
    threads: int | None = None,
    without: Iterable[str | os.PathLike] = (),
    stored_side: int | None = None,
) -> Dataset:
    """Writes the TFRecords of a data set, or opens them where they are already written.

    Few images are in memory at once, so a folder may be as large as ImageNet. After a kill it continues by shard.
    Images that occur more than once are counted.

    Args:
      directory: Where they go; complete or absent, never half-written.
      data_path: A folder with one subfolder of images for each class, of which a fifth is held out; or with two or
        three of those, named like splits (`folders.layout`); None for embedded data.
      shards: Files of each split, >= 1.
      progress: Show a progress bar on standard error.
      embedded: Which of `EMBEDDED`, where there is no `data_path`.
      threads: That read image files; None for one a core. The records do not depend on it.
      without: Folders inside of `data_path` that are no part of it.
      stored_side: To which the shorter sides of larger image files are reduced; None stores all as they are.

    Raises:
      UserError: Unknown embedded data; the folder has no classes, or a class has no image that can be decoded in one of
        the splits, something else lies in the directory, or nothing can be written there.
      StoppedError: The disk is full.
    """
    if shards < 1:
        raise UserError(f"shards is {shards}; it must be at least 1")
    directory = Path(directory)
    if (directory / "dataset.json").exists():
        return Dataset.load(directory)
    if directory.is_file() or any(directory.glob("*")):
        raise UserError(f"{directory} exists, but no data set was prepared there; move it or choose another directory")
    if data_path is None:
        class_names, skipped = tuple(map(str, range(10))), Skipped()
        splits = _embedded(embedded, class_names, progress)
    else:
        class_names, splits, skipped = _folder(Path(data_path), progress, threads, [directory, *without])
    plan = class_records.plan_of(splits, class_names, shards, stored_side)
    bar = tqdm.tqdm(total=sum(map(len, splits.values())), desc="images", unit="image", disable=not progress)
    with class_records.continued_directory(directory, plan) as partial, bar:
        written = class_records.write(partial, splits, class_names, shards, bar, threads, stored_side)
        skipped += Skipped.of(row for split in written.values() for row in split.skipped)
        summary = dict(
            class_names=class_names,
            **{f"{split}_examples": sum(written[split].examples.values()) for split in splits},
            skipped=[name for name, _ in skipped.files],
            skipped_reasons=[reason for _, reason in skipped.files],
            skipped_others=skipped.others,
            shards=shards,
            stored_side=stored_side,
            jpeg_only=all(split.kinds == {"JPEG"} for split in written.values()),
            duplicates=duplicates.count({split: _part(splits[split], its.digests) for split, its in written.items()}),
        )
        write_json(partial / "dataset.json", summary)
    return Dataset.load(directory)


def _part(examples: Sequence[Example], digests: bytes) -> duplicates.Part:
    """A split as copies are counted in it."""
    labels = np.fromiter((example.label for example in examples), np.int32, len(examples))
    return duplicates.Part(digests, labels, lambda place: examples[place].source)


def _embedded(name: str, class_names: Sequence[str], progress: bool) -> dict[str, list[Example]]:
    """Splits of embedded data."""
    if name not in EMBEDDED:
        raise UserError(f"unknown dataset {name!r}; embedded are {', '.join(EMBEDDED)}")
    if name == "digits":
        return _split(list(digits()), class_names, progress)
    splits = {split: clutter.Split(split) for split in clutter.EXAMPLES}
    return {
        split: _shuffled(
            [_cluttered(examples, i) for i in brief_bar(range(len(examples)), f"drawing {split}", progress)]
        )
        for split, examples in splits.items()
    }


def cluttered_digits(order: np.random.Generator) -> Iterator[bytes]:
    """The training images of `clutter` as PNGs in a random order, made one at a time."""
    examples = clutter.Split("train")
    return (tf.io.encode_png(examples[int(i)][1]).numpy() for i in order.permutation(len(examples)))


def _cluttered(examples: clutter.Split, index: int) -> Example:
    label, image = examples[index]
    return Example(label, f"digit_{index:04d}.png", tf.io.encode_png(image).numpy())


def digits() -> Iterator[Example]:
    """The scans, 8 x 8 in 17 shades, resized to 32 x 32 RGB: ink from mid-grey to white.

    The Model Garden's augmentations fill what they shift or rotate in with mid-grey, so on a mid-grey background they
    leave no edges.
    """
    from sklearn import datasets

    scans = datasets.load_digits()
    images = tf.image.resize(_GREY + scans.images[..., None] * ((255 - _GREY) / 16), (_DIGIT_SIDE, _DIGIT_SIDE))
    images = tf.cast(tf.round(tf.image.grayscale_to_rgb(images)), tf.uint8)
    for index, (image, label) in enumerate(zip(images, scans.target)):
        yield Example(int(label), f"digit_{index:04d}.png", tf.io.encode_png(image).numpy())


def _folder(
    data_path: Path, progress: bool, threads: int | None, without: Sequence[str | os.PathLike]
) -> tuple[tuple[str, ...], dict[str, list[Example]], Skipped]:
    """Class names, splits, and what is not read of an image folder."""
    layout = folders.layout(data_path, without)
    skipped = [layout.skipped]
    splits: dict[str, list[Example]] = {}
    for split, classes in layout.splits.items():
        splits[split] = []
        for label, folder in enumerate(brief_bar(classes, "looking for images", progress, unit="class")):
            files, left = walk.images(folder, data_path, without)
            its_split = split if len(layout.splits) > 1 else None
            _refuse_foreign(layout.class_names[label], its_split, files, left, data_path)
            splits[split] += [Example(label, os.path.relpath(file, data_path), file) for file in files]
            skipped.append(left)
    together = Skipped.together(skipped)
    if "validation" in splits:
        return layout.class_names, {split: _shuffled(examples) for split, examples in splits.items()}, together
    halves = _split(splits.pop("train"), layout.class_names, progress, threads)
    return layout.class_names, {**halves, **{split: _shuffled(each) for split, each in splits.items()}}, together


def _refuse_foreign(name: str, split: str | None, files: Sequence[str], left: Skipped, data_path: Path) -> None:
    """Refuses, before any image is decoded, a class that has no files, or only HEIC, camera raw and the like.

    Raises:
      UserError: It has; `left` is what is skipped of it anyhow.
    """
    if not all(map(door.is_foreign, files)):
        return
    rows = []
    for file in files:
        reason = door.reason_against(file)
        if reason is None:
            return
        rows.append((os.path.relpath(file, data_path), reason))
    raise class_records.without_images(name, left + Skipped.of(rows), split)


def _split(
    examples: Sequence[Example], class_names: Sequence[str], progress: bool, threads: int | None = None
) -> dict[str, list[Example]]:
    """A fixed, stratified split into training and validation, without copies across it; both are shuffled."""
    generator = np.random.default_rng(_SPLIT_SEED)
    by_label: list[list[Example]] = [[] for _ in class_names]
    for example in examples:
        by_label[example.label].append(example)
    for name, members in zip(class_names, by_label):
        if len(members) < 2:
            raise UserError(
                f"class {name!r} has {len(members)} images; at least two are needed, one of them to be held out; add "
                "some, or take its folder away"
            )
    orders = [[members[i] for i in generator.permutation(len(members))] for members in by_label]
    held = held_out.places([[example.contents for example in order] for order in orders], progress, threads)
    for name, order, places in zip(class_names, orders, held):
        if not places:  # All of its files were tried.
            reasons = list(parallel.reasons_against((str(example.contents) for example in order), threads))
            left = [(example.source, reason) for example, reason in zip(order, reasons) if reason is not None]
            raise class_records.without_images(name, Skipped.of(left))
    train = [example for order, places in zip(orders, held) for i, example in enumerate(order) if i not in places]
    validation = [order[i] for order, places in zip(orders, held) for i in sorted(places)]
    return {"train": _shuffled(train, generator), "validation": _shuffled(validation, generator)}


def _shuffled(examples: Sequence[Example], generator: np.random.Generator | None = None) -> list[Example]:
    generator = generator or np.random.default_rng(_SPLIT_SEED)
    return [examples[i] for i in generator.permutation(len(examples))]
