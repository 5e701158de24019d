"""Images in, TFRecords out: one door for the embedded digits and for a user's folders.

Whatever comes in is written once as TFRecords in the ImageNet form, and from there the Model Garden's own input
pipeline, augmentation and trainer read it. The embedded data are scikit-learn's 1,797 scans of handwritten digits.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from official.vision.data import tfrecord_lib

from asvit_tf.errors import UserError
from asvit_tf.folders import class_folders, image_files

VALIDATION_SHARE = 0.2
_SPLIT_SEED = 0  # The split is part of the data, not of an experiment: accuracies of different seeds compare.
_DIGIT_SIDE = 32
_GREY = 128


@dataclasses.dataclass(frozen=True)
class Dataset:
    """TFRecords of one data set, split into training and validation.

    Attributes:
      directory: Holds `train.tfrecord`, `validation.tfrecord` and `dataset.json`.
      class_names: By label.
      train_examples, validation_examples: Counts.
      skipped: Files that could not be decoded, relative to the source.
    """

    directory: str
    class_names: tuple[str, ...]
    train_examples: int
    validation_examples: int
    skipped: tuple[str, ...] = ()

    @property
    def train_path(self) -> str:
        return os.path.join(self.directory, "train.tfrecord")

    @property
    def validation_path(self) -> str:
        return os.path.join(self.directory, "validation.tfrecord")

    @classmethod
    def load(cls, directory: str | os.PathLike) -> Dataset:
        """Reads what `prepare` wrote."""
        fields = json.loads((Path(directory) / "dataset.json").read_text())
        for name in ("class_names", "skipped"):
            fields[name] = tuple(fields[name])
        return cls(directory=str(directory), **fields)


@dataclasses.dataclass(frozen=True)
class _Example:
    """One encoded image with its label and where it came from."""

    encoded: bytes
    label: int
    source: str


def prepare(directory: str | os.PathLike, data_path: str | os.PathLike | None = None) -> Dataset:
    """Writes the TFRecords of a data set, or opens them where they are already written.

    Args:
      directory: Where they go; complete or absent, never half-written.
      data_path: A folder with one subfolder of images for each class; None for the embedded digits.

    Raises:
      UserError: The folder has no classes, or a class has fewer than two images that can be decoded.
    """
    directory = Path(directory)
    if (directory / "dataset.json").exists():
        return Dataset.load(directory)
    skipped: list[str] = []
    if data_path is None:
        class_names = tuple(map(str, range(10)))
        examples = list(digits())
    else:
        class_names, examples = _folder(Path(data_path), skipped)
    train, validation = _split(examples, class_names)

    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_records(partial / "train.tfrecord", train, class_names)
    _write_records(partial / "validation.tfrecord", validation, class_names)
    summary = dict(
        class_names=class_names, train_examples=len(train), validation_examples=len(validation), skipped=skipped
    )
    (partial / "dataset.json").write_text(json.dumps(summary, indent=1))
    partial.rename(directory)
    return Dataset.load(directory)


def digits() -> Iterator[_Example]:
    """The scans, 8 x 8 in 17 shades, resized to 32 x 32 RGB: ink from mid-grey to white.

    The Model Garden's augmentations fill what they shift or rotate in with mid-grey, so on a mid-grey background they
    leave no edges.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    images = tf.image.resize(_GREY + digits.images[..., None] * ((255 - _GREY) / 16), (_DIGIT_SIDE, _DIGIT_SIDE))
    images = tf.cast(tf.round(tf.image.grayscale_to_rgb(images)), tf.uint8)
    for index, (image, label) in enumerate(zip(images, digits.target)):
        yield _Example(tf.io.encode_png(image).numpy(), int(label), f"digit_{index:04d}.png")


def _folder(data_path: Path, skipped: list[str]) -> tuple[tuple[str, ...], list[_Example]]:
    """Reads an image folder; names of files that do not decode are added to `skipped`."""
    folders = class_folders(data_path)
    examples = []
    for label, folder in enumerate(folders):
        for file in image_files(folder):
            name = str(file.relative_to(data_path))
            encoded = as_jpeg_or_png(file.read_bytes())
            if encoded is None:
                skipped.append(name)
            else:
                examples.append(_Example(encoded, label, name))
    return tuple(folder.name for folder in folders), examples


def as_jpeg_or_png(encoded: bytes) -> bytes | None:
    """The image as JPEG or PNG, which the input pipeline reads; None if it is no image."""
    try:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return None
    if encoded[:3] == b"\xff\xd8\xff" or encoded[:8] == b"\x89PNG\r\n\x1a\n":
        return encoded
    return tf.io.encode_png(image).numpy()


def _split(examples: Sequence[_Example], class_names: Sequence[str]) -> tuple[list[_Example], list[_Example]]:
    """A fixed, stratified split into training and validation; both are shuffled."""
    generator = np.random.default_rng(_SPLIT_SEED)
    train: list[_Example] = []
    validation: list[_Example] = []
    for label, name in enumerate(class_names):
        members = [example for example in examples if example.label == label]
        if len(members) < 2:
            raise UserError(f"class {name!r} has {len(members)} readable images; at least two are needed")
        order = generator.permutation(len(members))
        held_out = max(1, round(VALIDATION_SHARE * len(members)))
        validation += [members[i] for i in order[:held_out]]
        train += [members[i] for i in order[held_out:]]
    train, validation = ([part[i] for i in generator.permutation(len(part))] for part in (train, validation))
    return train, validation


def _write_records(path: Path, examples: Sequence[_Example], class_names: Sequence[str]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            feature = {
                "image/encoded": example.encoded,
                "image/filename": os.fsencode(example.source),
                "image/class/label": example.label,
                "image/class/text": class_names[example.label].encode(),
            }
            feature = {name: tfrecord_lib.convert_to_feature(value) for name, value in feature.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
