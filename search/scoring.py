"""The training-free score of a topology: a pure function of the topology, the settings and the images."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf import complexity, initialization, ntk, reference_weights
from asvit_tf.backbone import AsViT
from asvit_tf.topology import Topology
from search.records import Journal

# +1: larger is better; -1: smaller is.
DIRECTIONS = {"length_distortion": 1, "ntk_condition_number": -1}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a score depends on besides the topology and the images.

    Attributes:
      image_size: H and W in pixels.
      repeats: Draws of weights and circles that are averaged.
      points: Angles on a circle.
      seed: Of weights and circles.
      radius: Of the circles, "sqrt_n" or "unit".
      initialization: "released" or "lecun".
      normalization: Of the network whose length distortion is measured, "identity" or "layer"; the NTK keeps its norms.
    """

    image_size: tuple[int, int] = (224, 224)
    repeats: int = 5
    points: int = 10
    seed: int = 8
    radius: str = "sqrt_n"
    initialization: str = "released"
    normalization: str = "identity"


@dataclasses.dataclass(frozen=True)
class Score:
    """The measures of one topology.

    Attributes:
      measures: Mean of each measure over the repeats in which it came out; None if it never did, and then the topology
        must not be ranked.
      failures: Repeats in which a measure was undefined, by measure.
      seconds: It took.
    """

    measures: dict[str, float | None]
    failures: dict[str, int]
    seconds: float


Scorer = Callable[[Topology], Score]


class TrainingFreeScorer:
    """Scores topologies by length distortion and NTK condition number.

    Every repeat draws linear weights anew and has its own circle; the repeats share the stem's weights and the images,
    and all topologies share the circles. Source: the released search code.

    Args:
      settings: How to measure.
      images: [B, H, W, 3], normalized; B >= 2.
    """

    def __init__(self, settings: Settings, images: np.ndarray):
        self.settings = settings
        self._images = tf.constant(images, tf.float32)
        self._circles = [
            complexity.Circle.random(
                settings.image_size, settings.points, np.random.default_rng([settings.seed, repeat]), settings.radius
            )
            for repeat in range(settings.repeats)
        ]

    def __call__(self, topology: Topology) -> Score:
        start = time.perf_counter()
        values = self._measure(topology)
        gc.collect()  # Traced programs refer to each other in circles; a search makes hundreds.
        return summarize(values, time.perf_counter() - start)

    def _measure(self, topology: Topology) -> dict[str, list[float]]:
        """Every measure in every repeat."""
        settings = self.settings
        generator = np.random.default_rng([settings.seed, zlib.crc32(str(topology).encode())])
        inputs = tf_keras.layers.InputSpec(shape=[None, *settings.image_size, 3])
        backbone = AsViT(topology, inputs, position_embedding=False)
        initialization.draw_stem(backbone, generator)
        measure_circle = complexity.compile_measure(
            lambda points: reference_weights.pooled_features(backbone, points, settings.normalization),
            acceleration=False,
            jit_compile=True,
        )
        gram_of = ntk.compile_gram(
            lambda images: reference_weights.pooled_features(backbone, images),
            reference_weights.ntk_variables(backbone),
        )
        values: dict[str, list[float]] = {name: [] for name in DIRECTIONS}
        for circle in self._circles:
            initialization.draw_linear(backbone, generator, settings.initialization)
            values["length_distortion"].append(measure_circle(circle).length_distortion)
            values["ntk_condition_number"].append(ntk.condition_number(gram_of(self._images)))
        return values


def summarize(values: dict[str, list[float]], seconds: float) -> Score:
    """The score of several repeats; a value that is not finite is counted as a failure and left out of the mean."""
    measures: dict[str, float | None] = {}
    failures = {}
    for name, repeats in values.items():
        finite = [value for value in repeats if np.isfinite(value)]
        measures[name] = statistics.fmean(finite) if finite else None
        if len(finite) < len(repeats):
            failures[name] = len(repeats) - len(finite)
    return Score(measures, failures, seconds)


class Remembered:
    """A scorer that measures no topology twice, also not after being killed and started again.

    Args:
      scorer: Does the measuring.
      path: Journal of the scores.
    """

    def __init__(self, scorer: Scorer, path: Path):
        self._scorer = scorer
        self._journal = Journal(path)
        self._scores = {row.pop("topology"): Score(**row) for row in map(dict, self._journal.rows)}

    def __call__(self, topology: Topology) -> Score:
        key = str(topology)
        if key not in self._scores:
            score = self._scorer(topology)
            self._journal.append({"topology": key, **dataclasses.asdict(score)})
            self._scores[key] = score
        return self._scores[key]
