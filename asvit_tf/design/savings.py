"""What re-tokenization saves: planned from the schedule alone, and measured from a training's blocks. No TensorFlow."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from asvit_tf.design import counting
from asvit_tf.design.retokenization import Schedule
from asvit_tf.design.topology import Topology

BLOCKS_FILE = "blocks.jsonl"


@dataclasses.dataclass(frozen=True)
class PlannedPhase:
    """What one phase will cost.

    Attributes:
      stride, dilation: Its tokenization.
      token_grid: Rows and columns of tokens in the first stage.
      steps: Number of steps.
      macs: Multiply-accumulates of one forward pass of one image.
      share: Its share of the training's multiply-accumulates.
    """

    stride: int
    dilation: int
    token_grid: tuple[int, int]
    steps: int
    macs: int
    share: float


def plan(
    topology: Topology,
    schedule: Schedule,
    total_steps: int,
    image_size: tuple[int, int],
    num_classes: int,
    **options: Any,
) -> list[PlannedPhase]:
    """The cost of every phase (`options` as for `counting.count`)."""
    steps = schedule.steps_per_phase(total_steps)
    counts = [
        counting.count(topology, image_size, num_classes, stride=phase.tokenization.stride, **options)
        for phase in schedule.phases
    ]
    total = sum(count.macs * number for count, number in zip(counts, steps))
    return [
        PlannedPhase(
            stride=phase.tokenization.stride,
            dilation=phase.tokenization.dilation,
            token_grid=count.stages[0].token_grid,
            steps=number,
            macs=count.macs,
            share=count.macs * number / total if total else 0.0,
        )
        for phase, count, number in zip(schedule.phases, counts, steps)
    ]


def planned_saving(phases: Sequence[PlannedPhase]) -> float:
    """Share of training multiply-accumulates saved against training every step at the last phase's cost.

    1 - sum(macs * steps) / (macs of the last phase * all steps), between 0 and 1.
    """
    steps = sum(phase.steps for phase in phases)
    return 1 - sum(phase.macs * phase.steps for phase in phases) / (phases[-1].macs * steps) if steps else 0.0


def plan_in_words(phases: Sequence[PlannedPhase]) -> str:
    """A table of the plan, a line for each phase, and the saving below."""
    lines = [f"{'stride':>6}{'dilation':>10}{'tokens':>11}{'steps':>10}{'MACs an image':>17}{'share':>8}"]
    for phase in phases:
        tokens = f"{phase.token_grid[0]} x {phase.token_grid[1]}"
        lines.append(
            f"{phase.stride:>6}{phase.dilation:>10}{tokens:>11}{phase.steps:>10}{phase.macs:>17,}{phase.share:>8.1%}"
        )
    return "\n".join([*lines, f"re-tokenization saves {planned_saving(phases):.1%} of training MACs"])


@dataclasses.dataclass(frozen=True)
class PhaseTime:
    """What one phase cost.

    Attributes:
      stride, dilation: Its tokenization.
      steps: Steps trained in it.
      step_seconds: Median (the upper one) over the blocks that traced nothing; NaN if there was none.
      warm_seconds: `steps * step_seconds`.
      trace_seconds: Time of the tracing blocks beyond that.
    """

    stride: int
    dilation: int
    steps: int
    step_seconds: float
    warm_seconds: float
    trace_seconds: float


def parse_blocks(text: str) -> list[dict]:
    """The rows of a `blocks.jsonl`, in order; of steps trained twice, as after a kill, the later ones.

    Rows of an earlier version have no `phase`; there each change of tokenization begins one.
    """
    rows: list[dict] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # Empty, or left unfinished by a killed run.
        while rows and rows[-1]["step"] > row["step"] - row["steps"]:
            rows.pop()
        if "phase" not in row:
            before = rows[-1] if rows else row
            changed = any(before.get(name) != row.get(name) for name in ("stride", "dilation"))
            row["phase"] = before.get("phase", 0) + changed
        rows.append(row)
    return rows


def _phase(block: Mapping) -> int:
    return block["phase"]


def phase_times(blocks: Sequence[Mapping]) -> list[PhaseTime]:
    """Warm training time and tracing time of every phase, from the rows of `parse_blocks`."""
    times = []
    # By phase, not by tokenization: a schedule may come back to one. In a transition two phases have turns.
    for _, group in itertools.groupby(sorted(blocks, key=_phase), _phase):
        members = list(group)
        warm = sorted(block["seconds"] / block["steps"] for block in members if not block["traced"])
        step_seconds = warm[len(warm) // 2] if warm else float("nan")
        tracing = [block for block in members if block["traced"]]
        times.append(
            PhaseTime(
                members[0]["stride"],
                members[0]["dilation"],
                steps=sum(block["steps"] for block in members),
                step_seconds=step_seconds,
                warm_seconds=step_seconds * sum(block["steps"] for block in members),
                trace_seconds=sum(block["seconds"] - step_seconds * block["steps"] for block in tracing),
            )
        )
    return times


def measured_saving(times: Sequence[PhaseTime]) -> float:
    """Share of warm training time saved against training every step at the last phase's step time; NaN if unknown."""
    if not times:
        return float("nan")
    return 1 - sum(time.warm_seconds for time in times) / (times[-1].step_seconds * sum(time.steps for time in times))


def summary(phases: Sequence[PlannedPhase], blocks: Sequence[Mapping]) -> dict[str, Any]:
    """Plan and measurement side by side, for JSON."""
    times = phase_times(blocks)
    finished = bool(times) and (times[-1].stride, times[-1].dilation) == (phases[-1].stride, phases[-1].dilation)
    return dict(
        planned=[dataclasses.asdict(phase) for phase in phases],
        planned_saving=planned_saving(phases),
        measured=[dataclasses.asdict(time) for time in times],
        measured_saving=measured_saving(times) if finished else None,
        trace_seconds=sum(time.trace_seconds for time in times),
    )
