"""Scores with the accuracy that a study's predictor expects, beside the measures that searches know anyway."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from asvit_tf.choices import PREDICTED, SIZE_MEASURES
from asvit_tf.design.topology import Topology
from search.scoring.battery import Battery
from search.scoring.predictor import Predictor
from search.scoring.score import Score
from search.scoring.settings import ScoringSettings
from search.scoring.sizes import sizes
from search.scoring.training_free import TrainingFreeScorer


class PredictingScorer:
    """Scores topologies by `predicted_accuracy`, and by the other measures of the settings.

    Args:
      settings: How to measure; with a predictor.
      images: [B, H, W, 3], normalized; as many, and as large, as the predictor is of.

    Raises:
      UserError: Settings that cannot be measured.
    """

    def __init__(self, settings: ScoringSettings, images: np.ndarray):
        settings.check_images(len(images))
        assert settings.predictor is not None
        self._predictor: Predictor = settings.predictor
        others = tuple(name for name in settings.measures if name != PREDICTED)
        plain = dataclasses.replace(settings, measures=others, predictor=None)
        self._others = TrainingFreeScorer(plain, images) if others else None
        self._battery = Battery(plain, images)
        self._names = settings.measures

    def __call__(self, topologies: Sequence[Topology]) -> Iterator[Score]:
        return map(self.score, topologies)

    def score(self, topology: Topology) -> Score:
        """Scores one topology; a prediction from a measure that is undefined is undefined."""
        start = time.perf_counter()
        score = self._others.score(topology) if self._others is not None else Score({}, {}, 0.0)
        battery = self._battery.score(topology)
        used = self._predictor.line.names
        counted = sizes(self._predictor.image_size, topology, self._predictor.num_classes, self._predictor.base_stride)
        values = {**battery.measures, **{name: float(counted[name]) for name in SIZE_MEASURES}}
        columns = {name: np.array([math.nan if values[name] is None else values[name]]) for name in used}
        predicted = float(self._predictor.line(columns)[0])
        measures: dict[str, float | None] = {**score.measures, PREDICTED: predicted}
        failures, reasons = dict(score.failures), dict(score.reasons)
        if not math.isfinite(predicted):
            undefined = [name for name in used if not (columns[name] > 0).all()]
            measures[PREDICTED], failures[PREDICTED] = None, 1
            reasons[PREDICTED] = "; ".join(f"{name}: {battery.reasons.get(name, 'not above 0')}" for name in undefined)
        return Score(
            {name: measures[name] for name in self._names},
            failures,
            time.perf_counter() - start,
            {**score.errors, PREDICTED: None},
            reasons,
            {**score.split, "predicting": battery.seconds},
        )


def scorer_of(settings: ScoringSettings, images: np.ndarray) -> TrainingFreeScorer | PredictingScorer:
    """The scorer that the measures of the settings need."""
    return (PredictingScorer if PREDICTED in settings.measures else TrainingFreeScorer)(settings, images)
