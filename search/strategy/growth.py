"""Growth of a seed topology, in depth and width, into a family of sizes (Algorithm 2).

Every step tries one more block in each stage times several wider widths, scores the candidates at a fraction of their
width, and keeps the one whose ranks by length distortion and by NTK condition number add up to the least. Source: the
released search code; its tie rule takes the smaller value of either measure, which is wrong for length distortion;
we take the better one. Candidates with a failed measure are counted and not ranked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tqdm

from asvit_tf.design.topology import MAX_WIDTH, NUM_STAGES, Topology
from asvit_tf.errors import UserError
from asvit_tf.journals import Journal
from asvit_tf.storage import write_json
from search.scoring.score import Scorer
from search.strategy.limits import Limits
from search.strategy.ranking import choose
from search.strategy.scalars import Scalars
from search.strategy.settings import GrowthSettings

WIDTH_FACTORS = (1.05, 1.1, 1.15, 1.2)


def candidates(topology: Topology, settings: GrowthSettings, limits: Limits) -> list[Topology]:
    """One more block in one stage, times one of the wider widths; without duplicates, and within the limits.

    Widths are rounded at the proxy's width and therefore stay multiples of the divisor.
    """
    proxy_width = topology.width // settings.proxy_divisor
    widths = dict.fromkeys(round(proxy_width * factor) * settings.proxy_divisor for factor in WIDTH_FACTORS)
    grown = []
    for stage in range(NUM_STAGES):
        depths = tuple(depth + (index == stage) for index, depth in enumerate(topology.depths))
        grown += [topology.scaled(width, depths) for width in widths if width <= MAX_WIDTH]
    return [candidate for candidate in grown if limits.allow(candidate)]


def expected_candidates(seed_topology: Topology, settings: GrowthSettings, limits: Limits) -> int:
    """About how many candidates a growth will score: as if each step took the middle one by parameters."""
    topology, total = settings.start(seed_topology), 0
    while limits.count(topology).parameters < settings.stop_parameters:
        tried = sorted(candidates(topology, settings, limits), key=lambda candidate: limits.count(candidate).parameters)
        if not tried:
            break
        total += len(tried)
        topology = tried[len(tried) // 2]
    return total


def grow(
    directory: Path,
    seed_topology: Topology,
    settings: GrowthSettings,
    scorer: Scorer,
    limits: Limits,
    progress: bool = False,
    stop: Callable[[int], bool] | None = None,
) -> dict:
    """Grows the family, or continues: steps that `directory/trace.jsonl` holds are not repeated.

    Args:
      directory: Owned by this process (`journals.workspace`).
      seed_topology: Whose choices are kept; growth starts at one block a stage and `settings.width`.
      settings: Where it starts and ends.
      scorer: Scores topologies; give it one that remembers, and a step that was killed continues inside.
      limits: Candidates beyond them are dropped.
      progress: Show a progress bar on standard error.
      stop: Ends the growth, asked before each step that is not in the journal, with the number of its candidates.

    Returns:
      What `result.json` holds: `family`, every member from the first to the last with its counts and scores, and
      `topology`, the last.

    Raises:
      UserError: Not one candidate of a step could be scored.
    """
    journal = Journal(directory / "trace.jsonl")
    scalars = Scalars(directory)
    topology = settings.start(seed_topology)
    counted = limits.count(topology)
    family = [dict(topology=str(topology), parameters=counted.parameters, macs=counted.macs, scores=None)]
    with tqdm.tqdm(desc="grow", unit="candidate", disable=not progress) as bar:
        while counted.parameters < settings.stop_parameters:
            step = len(family) - 1
            if step == len(journal.rows):
                tried = candidates(topology, settings, limits)
                if not tried or (stop is not None and stop(len(tried))):
                    break
                bar.reset(total=len(tried))
                bar.set_description(f"grow step {step + 1}, {counted.parameters / 1e6:.2f} M")
                row = _step(step, tried, settings, scorer, limits, bar)
                scalars.write(row, step)
                journal.append(row)
            row = journal.rows[step]
            topology = Topology.parse(row["topology"])
            counted = limits.count(topology)
            family.append({name: row[name] for name in ("topology", "parameters", "macs", "scores")})
    result = dict(topology=str(topology), family=family)
    write_json(directory / "result.json", result)
    return result


def _step(
    step: int, tried: Sequence[Topology], settings: GrowthSettings, scorer: Scorer, limits: Limits, bar: tqdm.tqdm
) -> dict:
    """Scores all candidates and returns the row of the chosen one."""
    start = time.perf_counter()
    scored = []
    failed = 0
    for candidate, score in zip(tried, scorer([settings.proxy(candidate) for candidate in tried])):
        values = {name: value for name, value in score.measures.items() if value is not None}
        if len(values) == len(score.measures):
            scored.append((candidate, values))
        else:
            failed += 1
        bar.update()
    if not scored:
        raise UserError(f"none of the {failed} candidates of growth step {step + 1} could be scored")
    chosen, measures = scored[choose([measures for _, measures in scored])]
    counted = limits.count(chosen)
    return dict(
        step=step,
        topology=str(chosen),
        parameters=counted.parameters,
        macs=counted.macs,
        scores=measures,
        failed=failed,
        candidates=[dict(topology=str(candidate), scores=scores) for candidate, scores in scored],
        seconds=time.perf_counter() - start,
    )
