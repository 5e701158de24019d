"""How long the rest of a training takes, from the blocks so far and the planned cost of every phase."""

from __future__ import annotations

from collections.abc import Sequence

from asvit_tf.design.retokenization import Schedule
from asvit_tf.training.trainer import StepBlock


class Pace:
    """Seconds of a training step in every phase, as the last block of it had them.

    Args:
      schedule: Schedule of the training.
      total_steps: Steps of the training.
      macs: Multiply-accumulates of an image in every phase, in any unit. A step of a phase not seen yet takes as much
        longer than one of the last phase seen as its operations are more.
    """

    def __init__(self, schedule: Schedule, total_steps: int, macs: Sequence[float]):
        self._schedule = schedule
        self._total_steps = total_steps
        self._macs = macs
        self._warm: dict[int, float] = {}
        self._with_tracing: dict[int, float] = {}
        self._last_warm: int | None = None

    def add(self, block: StepBlock) -> None:
        """Takes a block into account."""
        (self._with_tracing if block.traced else self._warm)[block.phase] = block.seconds / block.steps
        if not block.traced:
            self._last_warm = block.phase

    def step_seconds(self, phase: int) -> float | None:
        """Seconds of a phase, by index; with tracing in it where nothing else is known; None before the first block."""
        if phase in self._warm:
            return self._warm[phase]
        if self._last_warm is not None:
            return self._warm[self._last_warm] * self._macs[phase] / self._macs[self._last_warm]
        return self._with_tracing.get(phase)

    def seconds_left(self, step: int) -> float | None:
        """Seconds of training from `step` on, without evaluations; None before the first block that traced nothing."""
        if self._last_warm is None:
            return None
        ends = self._schedule.steps_per_phase(self._total_steps)
        trained = self._schedule.steps_per_phase(min(step, self._total_steps))
        return sum((end - done) * (self.step_seconds(i) or 0.0) for i, (end, done) in enumerate(zip(ends, trained)))
