"""Progressive re-tokenization as pure functions of the training step. No TensorFlow.

The stem's convolution kernel stays; its stride and dilation change on a schedule, so that early training sees few
coarse tokens and late training all of them. A phase is a span of steps with one tokenization.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from fractions import Fraction

from asvit_tf.errors import UserError
from asvit_tf.topology import STRIDE

# (share of all steps at which the phase ends, stride). "published": the switches of the authors' figure, near epochs
# 80 and 132 of 300. "thirds": the three equal phases that give the 56.2 % of training FLOPs they state.
PRESETS: dict[str, tuple[tuple[Fraction, int], ...]] = {
    "none": ((Fraction(1), 4),),
    "published": ((Fraction(80, 300), 16), (Fraction(132, 300), 8), (Fraction(1), 4)),
    "thirds": ((Fraction(1, 3), 16), (Fraction(2, 3), 8), (Fraction(1), 4)),
}


@dataclasses.dataclass(frozen=True)
class Tokenization:
    """How the stem samples the image.

    Attributes:
      stride: Pixels between neighbouring tokens, >= 4.
      dilation: Pixels between neighbouring taps of the kernel, >= 1. It need not divide the stride.
    """

    stride: int = STRIDE
    dilation: int = 1

    def __post_init__(self) -> None:
        for name, least in (("stride", STRIDE), ("dilation", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name} is {value!r}; allowed are whole numbers from {least}")

    @classmethod
    def auto(cls, stride: int, kernel_size: int) -> Tokenization:
        """The dilation whose kernel spans about one stride: `max(1, (stride - 1) // (kernel_size - 1))`.

        Source: gives the published pairs 16/5, 8/2, 4/1 for kernel size 4.
        """
        return cls(stride, max(1, (stride - 1) // max(kernel_size - 1, 1)))


@dataclasses.dataclass(frozen=True)
class Phase:
    """Training up to, not including, step `until` with one tokenization; `until=None` never ends."""

    until: int | None
    tokenization: Tokenization


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Phases in order; the last one never ends, and its tokenization is that of evaluation and export.

    Attributes:
      phases: At least one; `until` rises strictly and is None in the last phase only.

    Raises:
      UserError: The phases are empty or out of order.
    """

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        if not self.phases:
            raise UserError("a schedule needs at least one phase")
        ends = [phase.until for phase in self.phases]
        if self.phases[-1].until is not None or len(self.boundaries) < len(ends) - 1:
            raise UserError(f"phases end at steps {ends}; the last phase, and only the last, must have no end")
        if any(later <= earlier for earlier, later in itertools.pairwise((0, *self.boundaries))):
            raise UserError(f"phases end at steps {ends}; they must rise from above 0")

    @classmethod
    def constant(cls, tokenization: Tokenization = Tokenization()) -> Schedule:
        """No re-tokenization: one phase without end."""
        return cls((Phase(None, tokenization),))

    @classmethod
    def preset(cls, name: str, total_steps: int, kernel_size: int, block: int = 1) -> Schedule:
        """A preset of `PRESETS` over `total_steps`.

        Args:
          name: Of the preset.
          total_steps: Of the training.
          kernel_size: Of the stem, for its dilations.
          block: Boundaries are rounded to multiples of it, and every phase gets at least one.

        Raises:
          UserError: Unknown name, or too few steps for every phase to have a block.
        """
        if name not in PRESETS:
            raise UserError(f"unknown schedule {name!r}; allowed are {', '.join(PRESETS)}")
        *early, (_, last_stride) = PRESETS[name]
        phases = []
        blocks = 0
        for share, stride in early:
            blocks = max(round(share * total_steps / block), blocks + 1)
            phases.append(Phase(blocks * block, Tokenization.auto(stride, kernel_size)))
        if early and blocks * block >= total_steps:
            raise UserError(
                f"{total_steps} steps are too few for schedule {name!r}; "
                f"it needs more than {len(early) * block}, one block of {block} for each of its {len(early) + 1} phases"
            )
        return cls((*phases, Phase(None, Tokenization.auto(last_stride, kernel_size))))

    @property
    def boundaries(self) -> tuple[int, ...]:
        """First step of every phase but the first."""
        return tuple(phase.until for phase in self.phases if phase.until is not None)

    @property
    def final(self) -> Tokenization:
        """Tokenization of the last phase: that of evaluation and export."""
        return self.phases[-1].tokenization

    def phase_index(self, step: int) -> int:
        """Index of the phase that trains step `step` (steps count from 0)."""
        return bisect.bisect_right(self.boundaries, step)

    def tokenization(self, step: int) -> Tokenization:
        """Tokenization of step `step` (steps count from 0)."""
        return self.phases[self.phase_index(step)].tokenization

    def steps_per_phase(self, total_steps: int) -> tuple[int, ...]:
        """Steps that every phase trains when training ends after `total_steps`."""
        edges = [0, *(min(boundary, total_steps) for boundary in self.boundaries), total_steps]
        return tuple(later - earlier for earlier, later in itertools.pairwise(edges))
