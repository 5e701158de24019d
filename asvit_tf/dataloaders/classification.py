"""Images in, TFRecords out: one door for the embedded digits and for a user's folders.

Whatever comes in is written once as TFRecords in the ImageNet form, and from there the Model Garden's own input
pipeline, augmentation and trainer read it. The embedded data are scikit-learn's 1,797 scans of handwritten digits, as
they are or cluttered (see `clutter`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tqdm
from official.vision.data import tfrecord_lib

from asvit_tf.choices import EMBEDDED
from asvit_tf.dataloaders import clutter
from asvit_tf.dataloaders.folders import class_folders, image_files
from asvit_tf.dataloaders.inputs import record_files
from asvit_tf.dataloaders.progress import brief_bar
from asvit_tf.errors import UserError
from asvit_tf.storage import whole_directory

VALIDATION_SHARE = 0.2
_HELD_OUT = ("validation", "val", "valid")  # Names of the second split's folder.
_SPLIT_SEED = 0  # The split is part of the data, not of an experiment: accuracies of different seeds compare.
_DIGIT_SIDE = 32
_GREY = 128
_JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # How the files begin.


@dataclasses.dataclass(frozen=True)
class Dataset:
    """TFRecords of one data set, split into training and validation.

    Attributes:
      directory: Holds the records and `dataset.json`.
      class_names: By label.
      train_examples, validation_examples: Counts.
      skipped: Files that could not be decoded, relative to the source.
      shards: Files of each split.
      jpeg_only: Whether there are no PNGs; if there are, the input pipeline needs `decode_jpeg_only=false`.
    """

    directory: str
    class_names: tuple[str, ...]
    train_examples: int
    validation_examples: int
    skipped: tuple[str, ...] = ()
    shards: int = 1
    jpeg_only: bool = False

    @property
    def train_path(self) -> str:
        """Path of the training records; a pattern where there are several files."""
        return self._path("train")

    @property
    def validation_path(self) -> str:
        """Path of the validation records, likewise."""
        return self._path("validation")

    def validation_shares(self) -> list[float]:
        """Number of validation images of each class."""
        labels = [
            tf.train.Example.FromString(record).features.feature["image/class/label"].int64_list.value[0]
            for record in tf.data.TFRecordDataset(record_files("validation", self.validation_path)).as_numpy_iterator()
        ]
        return (np.bincount(labels, minlength=len(self.class_names)) / len(labels)).tolist()

    def _path(self, split: str) -> str:
        name = f"{split}.tfrecord" if self.shards == 1 else f"{split}-*-of-{self.shards:05d}.tfrecord"
        return os.path.join(self.directory, name)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> Dataset:
        """Reads what `prepare` wrote."""
        fields = json.loads((Path(directory) / "dataset.json").read_text())
        for name in ("class_names", "skipped"):
            fields[name] = tuple(fields[name])
        return cls(directory=str(directory), **fields)


@dataclasses.dataclass(frozen=True)
class _Example:
    """One image with its label and where it came from; read from its file when it is written."""

    label: int
    source: str
    contents: bytes | Path

    def encoded(self) -> bytes | None:
        """The image as JPEG or PNG; None if it cannot be read as one."""
        if isinstance(self.contents, bytes):
            return self.contents
        try:
            return as_jpeg_or_png(self.contents.read_bytes())
        except OSError:
            return None


def prepare(
    directory: str | os.PathLike,
    data_path: str | os.PathLike | None = None,
    shards: int = 1,
    progress: bool = False,
    embedded: str = "digits",
) -> Dataset:
    """Writes the TFRecords of a data set, or opens them where they are already written.

    Images are read one at a time, so a folder may be as large as ImageNet.

    Args:
      directory: Where they go; complete or absent, never half-written.
      data_path: A folder with one subfolder of images for each class, of which a fifth is held out; or with two of
        those, named `train` and `val` or `validation`; None for embedded data.
      shards: Files of each split, >= 1.
      progress: Show a progress bar on standard error.
      embedded: Which of `EMBEDDED`, where there is no `data_path`.

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
        class_names = tuple(map(str, range(10)))
        splits = _embedded(embedded, class_names, progress)
    else:
        class_names, splits = _folder(Path(data_path), progress)

    skipped: list[str] = []
    counts, kinds = {}, set()
    bar = tqdm.tqdm(total=sum(map(len, splits.values())), desc="images", unit="image", disable=not progress)
    with whole_directory(directory) as partial, bar:
        for split, examples in splits.items():
            counts[split], found = _write_records(Path(partial), split, examples, class_names, shards, skipped, bar)
            kinds |= found
        summary = dict(
            class_names=class_names,
            train_examples=counts["train"],
            validation_examples=counts["validation"],
            skipped=sorted(skipped),
            shards=shards,
            jpeg_only=kinds == {"JPEG"},
        )
        (Path(partial) / "dataset.json").write_text(json.dumps(summary, indent=1))
    return Dataset.load(directory)


def _embedded(name: str, class_names: Sequence[str], progress: bool) -> dict[str, list[_Example]]:
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


def _cluttered(examples: clutter.Split, index: int) -> _Example:
    label, image = examples[index]
    return _Example(label, f"digit_{index:04d}.png", tf.io.encode_png(image).numpy())


