"""Every training-free measure of a topology or another network, in every variant, from programs that are traced once.

A measure's name says its variant: `length_distortion:lecun:identity` is the length distortion with LeCun weights and
the norms off. The weights and circles of a repeat are those of `training_free`, so each number is the one that a
search with those settings would see. The NTK with norms off is the exception: no search takes it. Published measures
have one variant, that of a search with released weights, and bear their plain name.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from asvit_tf import precision, traces
from asvit_tf.choices import CIRCLE_MEASURES, INITIALIZATIONS, NORMALIZATIONS, NTK_MEASURES
from asvit_tf.design.topology import Topology
from asvit_tf.measures import complexity, ntk
from asvit_tf.measures.registry import Network
from asvit_tf.modeling import initialization, reference_weights
from search.scoring.names import measure_names, name_of
from search.scoring.networks import PublishedMeasures, network_of
from search.scoring.score import Clock, Score, summarize
from search.scoring.settings import ScoringSettings
from search.scoring.training_free import Probe, circles, weights_generator


class Subject(Protocol):
    """A network that can be measured: its weights are drawn again and again, its norms can be off."""

    def features(self, images: tf.Tensor, normalization: str) -> tf.Tensor:
        """[n, H, W, 3] to [n, C]: what is measured along the circle, and what the NTK is of."""

    def ntk_variables(self, normalization: str) -> list[tf.Variable]:
        """The variables that the NTK is over; the features depend on each."""

    def network(self) -> Network:
        """The same as published measures see it."""

    def draw_stem(self, generator: np.random.Generator) -> None:
        """Redraws what maps pixels to tokens."""

    def draw_linear(self, generator: np.random.Generator, scheme: str) -> None:
        """Redraws everything else, by one of `choices.INITIALIZATIONS`."""


class _Searched:
    """A topology's network."""

    def __init__(self, topology: Topology, settings: ScoringSettings):
        self._backbone = Probe(topology, settings, np.random.default_rng(settings.seed)).backbone

    def features(self, images: tf.Tensor, normalization: str) -> tf.Tensor:
        return reference_weights.pooled_features(self._backbone, images, normalization)

    def ntk_variables(self, normalization: str) -> list[tf.Variable]:
        return reference_weights.ntk_variables(self._backbone, normalization)

    def network(self) -> Network:
        return network_of(self._backbone)

    def draw_stem(self, generator: np.random.Generator) -> None:
        initialization.draw_stem(self._backbone, generator)

    def draw_linear(self, generator: np.random.Generator, scheme: str) -> None:
        initialization.draw_linear(self._backbone, generator, scheme)


class Battery:
    """Scores topologies, and other networks, by all measures.

    Args:
      settings: How to measure; `initialization`, `normalization` and `measures` are ignored, because all are taken.
      images: [B, H, W, 3], normalized, for the NTK and published measures; B >= 2.
      published: Measures of `choices.PROXIES` to take besides.

    Raises:
      UserError: Settings that cannot be measured.
    """

    def __init__(self, settings: ScoringSettings, images: np.ndarray, published: Sequence[str] = ()):
        settings.check_images(len(images))
        self._settings = settings
        self._published = published
        self._circles = circles(settings)
        self._images = tf.constant(images, tf.float32)

    def score(self, topology: Topology) -> Score:
        """The measures by name; `split` holds the seconds by program, tracing included."""
        return self.measure(
            lambda: _Searched(topology, self._settings), lambda: weights_generator(self._settings, topology)
        )

    @precision.tensor_float_32(False)
    @traces.forgotten()
    def measure(self, build: Callable[[], Subject], generator_of: Callable[[], np.random.Generator]) -> Score:
        """The measures of any network, as of a topology.

        Args:
          build: Builds the network.
          generator_of: A generator of its weights; each scheme draws from the same stream.
        """
        start = time.perf_counter()
        clock = Clock()
        values: dict[str, list[float]] = {name: [] for name in (*measure_names(), *self._published)}
        reasons: dict[str, str] = {}

        def keep(name: str, value: float, reason: str | None) -> None:
            values[name].append(value)
            if not math.isfinite(value):
                reasons[name] = reason or "not finite"

        with clock("build"):
            subject = build()
            programs = _Programs(subject, self._settings, self._images)
        for scheme in INITIALIZATIONS:
            generator = generator_of()
            subject.draw_stem(generator)
            for number, circle in enumerate(self._circles):
                subject.draw_linear(generator, scheme)
                for normalization in NORMALIZATIONS:
                    for measure, value, reason in itertools.chain(
                        programs.along(circle, normalization, clock),
                        programs.kernel(self._images, normalization, clock),
                    ):
                        keep(name_of(measure, scheme, normalization), value, reason)
                if scheme == INITIALIZATIONS[0]:
                    for measured in programs.published.measure(self._published, number, scheme, clock):
                        keep(*measured)
        return summarize(values, time.perf_counter() - start, reasons, clock.totals())


class _Programs:
    """One network, with a program along the circle and one for the kernel for each normalization, and those of the
    published measures."""

    def __init__(self, subject: Subject, settings: ScoringSettings, images: tf.Tensor):
        self.published = PublishedMeasures(subject.network(), settings.seed, images)

        def features(normalization: str) -> Callable[[tf.Tensor], tf.Tensor]:
            return lambda images: subject.features(images, normalization)

        self._along = {n: complexity.compile_measure(features(n), engine=settings.engine) for n in NORMALIZATIONS}
        self._gram = {n: ntk.compile_gram(features(n), subject.ntk_variables(n)) for n in NORMALIZATIONS}

    def along(
        self, circle: complexity.Circle, normalization: str, clock: Clock
    ) -> Iterator[tuple[str, float, str | None]]:
        """Name, value, and why it is undefined, of every measure along the circle for the present weights."""
        with clock(f"circle:{normalization}"):
            measured = self._along[normalization](circle)
        for measure in CIRCLE_MEASURES:
            of_turning = measure == "turning_number"
            value = getattr(measured, "length_distortion_with_curvature" if of_turning else measure)
            yield measure, complexity.turning_number(value) if of_turning else value, measured.undefined

    def kernel(self, images: tf.Tensor, normalization: str, clock: Clock) -> Iterator[tuple[str, float, str | None]]:
        """The same for the NTK."""
        with clock(f"ntk:{normalization}"):
            gram = self._gram[normalization](images)
        condition_number, reason = ntk.condition_number_or_reason(gram)
        values = (condition_number, float(np.trace(gram)), ntk.effective_rank(gram))
        yield from ((measure, value, reason) for measure, value in zip(NTK_MEASURES, values))
