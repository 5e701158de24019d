"""The training-free score of a topology: a pure function of the topology, the settings and the images."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf import precision, traces
from asvit_tf.choices import PROXIES, SHAPE_MEASURES
from asvit_tf.design.topology import Topology
from asvit_tf.measures import complexity, ntk
from asvit_tf.modeling import initialization, reference_weights
from asvit_tf.modeling.backbone import AsViT
from search.scoring.networks import PublishedMeasures, network_of
from search.scoring.score import Clock, Score, summarize
from search.scoring.settings import ScoringSettings

_BENDING = ("curvature", "length_distortion_with_curvature", *SHAPE_MEASURES)


def circles(settings: ScoringSettings) -> list[complexity.Circle]:
    """The circle of every repeat, the same for all topologies."""
    return [
        complexity.Circle.random(
            settings.image_size, settings.points, np.random.default_rng([settings.seed, repeat]), settings.radius
        )
        for repeat in range(settings.repeats)
    ]


def weights_generator(settings: ScoringSettings, topology: Topology) -> np.random.Generator:
    """Draws a topology's weights: first the stem's, then the linear ones of each repeat."""
    return np.random.default_rng([settings.seed, zlib.crc32(str(topology).encode())])


class Probe:
    """One topology's network with its measures, traced once and used again for every draw of weights.

    Args:
      topology: Topology of the network.
      settings: How to measure.
      generator: Draws the stem's weights.
    """

    def __init__(self, topology: Topology, settings: ScoringSettings, generator: np.random.Generator):
        self.settings = settings
        inputs = tf_keras.layers.InputSpec(shape=[None, *settings.image_size, 3])
        self.backbone = AsViT(topology, inputs, position_embedding=False, base_stride=settings.base_stride)
        initialization.draw_stem(self.backbone, generator)
        self.measure_circle = complexity.compile_measure(
            self.features, acceleration=any(name in _BENDING for name in settings.measures), engine=settings.engine
        )
        self.gram_of = ntk.compile_gram(
            lambda images: reference_weights.pooled_features(self.backbone, images),
            reference_weights.ntk_variables(self.backbone),
        )

    def published(self, images: tf.Tensor) -> PublishedMeasures:
        """The measures of `choices.PROXIES`, on these images."""
        return PublishedMeasures(network_of(self.backbone), self.settings.seed, images)

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

    def __init__(self, settings: ScoringSettings, images: np.ndarray, profile: bool = False):
        settings.check_images(len(images))
        self.settings = settings
        self._profile = profile
        self._images = tf.constant(images, tf.float32)
        self._circles = circles(settings)

    def __call__(self, topologies: Sequence[Topology]) -> Iterator[Score]:
        return map(self.score, topologies)

    @precision.tensor_float_32(False)
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
            published = probe.published(self._images)
        if self._profile:
            self._warm_up(probe, published, clock)
        for number, circle in enumerate(self._circles):
            probe.draw(generator)
            for name, value, reason in self._repeat(probe, published, number, circle, clock):
                values[name].append(value)
                if reason is not None:
                    reasons[name] = reason
        return summarize(values, time.perf_counter() - start, reasons, clock.split())

    def _warm_up(self, probe: Probe, published: PublishedMeasures, clock: Clock) -> None:
        probe.draw(np.random.default_rng(self.settings.seed))
        for _ in self._repeat(probe, published, 0, self._circles[0], clock):
            pass
        forward = tf.function(probe.features, autograph=False)
        points = tf.constant(self._circles[0].path()[0], tf.float32)
        for _ in range(3):
            with clock("forward"):
                forward(points).numpy()

    def _repeat(
        self, probe: Probe, published: PublishedMeasures, number: int, circle: complexity.Circle, clock: Clock
    ) -> Iterator[tuple[str, float, str | None]]:
        """Name, value, and why it is undefined, of every measure for the present weights."""
        others = [name for name in self.settings.measures if name in PROXIES]
        along_circle = [name for name in self.settings.measures if name not in (*others, "ntk_condition_number")]
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
        yield from published.measure(others, number, self.settings.initialization, clock)
