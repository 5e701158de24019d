"""What a study depends on. No TensorFlow, so that a bad value is refused at once."""

from __future__ import annotations

import dataclasses
from typing import Any

from asvit_tf.choices import EMBEDDED, INITIALIZATIONS, LECUN, PUBLISHED, RELEASED, SPACES
from asvit_tf.design import grids
from asvit_tf.design.topology import MAX_WIDTH, STRIDE
from asvit_tf.errors import UserError
from search.runs.settings import check_least
from search.strategy import space
from search.strategy.settings import LEAST_HEAD_DIM
from search.strategy.space import Space

# How far a study goes: these may change between starts, and what is done stays.
EXTENT = ("topologies", "repeated_topologies", "seed_repeats", "draws")
LARGEST_SIDE = 1024
EARLIER = {"base_stride": STRIDE, "space": PUBLISHED, "initialization": RELEASED}  # As of `journals.workspace`.
_LEAST = {
    "topologies": 2,
    "epochs": 1,
    "image_size": 8,
    "base_stride": 1,
    "width": 8,  # Stage 1 has up to 8 heads, each of a channel at least.
    "batch_size": 1,
    "repeats": 1,
    "points": 3,
    "score_batch": 2,
    "seed": 0,
    "repeated_topologies": 0,
    "seed_repeats": 1,
    "draws": 100,
}
_MOST = {"image_size": LARGEST_SIDE, "width": MAX_WIDTH, "points": 10_000, "seed_repeats": 1000, "draws": 100_000}


@dataclasses.dataclass(frozen=True)
class StudySettings:
    """A directory holds results of one of these, but for `EXTENT`.

    Attributes:
      dataset: Embedded data set; None where there is a data path.
      data_path: Folder with one subfolder of images for each class.
      topologies: How many are sampled.
      epochs, batch_size, learning_rate: Settings of each training.
      initialization: How linear maps begin in each training, one of `choices.INITIALIZATIONS`; measures take both.
      gradient_clip_norm: Longest gradient of a training step, over all weights; 0 for no limit.
      image_size: Pixels per side, for measures and training.
      base_stride: Pixels between tokens; None becomes what fits the image size (`grids.base_stride`).
      space: "fitting", the part of the published space whose windows and heads fit the images (`space.fitting`), or
        "published", all of it.
      width: Channels of the first stage.
      repeats: Draws of weights and circles that a measure averages.
      points: Angles on a circle.
      score_batch: Images in an NTK.
      seed: Seed of topologies, weights, circles, images, splits and bootstrap; trainings use it and the seeds after it.
      repeated_topologies: How many of the topologies, from the first on, are trained with several seeds.
      seed_repeats: Seeds of those; 1 for none but the first.
      draws: Samples of the bootstrap.

    Raises:
      UserError: A value is out of range.
    """

    dataset: str | None = "cluttered_digits"
    data_path: str | None = None
    topologies: int = 100
    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 0.002
    initialization: str = LECUN
    gradient_clip_norm: float = 1.0
    image_size: int = 32
    base_stride: int | None = None
    space: str = SPACES[0]
    width: int = 32
    repeats: int = 3
    points: int = 10
    score_batch: int = 16
    seed: int = 8
    repeated_topologies: int = 10
    seed_repeats: int = 1
    draws: int = 2000

    def __post_init__(self) -> None:
        check_least(self, _LEAST)
        if self.base_stride is None:
            object.__setattr__(self, "base_stride", grids.base_stride(self.size))
        for name, allowed in (("space", SPACES), ("initialization", INITIALIZATIONS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"unknown {name} {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise UserError(f"{name} is {getattr(self, name)}; allowed are up to {most}")
        if self.topologies > self.sampled.size:
            raise UserError(f"topologies is {self.topologies}; the search space has {self.sampled.size}")
        if self.seed + self.seed_repeats > 2**31:
            raise UserError(f"seed is {self.seed}; with {self.seed_repeats} seed_repeats it must be below 2**31")
        if not 0 < self.learning_rate < float("inf"):
            raise UserError(f"learning_rate is {self.learning_rate}; it must be a number above 0")
        if not 0 <= self.gradient_clip_norm < float("inf"):
            raise UserError(f"gradient_clip_norm is {self.gradient_clip_norm}; it must be a number from 0")
        if (self.dataset is None) == (self.data_path is None):
            raise UserError("give either a dataset or a data_path")
        if self.dataset is not None and self.dataset not in EMBEDDED:
            raise UserError(
                f"unknown dataset {self.dataset!r}; embedded are {', '.join(EMBEDDED)}, and --data_path takes a folder "
                "with one subfolder of images for each class"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the images."""
        return self.image_size, self.image_size

    @property
    def stride(self) -> int:
        """`base_stride`."""
        assert self.base_stride is not None
        return self.base_stride

    @property
    def sampled(self) -> Space:
        """The topologies that are sampled.

        Raises:
          UserError: No heads of this width are wide enough.
        """
        if self.space == PUBLISHED:
            return dataclasses.replace(space.PUBLISHED, width=self.width)
        return space.fitting(self.size, self.stride, self.width, LEAST_HEAD_DIM)

    def identity(self) -> dict[str, Any]:
        """What must not change between starts."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in EXTENT}
