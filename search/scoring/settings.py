"""What a training-free score depends on besides the topology and the images. No TensorFlow."""

from __future__ import annotations

import dataclasses

from asvit_tf.choices import (
    ENGINES,
    INITIALIZATIONS,
    NORMALIZATIONS,
    PREDICTED,
    PROXIES,
    RADII,
    RANKABLE,
    SEARCHED,
    SHAPE_MEASURES,
)
from asvit_tf.design.topology import STRIDE
from asvit_tf.errors import UserError
from search.scoring.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class ScoringSettings:
    """What a score depends on besides the topology and the images; checks itself.

    Attributes:
      image_size: H and W in pixels.
      repeats: Draws of weights and circles that are averaged, >= 1.
      points: Angles on a circle, >= 3.
      seed: Seed of weights and circles.
      radius: Radius of the circles, "sqrt_n" or "unit".
      initialization: "released" or "lecun".
      normalization: Norms of the network that maps the circle, "identity" or "layer"; the NTK keeps its norms, and so
        do the published measures but SynFlow, which never has them.
      measures: Which to compute.
      engine: How to differentiate along the circle, one of `choices.ENGINES`.
      predictor: Predictor of a study, for the measure `predicted_accuracy`; None where that is not measured.
      base_stride: Pixels between the tokens of the network that is scored.

    Raises:
      UserError: A value is unknown or out of range, or there is a predictor without its measure or the reverse.
    """

    image_size: tuple[int, int] = (224, 224)
    repeats: int = 5
    points: int = 10
    seed: int = 8
    radius: str = "sqrt_n"
    initialization: str = "released"
    normalization: str = "identity"
    measures: tuple[str, ...] = SEARCHED
    engine: str = "jet"
    predictor: Predictor | None = None
    base_stride: int = STRIDE

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("normalization", self.normalization, NORMALIZATIONS),
            ("initialization", self.initialization, INITIALIZATIONS),
            ("engine", self.engine, ENGINES),
            ("radius", self.radius, RADII),
            *(("measure", name, (*RANKABLE, *SHAPE_MEASURES)) for name in self.measures),
        ):
            if value not in allowed:
                raise UserError(f"unknown {name} {value!r}; allowed are {', '.join(allowed)}")
        if self.base_stride < 1:
            raise UserError(f"base_stride is {self.base_stride}; it must be at least 1")
        if self.repeats < 1:
            raise UserError(f"repeats is {self.repeats}; it must be at least 1")
        if self.points < 3:
            raise UserError(f"points is {self.points}; a circle needs at least 3")
        if PREDICTED in self.measures and self.predictor is None:
            raise UserError(f"{PREDICTED} needs a predictor: --predictor, the predictor.json of asvit study")
        if PREDICTED not in self.measures and self.predictor is not None:
            raise UserError(f"a predictor is given, but {PREDICTED} is not among the reward types")

    def check_images(self, images: int) -> None:
        """Refuses a number of images that the measures cannot be taken over, before any long work.

        Args:
          images: How many the NTK will have.

        Raises:
          UserError: They are too few, or the predictor was fitted on other images or circles.
        """
        if self.predictor is not None:
            self.predictor.check(self.image_size, self.base_stride, images, self.points, self.radius)
        if "ntk_condition_number" in self.measures and images < 2:
            raise UserError(f"the NTK needs at least 2 images, not {images}")
        for name in self.measures:
            if name in PROXIES and images < 2:
                raise UserError(f"{name} needs at least 2 images, not {images}")
