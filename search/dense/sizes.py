"""What a detector's training takes from its data: the input's size, levels, batch, epochs, learning rate."""

from __future__ import annotations

import numpy as np

from asvit_tf.design.grids import ceil_div

MOST_PIXELS = {"cpu": 256 * 320, "gpu": 640 * 640, "tpu": 640 * 640}
_MULTIPLE = 32
SEEN = {"detection": 24_000, "segmentation": 12_000}  # Images, the same again, that few are trained on,
_LEAST_EPOCHS, _MOST_EPOCHS = 12, 300  # within these bounds.
_RATE, _RATE_BATCH = 1e-3, 8
_SMALL = 16.0  # Pixels: if a tenth of the boxes is smaller, a level with finer places is worth its time.


def input_size(images: np.ndarray, most_pixels: int, multiple: int = _MULTIPLE) -> tuple[int, int]:
    """Rows and columns of the network's input: the shape of most images, never more pixels than they have.

    Args:
      images: [N, 2], height and width in pixels.
      most_pixels: Bound.
      multiple: What both sides are multiples of.
    """
    height, width = np.median(images, axis=0)
    factor = min(1.0, (most_pixels / (height * width)) ** 0.5)
    while True:
        rows, columns = (max(multiple, round(side * factor / multiple) * multiple) for side in (height, width))
        if rows * columns <= most_pixels or max(rows, columns) == multiple:
            return rows, columns
        factor *= 0.98  # Rounding went over the bound.


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


def batch_size(size: tuple[int, int], kind: str) -> int:
    """Images in a training step.

    Args:
      size: Rows and columns of the input.
      kind: "cpu", "gpu" or "tpu".
    """
    if kind != "cpu":
        return 16
    return 8 if size[0] * size[1] <= 2 * MOST_PIXELS["cpu"] else 4


def epochs(examples: int, task: str = "detection") -> int:
    """As many as show the network the images of `SEEN`, from 12 to 300."""
    return min(_MOST_EPOCHS, max(_LEAST_EPOCHS, ceil_div(SEEN[task], examples)))


def learning_rate(batch: int) -> float:
    """The peak for AdamW: 0.001 at 8 images a step, with the root of their number."""
    return float(f"{_RATE * (batch / _RATE_BATCH) ** 0.5:.2g}")
