"""What a trained classifier says to every held-out image, asked once and kept.

The images come through the evaluation's own pipeline, and the weights from the checkpoint that is exported, so the
accuracy of what is kept is that of the evaluation. A training on a TPU or GPU may have evaluated them in bfloat16 or
float16; asked on a CPU, the same weights answer in float32, as the SavedModel does, and an image between two classes
may fall to the other one.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory
from official.vision.ops import preprocess_ops

from asvit_tf import traces
from asvit_tf.dataloaders import inputs, record_paths
from asvit_tf.dataloaders.progress import brief_bar
from asvit_tf.errors import UserError
from asvit_tf.modeling import checkpoints
from asvit_tf.precision import mixed_precision
from asvit_tf.serving import by_class
from asvit_tf.storage import whole_file

PICTURES = 12


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Answers to the N images of a split with K classes, in the order of its records.

    Attributes:
      labels: True classes, [N], int64.
      probabilities: [N, K], float32.
      sources: File names, [N], text; "" where a record has none.
      mistakes: Places of the mistakes that the network is surest of (`by_class.most_confident_mistakes`), [M], int64.
      pictures: Their images as the network saw them: upright, cropped and resized, [M, H, W, 3], uint8.
      checkpoint: `fingerprint` of the checkpoint.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    sources: np.ndarray
    mistakes: np.ndarray
    pictures: np.ndarray
    checkpoint: str

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest classes, [N]."""
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """Share of the images that are recognized."""
        return float(np.mean(self.predicted == self.labels))

    @property
    def confusion(self) -> np.ndarray:
        """Counts [K, K] (see `by_class`)."""
        return by_class.confusion(self.labels, self.predicted, self.probabilities.shape[1])

    def save(self, path: str | os.PathLike) -> None:
        """Writes all of it to a file NAME.npz, whole or not at all."""
        with whole_file(path) as partial:
            np.savez_compressed(
                partial, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> Predictions:
        """Reads what `save` wrote.

        Raises:
          UserError: It cannot be read to its end.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                fields = {field.name: file[field.name] for field in dataclasses.fields(cls)}
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is damaged; remove it, and asvit report makes it again") from error
        return cls(**{**fields, "checkpoint": str(fields["checkpoint"])})


def fingerprint(checkpoint: str) -> str:
    """A short checksum of a checkpoint's index, which holds the checksums of all its tensors."""
    with tf.io.gfile.GFile(checkpoint + ".index", "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]


def predict(
    params: cfg.ExperimentConfig, input_path: str, checkpoint: str, progress: bool = False, total: int | None = None
) -> Predictions:
    """Asks a trained classifier about every image of a split.

    It runs on a GPU where there is one, in the types it was evaluated in. Else it runs on the CPU, also of a TPU's
    host, in float32: bfloat16 is emulated there, and takes far longer. The weights, which are float32, are the same.

    Args:
      params: The experiment that trained it; an image has one label.
      input_path: Records of the split, as for `validation_data`.
      checkpoint: Path of a checkpoint.
      progress: Show a progress bar on standard error.
      total: Images of the split, for the bar; None where it is not known.

    Raises:
      UserError: There are no records; or no such checkpoint, or it is damaged or of another network.
    """
    files = _files(input_path)
    labels, probabilities, surest = [], [], _Surest(PICTURES)
    tf.random.set_seed(params.task.seed or 0)  # See `export`.
    on_cpu = not tf.config.list_logical_devices("GPU")
    with mixed_precision(None if on_cpu else params.runtime.mixed_precision_dtype), traces.forgotten():
        task = task_factory.get_task(params.task)
        model = task.build_model()
        with checkpoints.damage_explained(checkpoint):
            checkpoints.initialize(model, checkpoint)

        @tf.function(reduce_retracing=True, autograph=False)
        def answer(images: tf.Tensor) -> tf.Tensor:
            return tf.nn.softmax(tf.cast(task.inference_step(images, model), tf.float32))

        with brief_bar(None, "asking", progress, total) as bar:
            for images, truth in _batches(task, params, files, "float32" if on_cpu else None):
                labels.append(truth.numpy().astype(np.int64))
                probabilities.append(answer(images).numpy())
                surest.see(images, labels[-1], probabilities[-1])
                bar.update(len(labels[-1]))
    sources, recorded = zip(*(_source_and_label(features) for features in _records(files)))
    together = np.concatenate(labels)
    if not np.array_equal(together, recorded):
        raise RuntimeError(f"the evaluation's pipeline does not keep the order of the records in {input_path}")
    return Predictions(
        labels=together,
        probabilities=np.concatenate(probabilities),
        sources=np.array(sources),
        mistakes=np.array(surest.places, np.int64),
        pictures=surest.pictures(params.task.model.input_size),
        checkpoint=fingerprint(checkpoint),
    )


def first_images(params: cfg.ExperimentConfig, input_path: str, number: int) -> tuple[list[bytes], np.ndarray]:
    """The first images of a split twice: encoded, and as the evaluation gives them to the network but for the norm.

    Args:
      params: The experiment.
      input_path: Records of the split.
      number: Images, n; where the split has fewer, they are repeated.

    Returns:
      n files' contents; and [n, H, W, 3], float32, 0 to 255, as a TFLite model takes them.
    """
    files = _files(input_path)
    encoded = []
    for features in _records(files):
        encoded.append(features["image/encoded"].bytes_list.value[0])
        if len(encoded) == number:
            break
    pixels: list[np.ndarray] = []
    for images, _ in _batches(task_factory.get_task(params.task), params, files, "float32"):
        pixels.extend(_pixels(images))
        if len(pixels) >= len(encoded):
            break
    places = np.arange(number) % len(encoded)
    return [encoded[place] for place in places], np.stack(pixels)[places]


class _Surest:
    """The surest mistakes of all batches so far, with their images: never more than a few at once."""

    def __init__(self, most: int):
        self._most = most
        self._seen = 0
        self._kept: list[tuple[float, int, np.ndarray]] = []  # Confidence below 0, so that order is by it, then place.

    @property
    def places(self) -> list[int]:
        return [place for _, place, _ in self._kept]

    def see(self, images: tf.Tensor, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """Looks at the next batch."""
        found = by_class.most_confident_mistakes(labels, probabilities, self._most)
        pictures = np.rint(_pixels(tf.gather(images, found))).clip(0, 255).astype(np.uint8)
        for row, picture in zip(found, pictures):
            self._kept.append((-float(probabilities[row].max()), self._seen + int(row), picture))
        self._kept = sorted(self._kept, key=lambda kept: kept[:2])[: self._most]
        self._seen += len(labels)

    def pictures(self, size: Any) -> np.ndarray:
        """[M, H, W, 3], also where M is 0."""
        return np.array([picture for _, _, picture in self._kept], np.uint8).reshape(-1, *size)


def _pixels(images: tf.Tensor) -> np.ndarray:
    """Normalized images [B, H, W, 3] back to 0 to 255, float32."""
    return tf.cast(images, tf.float32).numpy() * np.float32(preprocess_ops.STDDEV_RGB) + np.float32(
        preprocess_ops.MEAN_RGB
    )


def _files(input_path: str) -> list[str]:
    """Of a split, in the order of their names; a pattern finds them in any order."""
    return sorted(inputs.record_files("validation_data", input_path))


def _batches(
    task: Any, params: cfg.ExperimentConfig, files: list[str], dtype: str | None
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Images [B, H, W, 3], normalized, and labels [B], in the order of the records; `dtype` None is the evaluation's.

    One file after the other: a pipeline over several takes turns between them.
    """
    section = copy.deepcopy(params.task.validation_data)
    section.drop_remainder, section.deterministic = False, True
    section.dtype = dtype or section.dtype
    for file in files:
        section.input_path = record_paths.understood(file)
        yield from task.build_inputs(section)


def _records(files: list[str]) -> Iterator[Any]:
    """Features of every record, by name."""
    for file in files:
        for record in tf.compat.v1.io.tf_record_iterator(file):
            yield tf.train.Example.FromString(record).features.feature


def _source_and_label(features: Any) -> tuple[str, int]:
    names = features["image/filename"].bytes_list.value
    source = names[0].decode("utf-8", "backslashreplace") if names else ""
    return source, features["image/class/label"].int64_list.value[0]
