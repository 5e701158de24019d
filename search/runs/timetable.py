"""`--hours`: how the time of a run is shared out. What was decided is written down, so that a killed run keeps to it.

A fifth goes to the design, and of that a third to the search; the training has the rest, but for what export and report
take. Growth ends when its time does, and leaves a family of sizes: the largest member is trained whose epochs, in the
time that is left, are as many as a training of so many images needs, and 40 at least; if none is small enough for that,
the smallest.
A machine is not evenly fast: where the training itself shows that its epochs will not fit, it gets another number of
them, at most twice.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asvit_tf.errors import PausedError, UserError
from asvit_tf.storage import write_json

LEAST_HOURS = 0.05
DESIGN_SHARE = 0.2
SEARCH_SHARE = 1 / 3  # Of the design's.
LEAST_STEPS, MOST_STEPS = 4, 200  # Of a search.
MOST_EPOCHS = 400  # More were never seen to help; a small data set would be trained on thousands of times.
END_SECONDS = 60.0  # Export, TFLite, latency and report: 22 to 60 s were seen on two cores.
_POWER = 0.5  # Of operations, that seconds go with until two networks were measured.
MOST_CHANGES = 2  # Of the epochs, while they are trained.
_CHANGE_SECONDS = 40.0  # To begin again at a checkpoint: 20 to 40 s were seen on two cores.
_TOLERATED = 0.04  # Of the run's time: what is expected to be over or under changes nothing.
_STRETCHED_UNTIL = 0.7  # Of the epochs; behind that the learning rate is too low to begin to rise again.
_RESERVE = 0.03  # Of what is left for the training: machines are not evenly fast.


def check(hours: float | None) -> None:
    """Refuses hours that nothing can be done in.

    Raises:
      UserError: They are fewer than `LEAST_HOURS`, or no number.
    """
    if hours is not None and not LEAST_HOURS <= hours < math.inf:
        raise UserError(f"hours is {hours}; it must be a number from {LEAST_HOURS}")


@dataclasses.dataclass(frozen=True)
class Choice:
    """A member of the family, and how long it is trained.

    Attributes:
      member: Its index.
      epochs: Of its training.
      seconds: That training and evaluations are expected to take.
    """

    member: int
    epochs: int
    seconds: float


def choose(
    macs: Sequence[float],
    training_seconds: Mapping[int, Callable[[int], float]],
    available_seconds: float,
    enough_epochs: int,
    least_epochs: int,
    is_asked: bool = False,
) -> Choice:
    """The member to train, and for how many epochs.

    Seconds go with a power of the operations: as between the two nearest of the measured members; where only one was
    measured 1/2, because small networks are bound by memory and by calls. Whoever chooses so measures what it chose.

    Args:
      macs: Multiply-accumulates of an image, by member, from the smallest to the largest network.
      training_seconds: Of the members that were measured, epochs to seconds of a training, evaluations and tracing
        included.
      available_seconds: For it.
      enough_epochs: As many as such a training needs.
      least_epochs: As few as the schedule allows.
      is_asked: Whether it has just `enough_epochs`, also where there is time for more, or for fewer only.
    """

    def seconds(member: int, epochs: int) -> float:
        near, *others = sorted(training_seconds, key=lambda i: abs(math.log(macs[i] / macs[member])))[:2]
        near_seconds, power = training_seconds[near](epochs), _POWER
        if others and macs[others[0]] != macs[near]:
            ratio = training_seconds[others[0]](epochs) / near_seconds
            power = max(0.0, math.log(ratio) / math.log(macs[others[0]] / macs[near]))
        return near_seconds * (macs[member] / macs[near]) ** power

    def affordable(member: int) -> int:
        low, high = least_epochs, max(MOST_EPOCHS, enough_epochs)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if seconds(member, middle) <= available_seconds else (low, middle - 1)
        return low

    fits = [member for member in range(len(macs)) if seconds(member, enough_epochs) <= available_seconds]
    member = max(fits, key=lambda i: macs[i]) if fits else 0
    epochs = enough_epochs if is_asked else affordable(member)
    return Choice(member, epochs, seconds(member, epochs))


class Timetable:
    """The time of one run, over all its starts.

    Args:
      path: Where decisions are written down; read if it is there.
      hours: Of the whole run.
      started: When this start began, of `time.monotonic`.
    """

    def __init__(self, path: Path, hours: float, started: float):
        self._path = path
        self._started = started
        self._kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self._before = self._kept.get("used_seconds", 0.0)
        self.total = 3600 * hours

    @property
    def used(self) -> float:
        """Seconds so far; of starts that were killed, up to the last `keep`."""
        return self._before + time.monotonic() - self._started

    def keep(self, **decided: Any) -> None:
        """Writes down the seconds so far, and what was decided."""
        self._kept |= {**decided, "used_seconds": self.used}
        write_json(self._path, self._kept)

    def base_stride(self, decide: Callable[[float], int]) -> int:
        """Pixels between tokens at the finest tokenization.

        Args:
          decide: Takes the seconds that training will about have; called where this was not decided before.
        """
        if "base_stride" not in self._kept:
            self.keep(base_stride=decide(self.total * (1 - DESIGN_SHARE) - END_SECONDS))
        return self._kept["base_stride"]

    def search_steps(self, seconds_of_a_score: Callable[[], float]) -> int:
        """Topologies that the search samples.

        Args:
          seconds_of_a_score: Measures it; called where this was not decided before.
        """
        if "search_steps" not in self._kept:
            seconds = seconds_of_a_score()
            affordable = self.total * DESIGN_SHARE * SEARCH_SHARE / max(seconds, 1e-3)
            steps = max(LEAST_STEPS, min(MOST_STEPS, int(affordable)))
            self.keep(search_steps=steps, seconds_of_a_score=seconds)
        return self._kept["search_steps"]

    def growth_ends(self, step_seconds: float) -> bool:
        """Whether a step of growth, expected to take so long, would end too late."""
        self.keep()
        return step_seconds > self.growth_left

    @property
    def growth_left(self) -> float:
        """Seconds until growth has to end."""
        return self.total * DESIGN_SHARE - self.used

    def choice(self, decide: Callable[[float], Choice]) -> Choice:
        """What is trained.

        Args:
          decide: Takes the seconds that training may have; called where this was not decided before.
        """
        if "choice" not in self._kept:
            left = (self.total - self.used - END_SECONDS) * (1 - _RESERVE)
            self.keep(choice=dataclasses.asdict(decide(left)))
        return Choice(**self._kept["choice"])

    @property
    def changes(self) -> int:
        """How often the epochs were changed while they were trained."""
        return len(self._kept.get("changed_epochs", []))

    @property
    def epochs(self) -> int:
        """Of the training, as they were chosen or changed."""
        return [self._kept["choice"]["epochs"], *self._kept.get("changed_epochs", [])][-1]

    def change(self, epochs: int) -> None:
        """Writes down that the training has another number of epochs."""
        self.keep(changed_epochs=[*self._kept.get("changed_epochs", []), epochs])


class EpochsChangedError(PausedError):
    """Ends a training that is to go on with another number of epochs.

    Attributes:
      epochs: Of the whole training.
    """

    def __init__(self, epochs: int):
        super().__init__(f"{epochs} epochs")
        self.epochs = epochs


class Pace:
    """Looks, behind every evaluation of a training, whether its epochs will fit; writes down the seconds so far.

    Args:
      table: Of the run.
      epochs: Of the training.
      epoch_steps: Steps of one.
      since: The step from which on all steps take alike: behind the last change of tokens.
      begun: The step at which this start of the training goes on; an evaluation there is before programs are traced.

    Raises:
      EpochsChangedError: When called: they will not.
    """

    def __init__(self, table: Timetable, epochs: int, epoch_steps: int, since: int, begun: int = 0):
        self._table = table
        self._epochs, self._epoch_steps, self._since, self._begun = epochs, epoch_steps, since, begun
        self._first: tuple[float, float] | None = None

    def __call__(self, step: int) -> None:
        self._table.keep()
        now, epoch = time.monotonic(), step / self._epoch_steps
        if step < self._since or step <= self._begun or epoch >= self._epochs or self._table.changes == MOST_CHANGES:
            return
        # What comes before the first evaluation has programs traced; one at an earlier step than that follows a loss of
        # devices.
        if self._first is None or epoch <= self._first[1]:
            self._first = now, epoch
            return
        began, at = self._first
        epoch_seconds = (now - began) / (epoch - at)
        left = self._table.total - self._table.used - END_SECONDS
        late = (self._epochs - epoch) * epoch_seconds - left
        if abs(late) < max(_TOLERATED * self._table.total, 1.5 * _CHANGE_SECONDS):
            return
        if late < 0 and epoch > _STRETCHED_UNTIL * self._epochs:
            return
        epochs = int(epoch) + max(1, int((left - _CHANGE_SECONDS) / epoch_seconds))
        if min(epochs, MOST_EPOCHS) != self._epochs:
            raise EpochsChangedError(min(epochs, MOST_EPOCHS))


def span(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
