"""What a person sees of a training, on standard error: a line for every block and, on a terminal, a moving bar."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence

import tqdm

from asvit_tf.design.savings import PlannedPhase
from asvit_tf.training.display.log_file import LOGGER
from asvit_tf.training.display.pace import Pace
from asvit_tf.training.trainer import RetokenizingTrainer, StepBlock

_REFRESH_SECONDS = 1.0
_LINE_SECONDS = 1.0  # At the least between two lines on the screen; `log.txt` has all.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
# Of an evaluation, as far as a task has them.
_EVALUATED = ("validation_loss", "accuracy", "balanced_accuracy", "phase_accuracy", "AP", "mask_AP", "mean_iou")


def say(text: object) -> None:
    """A message on standard error, above a bar if there is one, and in `log.txt`."""
    tqdm.tqdm.write(str(text), file=sys.stderr)
    LOGGER.info("%s", text)


class Screen:
    """Reports blocks and evaluations; while a block runs, a thread moves the bar by the pace so far.

    The thread reads plain numbers of the trainer and asks the device for nothing, so it costs no time there. Where a
    block stands is an estimate; it never passes the block's end.

    Args:
      trainer: Whose blocks are reported.
      phases: The plan; empty where the task has no phases.
      shows: Write on standard error; else in `log.txt` only.
    """

    def __init__(self, trainer: RetokenizingTrainer, phases: Sequence[PlannedPhase], shows: bool):
        config = trainer.config
        self._trainer = trainer
        self._total_steps = config.trainer.train_steps
        self._batch_size = config.task.train_data.global_batch_size
        self._phases = len(trainer.schedule.phases)
        macs = [phase.macs for phase in phases] or [1] * self._phases
        self._pace = Pace(trainer.schedule, self._total_steps, macs)
        self._shows = shows
        self._shown_at = -_LINE_SECONDS
        self._loss = ""
        self._bar: tqdm.tqdm | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_moving, daemon=True)

    def begin(self, step: int) -> None:
        """Training begins at a step; on a terminal, the bar appears."""
        if step:
            self._say(f"continuing from step {step} of {self._total_steps}")
        if self._shows and sys.stderr.isatty() and step < self._total_steps:
            self._bar = tqdm.tqdm(
                total=self._total_steps, initial=step, desc="train", bar_format=_BAR, dynamic_ncols=True, leave=False
            )
            self._thread.start()

    def trained(self, block: StepBlock) -> None:
        """A block ended."""
        self._pace.add(block)
        self._loss = f"loss {block.metrics['training_loss']:.3f}"
        if self._bar is not None:
            self._bar.n = block.step  # Not a sum of steps: a training that is set back trains some of them again.
        line = self.line(block)
        now = time.monotonic()
        if now - self._shown_at >= _LINE_SECONDS or block.traced or block.step >= self._total_steps:
            self._shown_at = now
            self._say(line)
        else:
            LOGGER.info("%s", line)
        self.refresh()

    def line(self, block: StepBlock) -> str:
        """A block in words: where it ended, its phase, loss and accuracy, images a second, the time left."""
        width = len(str(self._total_steps))
        parts = [f"{block.step:>{width}}/{self._total_steps}"]
        if self._phases > 1:
            parts.append(f"phase {block.phase + 1}/{self._phases}")
        parts += [f"stride {block.stride}", f"loss {block.metrics['training_loss']:.4f}"]
        if "accuracy" in block.metrics:
            parts.append(f"accuracy {block.metrics['accuracy']:.4f}")
        rate = block.steps * self._batch_size / block.seconds
        parts.append(f"{rate:,.0f} images/s" + (" with tracing" if block.traced else ""))
        return "  ".join(filter(None, [*parts, self._left(block.step)]))

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """An evaluation ended."""
        known = [f"{name.replace('_', ' ')} {metrics[name]:.4f}" for name in _EVALUATED if name in metrics]
        self._say(f"evaluated at step {step}: {', '.join(known)}")

    def _say(self, text: str) -> None:
        if self._shows:
            say(text)
        else:
            LOGGER.info("%s", text)

    def _left(self, step: int) -> str:
        seconds = self._pace.seconds_left(step)
        return "" if seconds is None else f"{tqdm.tqdm.format_interval(round(seconds))} left"

    def refresh(self) -> None:
        """Moves the bar to where training stands now."""
        if self._bar is None:
            return
        running = self._trainer.running
        if running is None:
            state = "evaluating" if self._trainer.evaluating else ""
        else:
            pace = self._pace.step_seconds(running.phase)
            passed = int((time.perf_counter() - running.since) / pace) if pace and not running.traces else 0
            self._bar.n = running.step + min(passed, running.steps)
            state = f"{'tracing, then training' if running.traces else 'training'} at stride {running.stride}"
        parts = (self._left(self._bar.n), state, self._loss)
        self._bar.set_postfix_str(", ".join(filter(None, parts)), refresh=False)
        self._bar.refresh()

    def _keep_moving(self) -> None:
        while not self._ended.wait(_REFRESH_SECONDS):
            self.refresh()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._bar is not None:
            self._thread.join()
            self._bar.close()  # So that whatever is said next stands below the bar.
