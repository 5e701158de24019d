"""How long the rest of a training takes, from the blocks so far and the planned cost of every phase."""

from __future__ import annotations

import math
from collections.abc import Sequence

from asvit_tf.design.retokenization import Schedule
from asvit_tf.training.trainer import StepBlock

_POWER = 0.75


class Pace:
    """Seconds of a training step in every phase, as the last block of it had them.

    Args:
      schedule: Schedule of the training.
      total_steps: Steps of the training.
      macs: Multiply-accumulates of an image in every phase, in any unit. Seconds of a phase not seen yet go with a
        power of them: as between the last two phases seen, or 3/4. Of small networks it was seen to be 0.55, of Small
        at 224 nearly 1.
    """

    def __init__(self, schedule: Schedule, total_steps: int, macs: Sequence[float]):
        self._schedule = schedule
        self._total_steps = total_steps
        self._macs = macs
        self._warm: dict[int, float] = {}
        self._with_tracing: dict[int, float] = {}
        self._seen: list[int] = []  # Phases with a block that traced nothing, the last one last.

    def add(self, block: StepBlock) -> None:
        """Takes a block into account."""
        (self._with_tracing if block.traced else self._warm)[block.phase] = block.seconds / block.steps
        if not block.traced:
            self._seen = [phase for phase in self._seen if phase != block.phase] + [block.phase]

    def step_seconds(self, phase: int) -> float | None:
        """Seconds of a phase, by index; with tracing in it where nothing else is known; None before the first block."""
        if phase in self._warm:
            return self._warm[phase]
        if not self._seen:
            return self._with_tracing.get(phase)
        last, power = self._seen[-1], _POWER
        if len(self._seen) > 1 and self._macs[self._seen[-2]] != self._macs[last]:
            before = self._seen[-2]
            power = math.log(self._warm[last] / self._warm[before]) / math.log(self._macs[last] / self._macs[before])
        return self._warm[last] * (self._macs[phase] / self._macs[last]) ** max(0.0, power)

    def seconds_left(self, step: int) -> float | None:
        """Seconds of training from `step` on, without evaluations; None before the first block that traced nothing."""
        if not self._seen:
            return None
        ends = self._schedule.steps_per_phase(self._total_steps)
        trained = self._schedule.steps_per_phase(min(step, self._total_steps))
        return sum((end - done) * (self.step_seconds(i) or 0.0) for i, (end, done) in enumerate(zip(ends, trained)))
