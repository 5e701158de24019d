"""Accuracy predicted from training-free measures, as a study has learned it. No TensorFlow.

A study trains its topologies once; what it learned is then a measure like the others, and nothing more is trained.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from asvit_tf.choices import PUBLISHED, SIZE_MEASURES, SPACES
from asvit_tf.design.topology import STRIDE
from asvit_tf.errors import UserError
from search.scoring.names import measure_names

RADIUS = "sqrt_n"  # Of a study's circles.

_WHOLE = ("images", "points", "width", "num_classes", "topologies")

Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Line:
    """Accuracy as a linear function of logarithms of measures.

    Attributes:
      names: Names of the measures.
      slopes: Accuracy for a unit of each logarithm.
      constant: Accuracy where all logarithms are 0.
    """

    names: tuple[str, ...]
    slopes: tuple[float, ...]
    constant: float

    def measures(self) -> bool:
        """Whether it knows more than sizes."""
        return not set(self.names) <= set(SIZE_MEASURES)

    def __call__(self, columns: Columns) -> np.ndarray:
        """Predictions, [n]; NaN where a measure is undefined or not above 0.

        Args:
          columns: [n] each.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithms = np.log(np.stack([np.asarray(columns[name], np.float64) for name in self.names], axis=1))
        predicted = logarithms @ np.array(self.slopes) + self.constant
        return np.where(np.isfinite(predicted), predicted, np.nan)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """What a study leaves behind for searches.

    Attributes:
      line: Fitted on all of its topologies.
      image_size: H and W in pixels, that its measures are of.
      base_stride: Pixels between tokens of its networks.
      space: One of `choices.SPACES`, of which they were sampled.
      images: In its NTK.
      points: Angles on its circles.
      width: First-stage width of the networks it was fitted on; they have one block a stage.
      num_classes: Classes of the networks whose sizes it knows.
      topologies: It was fitted on.
      evidence: One line: how such a line, fitted on one half of the topologies, ordered the other half.
    """

    line: Line
    image_size: tuple[int, int]
    images: int
    points: int
    width: int
    num_classes: int
    topologies: int
    evidence: str
    base_stride: int = STRIDE  # Earlier versions wrote neither.
    space: str = PUBLISHED

    def as_dict(self) -> dict[str, Any]:
        """For `predictor.json`."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """What results by it depend on; of an earlier version's file, what that version said."""
        later = {"base_stride": STRIDE, "space": PUBLISHED}
        return {name: value for name, value in self.as_dict().items() if (name, value) not in later.items()}

    @classmethod
    def read(cls, path: str) -> Predictor:
        """The predictor that a study wrote.

        Raises:
          UserError: There is none in this file.
        """
        try:
            content = json.loads(Path(path).read_text())
            line = content.pop("line")
            names, slopes, constant = tuple(line["names"]), tuple(map(float, line["slopes"])), float(line["constant"])
            if not names or len(set(names)) < len(names) or not set(names) <= {*measure_names(), *SIZE_MEASURES}:
                raise ValueError("names")
            if len(names) != len(slopes) or not all(map(math.isfinite, (constant, *slopes))):
                raise ValueError("numbers")
            height, width = content["image_size"] = tuple(content["image_size"])
            whole = (height, width, content.get("base_stride", STRIDE), *(content[name] for name in _WHOLE))
            if any(type(number) is not int or number < 1 for number in whole):
                raise ValueError("whole numbers")
            if content.get("space", PUBLISHED) not in SPACES:
                raise ValueError("space")
            if not isinstance(content["evidence"], str) or "\n" in content["evidence"]:
                raise ValueError("evidence")
            return cls(Line(names, slopes, constant), **content)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(f"{path} is no predictor.json that asvit study wrote") from error

    def check(self, image_size: tuple[int, int], base_stride: int, images: int, points: int, radius: str) -> None:
        """Refuses a search whose measures are of other images or circles than the study's.

        Raises:
          UserError: Naming what differs.
        """
        if tuple(image_size) != self.image_size:
            raise UserError(
                f"the predictor is of images of {self.image_size[0]} x {self.image_size[1]} pixels, not "
                f"{image_size[0]} x {image_size[1]}; set --image_size to that"
            )
        if base_stride != self.base_stride:
            raise UserError(
                f"the predictor is of networks with a base stride of {self.base_stride}, not {base_stride}; set "
                "--base-stride to that"
            )
        if images != self.images:
            raise UserError(f"the predictor's NTK is of {self.images} images, not {images}; set --batch_size to that")
        if points != self.points:
            raise UserError(f"the predictor's circles have {self.points} points, not {points}; set --points to that")
        if radius != RADIUS:
            raise UserError(f"the predictor's circles have radius {RADIUS}, not {radius}; set --radius to that")
