"""The training-free score of a topology: a pure function of the topology, the settings and the images."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf import autodiff, complexity, initialization, ntk, reference_weights, traces
from asvit_tf.backbone import NORMALIZATIONS, AsViT
from asvit_tf.errors import UserError
from asvit_tf.topology import Topology
from search.predictor import PREDICTED, Predictor
from search.records import Journal

# +1: larger is better; -1: smaller is. The signs of the first three are those of their published correlation with
# accuracy (0.49, -0.49, and -0.01, which says nothing: more turning counts as better).
DIRECTIONS = {
    "length_distortion": 1,
    "curvature": -1,
    "length_distortion_with_curvature": 1,
    "ntk_condition_number": -1,
}
REWARDS = {**DIRECTIONS, PREDICTED: 1}  # What searches may rank by.
SEARCHED = ("length_distortion", "ntk_condition_number")
# Of the shape of the image: reported, not ranked.
SHAPE = ("nonlinearity", "axis_ratio")
_BENDING = ("curvature", "length_distortion_with_curvature", *SHAPE)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a score depends on besides the topology and the images.

    Attributes:
      image_size: H and W in pixels.
      repeats: Draws of weights and circles that are averaged, >= 1.
      points: Angles on a circle, >= 3.
      seed: Of weights and circles.
      radius: Of the circles, "sqrt_n" or "unit".
      initialization: "released" or "lecun".
      normalization: Of the network that the circle goes through, "identity" or "layer"; the NTK keeps its norms.
      measures: Which to compute.
      engine: How to differentiate along the circle, one of `autodiff.ENGINES`.
      predictor: Of a study, for the measure `predicted_accuracy`.
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

    def check(self, images: int) -> None:
        """Refuses what cannot be measured, before any long work.

        Args:
          images: How many the NTK will have.

        Raises:
          UserError: A value is unknown or out of range.
        """
        for name, value, allowed in (
            ("normalization", self.normalization, NORMALIZATIONS),
            ("initialization", self.initialization, initialization.SCHEMES),
            ("engine", self.engine, autodiff.ENGINES),
            ("radius", self.radius, complexity.RADII),
            *(("measure", name, (*REWARDS, *SHAPE)) for name in self.measures),
        ):
            if value not in allowed:
                raise UserError(f"unknown {name} {value!r}; allowed are {', '.join(allowed)}")
        if self.repeats < 1:
            raise UserError(f"repeats is {self.repeats}; it must be at least 1")
        if self.points < 3:
            raise UserError(f"points is {self.points}; a circle needs at least 3")
        if PREDICTED in self.measures:
            if self.predictor is None:
                raise UserError(f"{PREDICTED} needs a predictor: --predictor, the predictor.json of asvit study")
            self.predictor.check(self.image_size, images, self.points, self.radius)
        elif self.predictor is not None:
            raise UserError(f"a predictor is given, but {PREDICTED} is not among the reward types")
        if "ntk_condition_number" in self.measures and images < 2:
            raise UserError(f"the NTK needs at least 2 images, not {images}")


@dataclasses.dataclass(frozen=True)
class Score:
    """The measures of one topology.

    Attributes:
      measures: Mean of each measure over the repeats; None if it was undefined in one of them, and then the topology
        must not be ranked.
      failures: Repeats in which a measure was undefined, by measure.
      seconds: It took.
      errors: Standard error of each mean; None for one repeat.
      reasons: Why a measure was undefined, by measure.
      split: Seconds by cost: `trace` (building, and what first passes took beyond warm ones), `measures` and `ntk`
        (warm, one repeat), and `forward` if it was profiled.
    """

    measures: dict[str, float | None]
    failures: dict[str, int]
    seconds: float
    errors: dict[str, float | None] = dataclasses.field(default_factory=dict)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    split: dict[str, float] = dataclasses.field(default_factory=dict)


def circles(settings: Settings) -> list[complexity.Circle]:
    """The circle of every repeat, the same for all topologies."""
    return [
        complexity.Circle.random(
            settings.image_size, settings.points, np.random.default_rng([settings.seed, repeat]), settings.radius
        )
        for repeat in range(settings.repeats)
    ]


def weights_generator(settings: Settings, topology: Topology) -> np.random.Generator:
    """Draws a topology's weights: first the stem's, then the linear ones of each repeat."""
    return np.random.default_rng([settings.seed, zlib.crc32(str(topology).encode())])


# Scores topologies, in their order; lazily, so that each can be kept as soon as it is there.
Scorer = Callable[[Sequence[Topology]], Iterator[Score]]


class Probe:
    """One topology's network with its measures, traced once and used again for every draw of weights.

    Args:
      topology: Of the network.
      settings: How to measure.
      generator: Draws the stem's weights.
    """

    def __init__(self, topology: Topology, settings: Settings, generator: np.random.Generator):
        self.settings = settings
        inputs = tf_keras.layers.InputSpec(shape=[None, *settings.image_size, 3])
        self.backbone = AsViT(topology, inputs, position_embedding=False)
        initialization.draw_stem(self.backbone, generator)
        self.measure_circle = complexity.compile_measure(
            self.features, acceleration=any(name in _BENDING for name in settings.measures), engine=settings.engine
        )
        self.gram_of = ntk.compile_gram(
            lambda images: reference_weights.pooled_features(self.backbone, images),
            reference_weights.ntk_variables(self.backbone),
        )

    def features(self, images: tf.Tensor) -> tf.Tensor:
        """[n, H, W, 3] to [n, C]: what is measured along the circle."""
        return reference_weights.pooled_features(self.backbone, images, self.settings.normalization)

    def draw(self, generator: np.random.Generator) -> None:
        """Draws all weights but the stem's."""
        initialization.draw_linear(self.backbone, generator, self.settings.initialization)


