"""What a trained segmentation network answers to every pixel of a split, at the size of the images themselves."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg
from PIL import Image

from asvit_tf.dataloaders import inputs
from asvit_tf.dataloaders.labels import records
from asvit_tf.dataloaders.progress import brief_bar
from asvit_tf.errors import UserError
from asvit_tf.modeling import checkpoints
from asvit_tf.serving import modules, segment


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Pixels of a split with K classes, without the ignored ones.

    Attributes:
      pixels: A row for each true class, a column for each answer, [K, K], int64.
      class_names: K names.
      images: How many were answered.
      wrong: Of every image in the order of `rows`, the share of its pixels whose class is another one; NaN where none
        counts.
    """

    pixels: np.ndarray
    class_names: tuple[str, ...]
    images: int
    wrong: tuple[float, ...] = ()

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of every class, [K]; NaN for a class that is neither there nor answered."""
        hits = np.diag(self.pixels).astype(np.float64)
        union = self.pixels.sum(axis=0) + self.pixels.sum(axis=1) - hits
        return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that are there or answered; NaN where no pixel counts."""
        present = self.iou[np.isfinite(self.iou)]
        return float(present.mean()) if present.size else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of the pixels whose class is answered; NaN where no pixel counts."""
        total = int(self.pixels.sum())
        return float(np.trace(self.pixels) / total) if total else float("nan")


def iou(
    params: cfg.ExperimentConfig, input_path: str, weights: str, progress: bool = False, total: int | None = None
) -> Confusion:
    """Asks a segmentation network about every image of a split.

    Args:
      params: The experiment that trained it.
      input_path: Records of the split, as for `validation_data`.
      weights: Directory of its SavedModel with input type "image_bytes", or path of a checkpoint.
      progress: Show a progress bar on standard error.
      total: Images of the split, for the bar; None where it is not known.

    Raises:
      UserError: There are no records, they hold no maps of classes or others than the network's; or there are no such
        weights, or they are damaged or of another network.
    """
    names = tuple(modules.class_names(params))
    found_rows = rows(input_path)
    serve = _serving(params, weights)
    pixels = np.zeros((len(names), len(names)), np.int64)
    wrong: list[float] = []
    with brief_bar(None, "asking", progress, total) as bar:
        for encoded, truth in found_rows:
            found = segment.answer(serve, encoded)
            if found.class_names != names:
                raise UserError(f"{weights} answers other classes than the experiment has: {', '.join(names[:5])}, ...")
            counts = _count(truth, found.classes, len(names), params.task.losses.ignore_label, input_path)
            pixels += counts
            wrong.append(1 - Confusion(counts, names, 1).accuracy)
            bar.update()
    return Confusion(pixels, names, len(wrong), tuple(wrong))


def _serving(params: cfg.ExperimentConfig, weights: str) -> segment.Serving:
    """What answers encoded images, from a SavedModel or a checkpoint."""
    if os.path.isdir(weights):
        return segment.load(weights)
    tf.random.set_seed(params.task.seed or 0)  # See `export`.
    module = modules.serving_module(params, "image_bytes")
    module.model(tf_keras.Input(params.task.model.input_size), training=False)  # Only what is built is loaded.
    with checkpoints.damage_explained(weights):
        checkpoints.initialize(module.model, weights)

    def serve(inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return module.inference_from_image_bytes(inputs)  # The function alone would not keep the module.

    return serve


def rows(input_path: str) -> Iterator[tuple[bytes, np.ndarray]]:
    """Encoded image and map of classes [H, W] of every record of a split, in the order of the files.

    Raises:
      UserError: At once: there are no records. Later: one holds no map of classes.
    """
    return _rows(sorted(inputs.record_files("validation_data", input_path)))


def _rows(files: list[str]) -> Iterator[tuple[bytes, np.ndarray]]:
    for file in files:
        for record in tf.compat.v1.io.tf_record_iterator(file):
            features = tf.train.Example.FromString(record).features.feature
            maps, encoded = (features[name].bytes_list.value for name in (records.CLASSES, "image/encoded"))
            if not maps or not encoded:
                raise UserError(f"{file} holds no class for every pixel")
            with Image.open(io.BytesIO(maps[0])) as image:
                yield encoded[0], np.asarray(image)


def _count(truth: np.ndarray, answered: np.ndarray, count: int, ignored: int, source: str) -> np.ndarray:
    """Pixels of one image by truth and answer, [count, count]."""
    if truth.shape != answered.shape:
        raise UserError(f"{source} holds an image without a map of classes of its own size")
    valid = truth != ignored
    kinds = truth[valid].astype(np.int64) * count + answered[valid]
    if kinds.size and truth[valid].max() >= count:
        raise UserError(f"{source} holds the class {truth[valid].max()}; the network has {count}")
    return np.bincount(kinds, minlength=count**2).reshape(count, count)
