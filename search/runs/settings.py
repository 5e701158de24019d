"""What one run of the whole path depends on. No TensorFlow, so that a bad value is refused at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from asvit_tf.design import grids
from asvit_tf.design.retokenization import PRESETS, fitting_phases
from asvit_tf.design.topology import STRIDE
from asvit_tf.errors import UserError

# Growth scores candidates at their width over this.
PROXY_DIVISOR = 2

_LEAST = {
    "image_size": 1,
    "seed": 0,
    "search_steps": 1,
    "repeats": 1,
    "score_batch": 2,
    "width": 16,  # The proxy needs a channel for each of the 8 heads that stage 1 may have.
    "epochs": 1,
    "batch_size": 1,
    "base_stride": 1,
}


def check_least(settings: Any, least: Mapping[str, int]) -> None:
    """Refuses settings of which one is below its least value.

    Raises:
      UserError: One is.
    """
    for name, low in least.items():
        if getattr(settings, name) < low:
            raise UserError(f"{name} is {getattr(settings, name)}; it must be at least {low}")


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """A directory holds results of one of these.

    Attributes:
      data_path: Folder with one subfolder of images for each class; None for the embedded digits.
      image_size: Pixels per side.
      seed: Seed of search, weights and training.
      search_steps: Topologies that REINFORCE samples.
      repeats: Draws of weights that a score averages.
      score_batch: Images in an NTK.
      width: Channels of the first stage that search and growth start from.
      budget: Parameters, in millions, that the grown network may have.
      epochs: Epochs of training.
      batch_size: Images in a training step.
      retokenization: A preset schedule.
      flip: Mirror training images at random.
      base_stride: Pixels between tokens at the finest tokenization. None becomes what fits the image size
        (`grids.base_stride`), or 4 for the embedded digits, of which 4 pixels are one of the original.

    Raises:
      UserError: A value is out of range.
    """

    data_path: str | None = None
    image_size: int = 32
    seed: int = 8
    search_steps: int = 20
    repeats: int = 3
    score_batch: int = 16
    width: int = 16
    budget: float = 1.0
    epochs: int = 80
    batch_size: int = 32
    retokenization: str = "published"
    flip: bool = False
    base_stride: int | None = None

    def __post_init__(self) -> None:
        if self.seed >= 2**31:
            raise UserError(f"seed is {self.seed}; it must be below 2**31")
        size = (self.image_size, self.image_size)
        if self.base_stride is None:
            fitting = STRIDE if self.data_path is None else grids.base_stride(size)
            object.__setattr__(self, "base_stride", fitting)
        check_least(self, _LEAST)
        if self.width % PROXY_DIVISOR:
            raise UserError(f"width is {self.width}; it must be even, because growth scores at half of it")
        if not (self.budget > 0 and math.isfinite(self.budget)):
            raise UserError(f"budget is {self.budget}; it must be a number above 0 (millions of parameters)")
        if self.retokenization not in PRESETS:
            raise UserError(f"unknown retokenization {self.retokenization!r}; allowed are {', '.join(PRESETS)}")
        phases = len(fitting_phases(self.retokenization, size, self.base_stride or STRIDE))
        if self.epochs < phases:
            raise UserError(f"epochs is {self.epochs}; retokenization {self.retokenization!r} needs at least {phases}")