class TrainingFreeScorer:
    """Scores topologies without training them.

    Every repeat draws linear weights anew and has its own circle; the repeats share the stem's weights and the images,
    and all topologies share the circles. Source: the released search code.

    Args:
      settings: How to measure.
      images: [B, H, W, 3], normalized; B >= 2.
      profile: Take one repeat more, first and only for its time, so that the seconds of the others are warm; and time a
        forward pass over the points of a circle.

    Raises:
      UserError: Settings that cannot be measured.
    """

    def __init__(self, settings: Settings, images: np.ndarray, profile: bool = False):
        settings.check(len(images))
        self.settings = settings
        self._profile = profile
        self._images = tf.constant(images, tf.float32)
        self._circles = circles(settings)

    def __call__(self, topologies: Sequence[Topology]) -> Iterator[Score]:
        return map(self.score, topologies)

    @traces.forgotten()
    def score(self, topology: Topology) -> Score:
        """Scores one topology."""
        start = time.perf_counter()
        clock = Clock()
        values: dict[str, list[float]] = {name: [] for name in self.settings.measures}
        reasons: dict[str, str] = {}
        generator = weights_generator(self.settings, topology)
        with clock("build"):
            probe = Probe(topology, self.settings, generator)
        if self._profile:
            self._warm_up(probe, clock)
        for circle in self._circles:
            probe.draw(generator)
            for name, value, reason in self._repeat(probe, circle, clock):
                values[name].append(value)
                if reason is not None:
                    reasons[name] = reason
        return summarize(values, time.perf_counter() - start, reasons, clock.split())

    def _warm_up(self, probe: Probe, clock: Clock) -> None:
        probe.draw(np.random.default_rng(self.settings.seed))
        for _ in self._repeat(probe, self._circles[0], clock):
            pass
        forward = tf.function(probe.features, autograph=False)
        points = tf.constant(self._circles[0].path()[0], tf.float32)
        for _ in range(3):
            with clock("forward"):
                forward(points).numpy()

    def _repeat(self, probe: Probe, circle: complexity.Circle, clock: Clock) -> Iterator[tuple[str, float, str | None]]:
        """Name, value, and why it is undefined, of every measure for the present weights."""
        along_circle = [name for name in self.settings.measures if name != "ntk_condition_number"]
        if along_circle:
            with clock("measures"):
                measured = probe.measure_circle(circle)
            for name in along_circle:
                value = getattr(measured, name)
                yield name, value, None if np.isfinite(value) else measured.undefined
        if "ntk_condition_number" in self.settings.measures:
            with clock("ntk"):
                gram = probe.gram_of(self._images)
            yield "ntk_condition_number", *ntk.condition_number_or_reason(gram)


class Clock:
    """Seconds of every call, by name."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}
        self._processor = time.process_time()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds.setdefault(name, []).append(time.perf_counter() - start)

    def totals(self) -> dict[str, float]:
        """Seconds of all calls by name; and, as `processor`, the processor's since the clock was made, of all threads.

        Where other work shares the cores, the latter says better what a thing costs.
        """
        totals = {name: sum(seconds) for name, seconds in self._seconds.items()}
        return {**totals, "processor": time.process_time() - self._processor}

    def split(self) -> dict[str, float]:
        """Warm seconds of a call by name, and, as `trace`, all that first calls took beyond that."""
        split = {"trace": 0.0}
        for name, (first, *warm) in self._seconds.items():
            if name != "build":
                split[name] = statistics.median(warm) if warm else first
            split["trace"] += max(first - split.get(name, 0.0), 0.0)
        return split


def summarize(
    values: dict[str, list[float]],
    seconds: float,
    reasons: dict[str, str] | None = None,
    split: dict[str, float] | None = None,
) -> Score:
    """The score of several repeats; a measure that is not finite in one of them has no mean, and is counted."""
    measures: dict[str, float | None] = {}
    errors: dict[str, float | None] = {}
    failures = {}
    for name, repeats in values.items():
        undefined = len(repeats) - sum(map(math.isfinite, repeats))
        measures[name] = None if undefined else statistics.fmean(repeats)
        spread = not undefined and len(repeats) > 1
        errors[name] = statistics.stdev(repeats) / len(repeats) ** 0.5 if spread else None
        if undefined:
            failures[name] = undefined
    return Score(measures, failures, seconds, errors, reasons or {}, split or {})


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

    def __call__(self, topologies: Sequence[Topology]) -> Iterator[Score]:
        keys = [str(topology) for topology in topologies]
        new = [key for key in dict.fromkeys(keys) if key not in self._scores]
        fresh = zip(new, self._scorer([Topology.parse(key) for key in new])) if new else iter(())
        for key in keys:
            while key not in self._scores:
                measured, score = next(fresh)
                self._journal.append({"topology": measured, **dataclasses.asdict(score)})
                self._scores[measured] = score
            yield self._scores[key]
