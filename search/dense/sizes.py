"""What a detector's training takes from its data: the input's size, levels, batch, epochs, learning rate."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from asvit_tf.design.grids import ceil_div

MOST_PIXELS = {"cpu": 256 * 320, "gpu": 640 * 640, "tpu": 640 * 640}
# Multiples of the sides: the feature pyramid's coarsest level of large inputs is 6, or large objects have no anchor.
_MULTIPLE, _LARGE_MULTIPLE, _LARGE = 32, 64, 256
SEEN = 24_000  # Images, the same again, that few are trained on,
_LEAST_EPOCHS, _MOST_EPOCHS = 12, 300  # within these bounds; but
_LEAST_STEPS = 1000  # of a handful of images.
_IMAGES_A_STEP = 4  # At least so many steps are an epoch.
_RATE, _RATE_BATCH = 1e-3, 8
_SMALL = 16.0  # Pixels: if a tenth of the boxes is smaller, a level with finer places is worth its time.
_LOOP = 500  # Most steps without a line about them, and between checkpoints.
_MOST_WEIGHT = 20.0  # Of a class with hardly a pixel.
_EVALUATED_PIXELS = 2**23  # Of a batch at the pictures' own size, beside their logits.


def input_size(images: np.ndarray, most_pixels: int) -> tuple[int, int]:
    """Rows and columns of the network's input: images are shown as large as the bound allows, but never enlarged.

    Args:
      images: [N, 2], height and width in pixels; the median is the shape that counts.
      most_pixels: Bound.
    """
    height, width = np.median(images, axis=0)
    factor = min(1.0, (most_pixels / (height * width)) ** 0.5)
    multiple = _LARGE_MULTIPLE if min(height, width) * factor >= _LARGE else _MULTIPLE

    def scale(size: tuple[int, int]) -> float:
        return min(size[0] / height, size[1] / width)

    while True:
        down = [max(1, int(side * factor / multiple)) * multiple for side in (height, width)]
        sizes = [(down[0] + more[0], down[1] + more[1]) for more in itertools.product((0, multiple), repeat=2)]
        allowed = [size for size in sizes if size[0] * size[1] <= most_pixels]
        if allowed or max(down) == multiple:
            fitting = [size for size in allowed if scale(size) <= 1] or [(down[0], down[1])]
            return max(fitting, key=lambda size: (scale(size), -size[0] * size[1]))
        factor *= 0.98  # One side is a single multiple.


def stored_pixels(size: tuple[int, int] | None, kind: str) -> int:
    """Most pixels of photographs in the training records: twice the input's sides, for crops that are enlarged.

    Args:
      size: Rows and columns of the input, if they are given; else the largest is counted with.
      kind: "cpu", "gpu" or "tpu".
    """
    return 4 * (MOST_PIXELS[kind] if size is None else size[0] * size[1])


def levels(size: tuple[int, int], boxes: np.ndarray, is_two_stage: bool) -> list[tuple[int, int]]:
    """First and last levels that a feature pyramid may have.

    Args:
      size: Rows and columns of the input.
      boxes: [M, 2], height and width in its pixels.
      is_two_stage: Of a Mask R-CNN, which begins at level 2.
    """
    last = [level for level in (5, 6, 7) if min(size) >= 2 ** (level + 1) and not any(side % 2**level for side in size)]
    is_fine = is_two_stage or (len(boxes) > 0 and float(np.quantile(boxes.min(axis=1), 0.1)) < _SMALL)
    return [(2 if is_fine else 3, level) for level in last or [5]]


def batch_size(size: tuple[int, int], kind: str, images: int) -> int:
    """Images in a training step.

    Args:
      size: Rows and columns of the input.
      kind: "cpu", "gpu" or "tpu".
      images: Of the training split; a few of them are still several steps.
    """
    fitting = 16 if kind != "cpu" else 8 if size[0] * size[1] <= 2 * MOST_PIXELS["cpu"] else 4
    return max(1, min(fitting, images // _IMAGES_A_STEP))


def evaluated_at_once(images: int, height: int, width: int) -> int:
    """Pictures in a batch of the evaluation that compares at their own size; all are padded to the largest."""
    return max(1, min(8, images, _EVALUATED_PIXELS // (height * width)))


def epochs(examples: int, batch: int) -> int:
    """As many as show the network the images of `SEEN`, from 12 to 300; more if that were under 1000 steps."""
    usual = min(_MOST_EPOCHS, max(_LEAST_EPOCHS, ceil_div(SEEN, examples)))
    return max(usual, ceil_div(_LEAST_STEPS, max(1, examples // batch)))


def loops(epoch: int) -> tuple[int, int]:
    """Into how many loops the steps of an epoch are divided, and the steps of one; together a few more than given."""
    number = ceil_div(epoch, _LOOP)
    return number, ceil_div(epoch, number)


def class_weights(pixels: Sequence[int]) -> list[float]:
    """Of the loss: one over the root of a class's share of the pixels; the mean over all pixels is 1.

    The measure counts every class alike, and a pole has a hundredth of the pixels of a road.

    Args:
      pixels: Of each class in the training split; a class without any has the weight 1, which nothing is multiplied by.
    """
    shares = np.asarray(pixels, float) / sum(pixels)
    roots = np.sqrt(shares)
    weights = np.where(shares > 0, 1 / np.maximum(roots * roots.sum(), 1e-12), 1.0)
    return [float(f"{min(weight, _MOST_WEIGHT):.3g}") for weight in weights]


def learning_rate(batch: int) -> float:
    """The peak for AdamW: 0.001 at 8 images a step, with the root of their number."""
    return float(f"{_RATE * (batch / _RATE_BATCH) ** 0.5:.2g}")
