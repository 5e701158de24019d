"""Accuracy predicted from training-free measures, as a study has learned it. No TensorFlow.

A study trains its topologies once; what it learned is then a measure like the others, and nothing more is trained.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asvit_tf.errors import UserError
from search.study_names import BASELINES, measure_names
from search.study_statistics import ROUNDING

PREDICTED = "predicted_accuracy"
MOST = 0.8  # The share of topologies that a measure must be defined for.
RADIUS = "sqrt_n"  # Of a study's circles.
_PENALTIES = (1.0, 10.0, 100.0, 1000.0)

_WHOLE = ("images", "points", "width", "num_classes", "topologies")

Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Line:
    """Accuracy as a linear function of logarithms of measures.

    Attributes:
      names: Of the measures.
      slopes: Accuracy for a unit of each logarithm.
      constant: Accuracy where all logarithms are 0.
    """

    names: tuple[str, ...]
    slopes: tuple[float, ...]
    constant: float

    def measures(self) -> bool:
        """Whether it knows more than sizes."""
        return not set(self.names) <= set(BASELINES)

    def __call__(self, columns: Columns) -> np.ndarray:
        """Predictions, [n]; NaN where a measure is undefined or not above 0.

        Args:
          columns: [n] each.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithms = np.log(np.stack([np.asarray(columns[name], np.float64) for name in self.names], axis=1))
        predicted = logarithms @ np.array(self.slopes) + self.constant
        return np.where(np.isfinite(predicted), predicted, np.nan)


def usable(columns: Columns, names: Sequence[str], among: np.ndarray) -> tuple[str, ...]:
    """The names whose columns have a logarithm for most of the given topologies, and differ among these.

    What differs by the rounding of float32 networks only is as good as constant.
    """

    def good(column: np.ndarray) -> bool:
        known = column[among][_positive(column[among])]
        return len(known) >= max(2, MOST * len(among)) and np.ptp(np.log(known)) > ROUNDING

    return tuple(name for name in names if name in columns and good(columns[name]))


def _positive(column: np.ndarray) -> np.ndarray:
    return np.isfinite(column) & (column > 0)


def fit(columns: Columns, names: tuple[str, ...], accuracy: np.ndarray) -> tuple[Line, np.ndarray]:
    """Ridge regression of accuracy on logarithms, each scaled to unit deviation; leaving one out chooses the penalty.

    Args:
      columns: [n] each, positive, none constant.
      names: Of those to use; one at least.
      accuracy: [n].

    Returns:
      The line; and a prediction of each from the others, less the mean accuracy: from the residual e_i of the whole fit
      and the leverage h_i, accuracy_i - e_i / (1 - h_i). Were the mean left out with a topology too, predictions would
      fall where accuracies rise, for no other reason.
    """
    logarithms = np.log(np.stack([columns[name] for name in names], axis=1))
    centres, scales = logarithms.mean(axis=0), logarithms.std(axis=0)
    features, mean = (logarithms - centres) / scales, accuracy.mean()
    y = accuracy - mean
    fits = []
    for penalty in _PENALTIES:
        covariance = features.T @ features + penalty * np.eye(len(names))
        solution = np.linalg.solve(covariance, features.T)  # [names, n]
        residual = (y - features @ (solution @ y)) / (1 - np.einsum("if,fi->i", features, solution))
        fits.append((float(np.sum(residual**2)), solution @ y / scales, y - residual))
    _, slopes, left_out = min(fits, key=lambda found: found[0])
    return Line(names, tuple(map(float, slopes)), float(mean - centres @ slopes)), left_out


def fit_usable(
    columns: Columns, names: Sequence[str], accuracy: np.ndarray, among: np.ndarray
) -> tuple[Line, np.ndarray, np.ndarray] | None:
    """`fit` of the usable ones of these names, on those of the given topologies that have them all.

    Args:
      columns: [n] each.
      names: Candidates.
      accuracy: [n].
      among: Indices of topologies.

    Returns:
      The line, the predictions of each from the others, and the indices of the topologies it was fitted on; None if no
      name is usable, or too few topologies have all that are.
    """
    chosen = usable(columns, names, among)
    if not chosen:
        return None
    inside = among[np.all([_positive(columns[name][among]) for name in chosen], axis=0)]
    if len(inside) < MOST * len(among):
        return None
    return *fit({name: columns[name][inside] for name in chosen}, chosen, accuracy[inside]), inside


@dataclasses.dataclass(frozen=True)
class Predictor:
    """What a study leaves behind for searches.

    Attributes:
      line: Fitted on all of its topologies.
      image_size: H and W in pixels, that its measures are of.
      images: In its NTK.
      points: Angles on its circles.
      width: Of the first stage of the networks it was fitted on; they have one block a stage.
      num_classes: Of the networks whose sizes it knows.
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

    def as_dict(self) -> dict[str, Any]:
        """For `predictor.json`."""
        return dataclasses.asdict(self)

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
            if not names or len(set(names)) < len(names) or not set(names) <= {*measure_names(), *BASELINES}:
                raise ValueError("names")
            if len(names) != len(slopes) or not all(map(math.isfinite, (constant, *slopes))):
                raise ValueError("numbers")
            height, width = content["image_size"] = tuple(content["image_size"])
            whole = (height, width, *(content[name] for name in _WHOLE))
            if any(type(number) is not int or number < 1 for number in whole):
                raise ValueError("whole numbers")
            if not isinstance(content["evidence"], str) or "\n" in content["evidence"]:
                raise ValueError("evidence")
            return cls(Line(names, slopes, constant), **content)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(f"{path} is no predictor.json that asvit study wrote") from error

    def check(self, image_size: tuple[int, int], images: int, points: int, radius: str) -> None:
        """Refuses a search whose measures are of other images or circles than the study's.

        Raises:
          UserError: Naming what differs.
        """
        if tuple(image_size) != self.image_size:
            raise UserError(
                f"the predictor is of images of {self.image_size[0]} x {self.image_size[1]} pixels, not "
                f"{image_size[0]} x {image_size[1]}; set --image_size to that"
            )
        if images != self.images:
            raise UserError(f"the predictor's NTK is of {self.images} images, not {images}; set --batch_size to that")
        if points != self.points:
            raise UserError(f"the predictor's circles have {self.points} points, not {points}; set --points to that")
        if radius != RADIUS:
            raise UserError(f"the predictor's circles have radius {RADIUS}, not {radius}; set --radius to that")
