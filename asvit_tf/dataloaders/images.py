"""Images for the training-free measures, from wherever they are; labels are not needed.

Sources: the embedded digits, plain or cluttered, noise, any folder of image files, TFRecords in the ImageNet form, and
data sets that TensorFlow Datasets has prepared on this machine.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asvit_tf.choices import EMBEDDED_IMAGES
from asvit_tf.dataloaders.folders import prepared_tfds
from asvit_tf.dataloaders.imagefiles import door, walk
from asvit_tf.dataloaders.imagefiles.skipped import Skipped
from asvit_tf.dataloaders.progress import brief_bar
from asvit_tf.errors import UserError

_SHUFFLED_RECORDS = 1024  # Of TFRecords and TFDS, which are read in order; about 100 MB of ImageNet.


@dataclasses.dataclass(frozen=True)
class Source:
    """Where images come from: exactly one of the first two is given.

    Attributes:
      dataset: "digits", "cluttered_digits", "noise", or the name of a TFDS data set, with or without version.
      data_path: Folder of image files, at any depth; or one or more TFRecords, by a pattern.
      data_dir: Where TFDS keeps its data sets; None for its own default.

    Raises:
      UserError: Both or neither are given, or there is nothing at that place.
    """

    dataset: str | None = None
    data_path: str | None = None
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if (self.dataset is None) == (self.data_path is None):
            raise UserError("give either a dataset or a data_path")
        if self.data_path is not None:
            if not self._files[0]:
                raise UserError(
                    f"{self.data_path} has no images: expected a folder of image files, or TFRecords by a pattern, as "
                    "in DIR/train-*"
                    + "".join(f"; not read: {count} {reason}" for reason, count in self._files[1].reasons.items())
                )
        elif self.dataset not in EMBEDDED_IMAGES:
            self._tfds_directory()

    @classmethod
    def of_flags(cls, dataset: str | None, data_path: str | None, data_dir: str | None) -> Source:
        """From the flags of a command; "imagenet" beside a path names what is there, as in released command lines."""
        if data_path is not None and dataset == "imagenet":
            dataset = None
        return cls(dataset or None, None if data_path is None else os.path.abspath(data_path), data_dir)

    @functools.cached_property
    def _files(self) -> tuple[list[str], Skipped]:
        """Image files of the folder, and what is not read of it; or record files of the pattern."""
        assert self.data_path is not None
        path = Path(self.data_path)
        if os.path.isdir(path):  # Not Path's: in Python 3.11 it raises where a folder above is closed.
            return walk.images(path)
        if os.path.isfile(path):
            return [self.data_path], Skipped()
        # A directory that is there is meant as it stands: brackets may be part of its name.
        directory, pattern = os.path.split(self.data_path)
        directory = glob.escape(directory) if os.path.isdir(directory) else directory
        names = sorted(glob.glob(os.path.join(directory, pattern)))
        return [name for name in names if os.path.isfile(name)], Skipped()

    @property
    def skipped(self) -> Skipped:
        """What is not read of a folder, before any image is opened."""
        return Skipped() if self.data_path is None else self._files[1]

    def _tfds_directory(self) -> Path:
        assert self.dataset is not None
        try:
            return prepared_tfds(self.dataset, self.data_dir)
        except UserError as error:
            raise UserError(f"{error}; allowed without data are {', '.join(EMBEDDED_IMAGES)}") from error

    def encoded(self, seed: int) -> Iterator[bytes | str]:
        """Encoded images, or paths of image files relative to the folder, in an order that the seed decides."""
        generator = np.random.default_rng(seed)
        if self.data_path is not None and os.path.isdir(self.data_path):
            files, _ = self._files
            yield from (os.path.relpath(files[i], self.data_path) for i in generator.permutation(len(files)))
            return
        import tensorflow as tf

        if self.dataset == "digits":
            from asvit_tf.dataloaders import classification as data

            digits = [example.contents for example in data.digits()]
            yield from (digits[i] for i in generator.permutation(len(digits)))
            return
        if self.dataset == "cluttered_digits":
            from asvit_tf.dataloaders import classification as data

            yield from data.cluttered_digits(generator)
            return
        if self.data_path is not None:
            files, _ = self._files
            names = [files[i] for i in generator.permutation(len(files))]
            feature = {"image/encoded": tf.io.FixedLenFeature([], tf.string, "")}
            records = tf.data.TFRecordDataset(names).map(lambda record: tf.io.parse_single_example(record, feature))
            records = records.map(lambda example: example["image/encoded"])
        else:
            import tensorflow_datasets as tfds

            builder = tfds.builder_from_directory(str(self._tfds_directory()))
            if "image" not in (builder.info.features or {}):
                raise UserError(f"dataset {self.dataset!r} has no feature named image")
            split = "train" if "train" in builder.info.splits else next(iter(builder.info.splits))
            records = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
            records = records.map(lambda example: example["image"])
        try:
            for record in records.shuffle(_SHUFFLED_RECORDS, seed, reshuffle_each_iteration=False):
                yield record.numpy()
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            reason = error.message.split("}} ")[-1].split(" [Op:")[0][:100]
            raise UserError(f"{self.data_path or self.dataset} holds no TFRecords of images ({reason})") from None

    def read(self, image: bytes | str) -> bytes:
        """What `encoded` yields as JPEG or PNG.

        Raises:
          door.UnreadableError: It cannot be read or decoded.
        """
        return door.convert(image) if isinstance(image, bytes) else door.read(os.path.join(str(self.data_path), image))


def sample(
    source: Source, count: int, image_size: tuple[int, int], seed: int, progress: bool = False
) -> tuple[np.ndarray, Skipped]:
    """Images whole, resized and normalized by the Model Garden's evaluation pipeline.

    Of images that are alike only one is taken: they would have a singular NTK.

    Args:
      source: Where from.
      count: How many.
      image_size: H and W in pixels.
      seed: Which ones.
      progress: Show a progress bar on standard error once it has taken two seconds.

    Returns:
      [count, H, W, 3] float32, normalized; and what was not read: of a folder, and of the images until there were
      enough.

    Raises:
      UserError: There are fewer than `count` different ones.
    """
    if source.dataset == "noise":
        noise = np.random.default_rng(seed).standard_normal((count, *image_size, 3))
        return noise.astype(np.float32), Skipped()
    # Imported here: noise needs no Model Garden, which takes seconds to import.
    from official.vision.dataloaders import classification_input

    parser = classification_input.Parser(list(image_size), num_classes=1, aug_crop=False, decode_jpeg_only=False)
    parse = parser.parse_fn(is_training=False)
    distinct: dict[bytes, np.ndarray] = {}
    skipped: list[tuple[str, str]] = []
    with brief_bar(None, "reading images", progress, total=count) as bar:
        for number, image in enumerate(source.encoded(seed)):
            if len(distinct) == count:
                break
            try:
                encoded = source.read(image)
            except door.UnreadableError as error:
                skipped.append((image if isinstance(image, str) else f"record {number}", str(error)))
                continue
            pixels = parse({"image/encoded": encoded, "image/class/label": 0})[0].numpy()
            distinct.setdefault(pixels.tobytes(), pixels)
            bar.update(len(distinct) - bar.n)
    if len(distinct) < count:
        raise UserError(
            f"{count} different images are needed, {len(distinct)} were found"
            + (f" ({len(skipped)} files could not be decoded)" if skipped else "")
        )
    return np.stack(list(distinct.values())), source.skipped + Skipped.of(skipped)
