"""Training-free measures of any network behind one interface, and the programs that they share.

A measure is a function in a file of `asvit_tf/measures/proxies/`, registered by `@measure`. It gets a `Run` (a network,
images, labels, a seed) and the results of the passes that it names, and returns a number; `UndefinedError` where there
is none for this network and these images, a `UserError` where there can be none.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from asvit_tf import choices
from asvit_tf.errors import UserError

ATTENTION, FFN, STEM, OTHER, HEAD = ROLES = ("attention", "ffn", "stem", "other", "head")


class UndefinedError(Exception):
    """Why a measure has no value for a network, in words; reported, never ranked."""


class Trace(NamedTuple):
    """What a network computes from images [B, H, W, 3].

    Attributes:
      features: [B, C], what a classifier's head is given.
      outputs: The output of every block, by name and in order, [B, ..., C]; tokens may lie on any axes between.
      gates: What activation functions are given, by name, [B, ..., units].
      entries: What enters the block of that name, where it is not the output before; [B, ..., C].
    """

    features: tf.Tensor
    outputs: Mapping[str, tf.Tensor] = {}
    gates: Mapping[str, tf.Tensor] = {}
    entries: Mapping[str, tf.Tensor] = {}


class Kernel(NamedTuple):
    """A weight of a linear map, [..., inputs, outputs], and which of `ROLES` it has."""

    variable: tf.Variable
    role: str


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network as measures see it.

    Attributes:
      call: Images [B, H, W, 3] float32 to a `Trace`, each row a function of its own image only; traced once, then used
        for all values of the variables.
      kernels: The weights of all linear maps before the head; the features depend on each.
      others: All other variables: biases, scales of norms, embeddings.
      head: Weights of the linear map to logits [C, classes], without a bias; None where there are no logits.
      bare: The same as `call` with every norm left out; None where that cannot be had.
    """

    call: Callable[[tf.Tensor], Trace]
    kernels: Sequence[Kernel]
    others: Sequence[tf.Variable] = ()
    head: tf.Variable | None = None
    bare: Callable[[tf.Tensor], Trace] | None = None

    @property
    def weights(self) -> list[Kernel]:
        """The kernels, and the head where there is one."""
        return [*self.kernels, *([] if self.head is None else [Kernel(self.head, HEAD)])]

    @property
    def variables(self) -> list[tf.Variable]:
        """Of `weights`."""
        return [kernel.variable for kernel in self.weights]

    def logits(self, features: tf.Tensor) -> tf.Tensor:
        """[B, C] to [B, classes].

        Raises:
          UserError: The network has no head.
        """
        if self.head is None:
            raise UserError("the network has no head, and a measure of logits needs one: a variable [C, classes]")
        return features @ self.head


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A network with its present weights, and what it is measured on.

    Attributes:
      network: The network.
      images: [B, H, W, 3] float32.
      labels: [B] int64, or None.
      seed: Of what a measure draws.
      traced: A program of the network, from what builds it; built once.
    """

    network: Network
    images: tf.Tensor
    labels: tf.Tensor | None
    seed: int
    traced: Callable[[Callable[[Network], Callable]], Callable]


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """A computation that several measures share, done once for a run.

    Attributes:
      compute: From a run to its result.
      within: Another pass that has the result too; where that is needed anyway, this one costs nothing.
      taken: The result from that of `within`.
    """

    compute: Callable[[Run], Any]
    within: Pass | None = None
    taken: Callable[[Any], Any] = lambda result: result


@dataclasses.dataclass(frozen=True)
class Measure:
    """A registered measure.

    Attributes:
      name: One of `choices.PROXIES`, which also says which way is better.
      source: The paper that defines it.
      function: From a run and the results of the passes to a number.
      passes: What it shares with others.
      labelled: It needs labels.
      least_images: It needs.
    """

    name: str
    source: str
    function: Callable[..., float]
    passes: tuple[Pass, ...]
    labelled: bool
    least_images: int

    def check(self, run: Run) -> None:
        """Refuses what it is not defined for.

        Raises:
          UserError: Too few images, or labels that are absent, all alike or of no class of the head.
        """
        images = run.images.shape[0]
        if images < self.least_images:
            raise UserError(f"{self.name} needs at least {self.least_images} images, not {images}")
        if not self.labelled:
            return
        if run.labels is None:
            raise UserError(f"{self.name} needs a label for each image")
        labels = run.labels.numpy()
        if labels.shape != (images,):
            raise UserError(f"{self.name} needs a label for each of the {images} images, not {labels.size}")
        if len(np.unique(labels)) < 2:
            raise UserError(f"{self.name} needs labels of at least 2 classes; all {images} are {labels[0]}")
        classes = math.inf if run.network.head is None else run.network.head.shape[1]
        if labels.min() < 0 or labels.max() >= classes:
            raise UserError(f"labels are {labels.min()} to {labels.max()}; the head has classes 0 to {classes - 1}")


class Measured(NamedTuple):
    """The value of a measure; NaN, and why, where there is none. Seconds of the measure and of the passes it shares."""

    value: float
    reason: str | None
    seconds: float


MEASURES: dict[str, Measure] = {}


def measure(
    name: str, source: str, passes: Sequence[Pass] = (), labelled: bool = False, least_images: int = 1
) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Registers a function as a measure; arguments as of `Measure`.

    Raises:
      ValueError: `choices.PROXIES` does not have the name, or two measures do.
    """
    if name not in choices.PROXIES or name in MEASURES:
        raise ValueError(f"{name}: a measure has one line in asvit_tf/choices.py, PROXIES, and one file")

    def register(function: Callable[..., float]) -> Callable[..., float]:
        MEASURES[name] = Measure(name, source, function, tuple(passes), labelled, least_images)
        return function

    return register


