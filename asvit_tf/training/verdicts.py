"""Is a training still learning? Judged from its blocks' losses alone. No TensorFlow.

A classifier that knows nothing of an image is best off predicting the classes' shares; its loss is their entropy, the
loss of guessing. A training whose loss was below it, is back there and stays, has lost what it learned.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any

# Shares of the loss of guessing, far enough apart that slow learning is not taken for a collapse.
_LEARNED = 0.9
_GUESSING = 0.97  # A collapsed network varies by a percent or two around 1.
_RISE = 0.2  # From observations before it to the last one; no noise.
_UNLEARNED_AFTER = 1 / 3  # Share of all steps at the loss of guessing after which learning will not start by itself.
_UNLEARNED_STEPS = 300  # The least number of such steps: every network begins at guessing.
_LEAST_STEPS = 20  # The least number of steps in an observation.
# A loss over few images is noisy: neither one observation nor a few steps prove a collapse.
_OBSERVATIONS = 3
_STAYS_STEPS = 200
_STAYS_SHARE = 0.01  # Share of all steps.

FACTOR = 1 / 3  # The learning rate is multiplied by this at each new try.


class Verdict(enum.Enum):
    """SOUND: learning, or too early to say. SUSPECT: at the loss of guessing after having learned, not yet for long;
    nothing of it should be saved. COLLAPSED: it stayed there. DIVERGED: the loss is not a number. UNLEARNED: it has not
    left guessing in a third of its steps."""

    SOUND = "sound"
    SUSPECT = "suspect"
    COLLAPSED = "the loss is back at that of guessing"
    DIVERGED = "the loss is not a number"
    UNLEARNED = "the loss has not left that of guessing"


@dataclasses.dataclass(frozen=True)
class Observation:
    """One block of steps.

    Attributes:
      step: Steps trained at its end.
      loss: Mean training loss over it, nats.
      guessing: The loss of guessing; None where there is none, as in detection: then only DIVERGED is found.
    """

    step: int
    loss: float
    guessing: float | None = None

    @property
    def ratio(self) -> float:
        """Loss in units of that of guessing; NaN where that is not known."""
        return self.loss / self.guessing if self.guessing else math.nan

    @property
    def sound(self) -> bool:
        """Finite, and not at the loss of guessing."""
        return math.isfinite(self.loss) and not self.ratio >= _GUESSING


def judge(history: Sequence[Observation], total_steps: int) -> Verdict:
    """What the blocks so far say about the last one.

    Args:
      history: In order of their steps; of steps trained twice, the later ones only.
      total_steps: Steps of the training. At the last one there is no time left to recover: two observations at
        guessing, or one whose loss rose by more than noise, are COLLAPSED then.
    """
    if not history:
        return Verdict.SOUND
    if not math.isfinite(history[-1].loss):
        return Verdict.DIVERGED
    step = history[-1].step
    if not _has_learned(history):
        late = step >= max(_UNLEARNED_AFTER * total_steps, _UNLEARNED_STEPS)
        return Verdict.UNLEARNED if late and all(not seen.sound for seen in history) else Verdict.SOUND
    sound = len(history)
    while sound and not history[sound - 1].sound:
        sound -= 1
    stayed = len(history) - sound
    if not stayed:
        return Verdict.SOUND
    least = max(_STAYS_STEPS, _STAYS_SHARE * total_steps)
    if stayed >= _OBSERVATIONS and step - history[sound - 1].step >= least:
        return Verdict.COLLAPSED
    if step < total_steps:
        return Verdict.SUSPECT
    before = [seen.ratio for seen in history[max(0, sound - _OBSERVATIONS) : sound]]
    fell = history[-1].ratio > sum(before) / len(before) + _RISE
    return Verdict.COLLAPSED if stayed > 1 or fell else Verdict.SOUND


def _has_learned(history: Sequence[Observation]) -> bool:
    """Whether the mean of three observations in a row was ever below `_LEARNED`."""
    return any(
        sum(seen.ratio for seen in history[i - _OBSERVATIONS : i]) < _LEARNED * _OBSERVATIONS
        for i in range(_OBSERVATIONS, len(history) + 1)
    )


def last_confirmed(history: Sequence[Observation]) -> int:
    """The last step at which the weights are known to have been sound: the observation behind it was.

    What an observation says of its own last steps is nothing: losses are those before each update.
    """
    sound = next((i for i in range(len(history) - 1, 0, -1) if history[i].sound), 0)
    return history[sound - 1].step if sound else 0


def observations(rows: Sequence[Mapping[str, Any]], steps_per_loop: int, total_steps: int) -> list[Observation]:
    """What to judge by: neighbouring rows of `savings.parse_blocks` joined, because means over a few steps are noise.

    Args:
      rows: With `step`, `steps`, `training_loss` and, in classification, `guessing_loss`; in order.
      steps_per_loop: Steps of a block; an observation has as many, but at least 20. What is left at the last step of
        the training is one, too.
      total_steps: Steps of the training.
    """
    least = max(steps_per_loop, _LEAST_STEPS)
    joined: list[Observation] = []
    steps, loss, guessing = 0, 0.0, 0.0
    for row in rows:
        steps += row["steps"]
        loss += row["steps"] * _number(row["training_loss"])
        guessing += row["steps"] * _number(row.get("guessing_loss"))
        if steps >= least or not math.isfinite(loss) or row["step"] >= total_steps:
            known = math.isfinite(guessing)
            joined.append(Observation(row["step"], loss / steps, guessing / steps if known else None))
            steps, loss, guessing = 0, 0.0, 0.0
    return joined


def _number(value: float | None) -> float:
    """NaN for None, which a file has where a loss was not finite, or was not measured."""
    return math.nan if value is None else value


@dataclasses.dataclass(frozen=True)
class Rollback:
    """A training that was set back.

    Attributes:
      step: At which it was noticed.
      restored: Step of the checkpoint that it went on from.
      reason: Value of the verdict.
      loss, guessing_loss: Losses of the last block; None where not finite or not known.
      factor: Factor of the learning rate from then on.
    """

    step: int
    restored: int
    reason: str
    loss: float | None
    guessing_loss: float | None
    factor: float

    def __str__(self) -> str:
        return (
            f"at step {self.step} {self.reason}; training went on from step {self.restored} at {self.factor:.2g} times "
            "the learning rate, with a new warm-up"
        )