def digits() -> Iterator[_Example]:
    """The scans, 8 x 8 in 17 shades, resized to 32 x 32 RGB: ink from mid-grey to white.

    The Model Garden's augmentations fill what they shift or rotate in with mid-grey, so on a mid-grey background they
    leave no edges.
    """
    from sklearn import datasets

    scans = datasets.load_digits()
    images = tf.image.resize(_GREY + scans.images[..., None] * ((255 - _GREY) / 16), (_DIGIT_SIDE, _DIGIT_SIDE))
    images = tf.cast(tf.round(tf.image.grayscale_to_rgb(images)), tf.uint8)
    for index, (image, label) in enumerate(zip(images, scans.target)):
        yield _Example(int(label), f"digit_{index:04d}.png", tf.io.encode_png(image).numpy())


def _folder(data_path: Path, progress: bool) -> tuple[tuple[str, ...], dict[str, list[_Example]]]:
    """Class names and splits of an image folder."""
    given = {folder.name: folder for folder in data_path.iterdir()} if data_path.is_dir() else {}
    held_out = next((given[name] for name in _HELD_OUT if name in given), None)
    if "train" not in given or held_out is None:
        if any(name in given for name in ("train", "training", "test", *_HELD_OUT)):
            raise UserError(
                f"{data_path} holds {', '.join(sorted(given)[:5])}: name the splits train and one of "
                f"{', '.join(_HELD_OUT)}, or give the folder that holds the classes"
            )
        folders = class_folders(data_path)
        class_names = tuple(folder.name for folder in folders)
        return class_names, _split(_examples(folders, data_path), class_names, progress)
    splits = {}
    class_names = tuple(folder.name for folder in class_folders(given["train"]))
    for split, root in (("train", given["train"]), ("validation", held_out)):
        folders = class_folders(root)
        if tuple(folder.name for folder in folders) != class_names:
            raise UserError(f"{root} and {given['train']} do not have the same class folders")
        splits[split] = _shuffled(_examples(folders, data_path))
    return class_names, splits


def _examples(folders: Sequence[Path], data_path: Path) -> list[_Example]:
    return [
        _Example(label, str(file.relative_to(data_path)), file)
        for label, folder in enumerate(folders)
        for file in image_files(folder)
    ]


def as_jpeg_or_png(encoded: bytes) -> bytes | None:
    """The image as JPEG or PNG, which the input pipeline reads; None if it is no image."""
    try:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return None
    if encoded.startswith((_JPEG, PNG)):
        return encoded
    return tf.io.encode_png(image).numpy()


def _split(examples: Sequence[_Example], class_names: Sequence[str], progress: bool) -> dict[str, list[_Example]]:
    """A fixed, stratified split into training and validation; both are shuffled."""
    generator = np.random.default_rng(_SPLIT_SEED)
    train: list[_Example] = []
    validation: list[_Example] = []
    by_label: list[list[_Example]] = [[] for _ in class_names]
    for example in examples:
        by_label[example.label].append(example)
    # A bar, because every image that is held out is decoded.
    for name, members in brief_bar(list(zip(class_names, by_label)), "holding images out", progress, unit="class"):
        if len(members) < 2:
            raise UserError(f"class {name!r} has {len(members)} images; at least two are needed")
        held_out = max(1, round(VALIDATION_SHARE * len(members)))
        for i in generator.permutation(len(members)):
            # What cannot be decoded is not held out, or a class might be left without an image there.
            if held_out and members[i].encoded() is not None:
                validation.append(members[i])
                held_out -= 1
            else:
                train.append(members[i])
    return {"train": _shuffled(train, generator), "validation": _shuffled(validation, generator)}


def _shuffled(examples: Sequence[_Example], generator: np.random.Generator | None = None) -> list[_Example]:
    generator = generator or np.random.default_rng(_SPLIT_SEED)
    return [examples[i] for i in generator.permutation(len(examples))]


def _write_records(
    directory: Path,
    split: str,
    examples: Sequence[_Example],
    class_names: Sequence[str],
    shards: int,
    skipped: list[str],
    bar: tqdm.tqdm,
) -> tuple[int, set[str]]:
    """Writes one split; adds to `skipped` what is no image. Returns how many were written, and JPEG or PNG or both."""
    names = (
        [f"{split}.tfrecord"] if shards == 1 else [f"{split}-{i:05d}-of-{shards:05d}.tfrecord" for i in range(shards)]
    )
    written = 0
    seen, kinds = set(), set()
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(tf.io.TFRecordWriter(str(directory / name))) for name in names]
        for example in examples:
            bar.update()
            encoded = example.encoded()
            if encoded is None:
                skipped.append(example.source)
                continue
            feature = {
                "image/encoded": encoded,
                "image/filename": os.fsencode(example.source),
                "image/class/label": example.label,
                "image/class/text": class_names[example.label].encode(),
            }
            feature = {name: tfrecord_lib.convert_to_feature(value) for name, value in feature.items()}
            record = tf.train.Example(features=tf.train.Features(feature=feature))
            writers[written % shards].write(record.SerializeToString())
            written += 1
            seen.add(example.label)
            kinds.add("PNG" if encoded.startswith(PNG) else "JPEG")
    for label, name in enumerate(class_names):
        if label not in seen:
            raise UserError(f"class {name!r} has no image for {split} that can be decoded")
    return written, kinds
