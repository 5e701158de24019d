"""Progressive re-tokenization as pure functions of the training step. No TensorFlow.

The stem's convolution kernel stays; its stride and dilation change on a schedule, so that early training sees few
coarse tokens and late training all of them. A phase is a span of steps with one tokenization. It may begin with a
transition, in which the tokenization before and its own train in turns.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from fractions import Fraction

from asvit_tf.design import grids
from asvit_tf.design.grids import ceil_div
from asvit_tf.design.topology import STRIDE
from asvit_tf.errors import UserError

# (share of all steps at which the phase ends, stride over the base stride). "published": the switches of the authors'
# figure, near epochs 80 and 132 of 300. "thirds": the three equal phases that give the 56.2 % of training FLOPs they
# state.
PRESETS: dict[str, tuple[tuple[Fraction, int], ...]] = {
    "none": ((Fraction(1), 1),),
    "published": ((Fraction(80, 300), 4), (Fraction(132, 300), 2), (Fraction(1), 1)),
    "thirds": ((Fraction(1, 3), 4), (Fraction(2, 3), 2), (Fraction(1), 1)),
}

# Length of a transition as a share of all steps; around a change, the old and the new tokenization train in turns.
TRANSITION_SHARE = 0.05
PERIOD = 16  # Steps in which each of the two tokenizations has one turn.

# Least tokens a side in a preset: what a network learns from fewer is of little use in the next phase
# (docs/benchmarks.md, "Stability").
LEAST_GRID = 4


@dataclasses.dataclass(frozen=True)
class Tokenization:
    """How the stem samples the image.

    Attributes:
      stride: Pixels between neighbouring tokens, >= 1; at the finest tokenization 4 for large images
        (`grids.base_stride`).
      dilation: Pixels between neighbouring taps of the kernel, >= 1. It need not divide the stride.
    """

    stride: int = STRIDE
    dilation: int = 1

    def __post_init__(self) -> None:
        for name in ("stride", "dilation"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name} is {value!r}; allowed are whole numbers from 1")

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

    With a transition of T steps and a period of P, the T steps around the end of a phase, half of them before it, are
    cut into n = T / P periods, rounded down, or into up to 4 shorter ones where that is more. In period i, counted from
    1, the first 1 - i / (n + 1) of the steps train with the tokenization of the phase before and the rest with that of
    the next. So its share rises evenly, each tokenization trains about as many steps as without a transition and has
    one traced program, and the tokenization of a step is a function of the step alone.

    Attributes:
      phases: At least one; `until` rises strictly and is None in the last phase only.
      transition: T, steps, >= 0; 0 changes at once, as published. It has to fit between its neighbours.
      period: P, steps, >= 2.

    Raises:
      UserError: The phases are empty or out of order, or a transition does not fit.
    """

    phases: tuple[Phase, ...]
    transition: int = 0
    period: int = PERIOD

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        for name, least in (("transition", 0), ("period", 2)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name} is {value!r}; allowed are whole numbers of steps from {least}")
        if not self.phases:
            raise UserError("a schedule needs at least one phase")
        ends = [phase.until for phase in self.phases]
        if self.phases[-1].until is not None or len(self.boundaries) < len(ends) - 1:
            raise UserError(f"phases end at steps {ends}; the last phase, and only the last, must have no end")
        if any(later <= earlier for earlier, later in itertools.pairwise((0, *self.boundaries))):
            raise UserError(f"phases end at steps {ends}; they must rise from above 0")
        room = _room(self.boundaries)
        if self.transition > room:
            raise UserError(
                f"a transition of {self.transition} steps does not fit these phases; allowed are up to {room}"
            )

    @classmethod
    def constant(cls, tokenization: Tokenization = Tokenization()) -> Schedule:
        """No re-tokenization: one phase without end."""
        return cls((Phase(None, tokenization),))

    @classmethod
    def preset(
        cls,
        name: str,
        total_steps: int,
        kernel_size: int,
        block: int = 1,
        transition: int | None = None,
        image_size: tuple[int, int] | None = None,
        base_stride: int | None = None,
    ) -> Schedule:
        """A preset of `PRESETS` over `total_steps`.

        Args:
          name: Name of the preset.
          total_steps: Steps of the whole training.
          kernel_size: Kernel size of the stem; it decides the dilations of all phases but the last, which has 1.
          block: Boundaries are rounded to multiples of it, and every phase gets at least one.
          transition: Steps; None for what `transition_steps` gives.
          image_size: Rows and columns; the phases are those of `fitting_phases`. None for those of a large image.
          base_stride: Of the last phase; the others are multiples of it. None for what fits the image size.

        Raises:
          UserError: Unknown name, or too few steps for every phase to have a block.
        """
        if name not in PRESETS:
            raise UserError(f"unknown schedule {name!r}; allowed are {', '.join(PRESETS)}")
        if base_stride is None:
            base_stride = STRIDE if image_size is None else grids.base_stride(image_size)
        *early, (_, last_stride) = fitting_phases(name, image_size, base_stride)
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
        # Undilated, as the backbone is evaluated and exported.
        phases.append(Phase(None, Tokenization(last_stride)))
        if transition is None:
            transition = transition_steps([phase.until for phase in phases if phase.until is not None], total_steps)
        return cls(tuple(phases), transition)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """First step of every phase but the first."""
        return tuple(phase.until for phase in self.phases if phase.until is not None)

    @property
    def final(self) -> Tokenization:
        """Tokenization of the last phase: that of evaluation and export."""
        return self.phases[-1].tokenization

    @property
    def settled(self) -> int:
        """The first step behind the last transition; from there on all train with the final tokenization."""
        return max(self.boundaries, default=0) + self.transition - self.transition // 2

    def phase_index(self, step: int) -> int:
        """Index of the phase whose tokenization step `step` trains with (steps count from 0)."""
        late = step + self.transition // 2
        index = bisect.bisect_right(self.boundaries, late)
        into = late - self.boundaries[index - 1] if index else self.transition
        if into >= self.transition:
            return index
        periods = max(1, min(4, self.transition // 4), self.transition // self.period)
        period = into * periods // self.transition
        begin, end = (-(-i * self.transition // periods) for i in (period, period + 1))
        return index - (into < begin + round((end - begin) * (1 - (period + 1) / (periods + 1))))

    def tokenization(self, step: int) -> Tokenization:
        """Tokenization of step `step` (steps count from 0)."""
        return self.phases[self.phase_index(step)].tokenization

    def changes(self, start: int, end: int) -> list[int]:
        """Steps after `start` and before `end` whose tokenization is not that of the step before."""
        return [step for step in range(start + 1, end) if self.phase_index(step) != self.phase_index(step - 1)]

    def steps_per_phase(self, total_steps: int) -> tuple[int, ...]:
        """Steps that train with the tokenization of every phase when training ends after `total_steps`."""
        edges = [0, *(min(boundary, total_steps) for boundary in self.boundaries), total_steps]
        steps = [later - earlier for earlier, later in itertools.pairwise(edges)]
        for index, boundary in enumerate(self.boundaries):
            start = boundary - self.transition // 2
            for step in range(start, min(start + self.transition, total_steps)):
                steps[index + (step >= boundary)] -= 1
                steps[self.phase_index(step)] += 1
        return tuple(steps)


def fitting_phases(
    name: str, image_size: tuple[int, int] | None, base_stride: int = STRIDE
) -> list[tuple[Fraction, int]]:
    """The phases of a preset for an image: (share of all steps at its end, stride).

    A stride that leaves fewer than `LEAST_GRID` tokens along a side gives way to the next finer one of the preset, the
    finest excepted, and phases that become equal are one.
    """
    phases: list[tuple[Fraction, int]] = []
    strides = [base_stride * multiple for _, multiple in PRESETS[name]]
    for (share, _), stride in zip(PRESETS[name], strides):
        if image_size is not None:
            finer = [s for s in strides if s <= stride and ceil_div(min(image_size), s) >= LEAST_GRID]
            stride = max(finer, default=min(strides))
        if phases and phases[-1][1] == stride:
            phases.pop()
        phases.append((share, stride))
    return phases


def transition_steps(boundaries: Sequence[int], total_steps: int, share: float = TRANSITION_SHARE) -> int:
    """Steps of each transition: a share of all, or as many as there is room for; none where that is less than 4.

    Raises:
      UserError: The share is not from 0 to 1.
    """
    if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share <= 1:
        raise UserError(f"retokenization.transition is {share!r}; allowed are shares of all steps from 0 to 1")
    room = min(_room(boundaries), 2 * (total_steps - boundaries[-1])) if boundaries else 0
    steps = min(round(share * total_steps), room)
    return steps if steps >= 4 else 0


def _room(boundaries: Sequence[int]) -> int:
    """Longest transition with which none overlaps another or begins before step 0."""
    between = [later - earlier for earlier, later in itertools.pairwise(boundaries)]
    return min([2 * boundaries[0], *between]) if boundaries else 0