class Programs:
    """The programs of one network, traced once and used again for other weights, images, labels and seeds.

    Args:
      network: The network.
    """

    def __init__(self, network: Network):
        self.network = network
        self._traced: dict[Callable, Callable] = {}

    def _program(self, build: Callable[[Network], Callable]) -> Callable:
        if build not in self._traced:
            self._traced[build] = build(self.network)
        return self._traced[build]

    def measure(
        self,
        names: Iterable[str],
        images: np.ndarray | tf.Tensor,
        labels: Sequence[int] | np.ndarray | None = None,
        seed: int = 0,
    ) -> dict[str, Measured]:
        """Measures by name, for the present weights, which are afterwards what they were.

        Args:
          names: Of `MEASURES`.
          images: [B, H, W, 3].
          labels: [B], numbers of classes from 0; needed by measures of a loss.
          seed: Of what a measure draws, from 0 to 2**31 - 1.

        Raises:
          UserError: A name is unknown, or a measure is not defined for this network, these images or labels.
        """
        chosen = [_measure_of(name) for name in names]
        numbers = None if labels is None else tf.constant(np.asarray(labels), tf.int64)
        run = Run(self.network, tf.convert_to_tensor(images, tf.float32), numbers, seed, self._program)
        for one in chosen:
            one.check(run)
        results = _Results(run, {shared for one in chosen for shared in one.passes})
        return {one.name: results.measured(one) for one in chosen}


class _Results:
    """The passes of a run, each done when it is first asked for."""

    def __init__(self, run: Run, needed: set[Pass]):
        self._run, self._needed = run, needed
        self._done: dict[Pass, tuple[Any, float]] = {}

    def measured(self, one: Measure) -> Measured:
        shared = [self._of(each) for each in one.passes]
        start = time.perf_counter()
        reason = None
        try:
            value = float(one.function(self._run, *(result for result, _ in shared)))
        except UndefinedError as error:
            value, reason = math.nan, str(error)
        except np.linalg.LinAlgError as error:
            value, reason = math.nan, f"a decomposition failed: {error}"
        if not math.isfinite(value):
            value, reason = math.nan, reason or "the result is not finite"
        return Measured(value, reason, time.perf_counter() - start + sum(seconds for _, seconds in shared))

    def _of(self, shared: Pass) -> tuple[Any, float]:
        if shared not in self._done:
            if shared.within in self._needed:
                result, seconds = self._of(shared.within)
                self._done[shared] = shared.taken(result), seconds
            else:
                start = time.perf_counter()
                result = shared.compute(self._run)
                self._done[shared] = result, time.perf_counter() - start
        return self._done[shared]


def _measure_of(name: str) -> Measure:
    from asvit_tf.measures import proxies  # Registers all; they import this file.

    proxies.load()
    if name not in MEASURES:
        raise UserError(f"unknown measure {name!r}; allowed are {', '.join(MEASURES)}")
    return MEASURES[name]
