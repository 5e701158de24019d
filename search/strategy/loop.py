"""The search for a seed topology: a strategy proposes, training-free scores answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from asvit_tf.choices import SEARCH_STRATEGIES
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.journals import Journal
from asvit_tf.storage import write_json
from search.scoring.score import Scorer
from search.strategy.evolution import Chance, Evolution
from search.strategy.limits import Limits
from search.strategy.reinforce import Reinforce
from search.strategy.scalars import Scalars
from search.strategy.settings import SearchSettings
from search.strategy.space import PUBLISHED, Space
from search.strategy.strategy import DRAWS, Strategy

_OF_NAME: dict[str, Callable[[SearchSettings, Space], Strategy]] = dict(
    zip(SEARCH_STRATEGIES, (Reinforce, Evolution, Chance), strict=True)
)
_HOPELESS = 20  # The search ends when its first so many topologies cannot be scored.


def search(
    directory: Path,
    settings: SearchSettings,
    scorer: Scorer,
    limits: Limits,
    space: Space = PUBLISHED,
    progress: bool = False,
) -> dict:
    """Runs a search, or continues it: what `directory/trace.jsonl` holds is replayed without measuring.

    Args:
      directory: Owned by this process (`journals.workspace`).
      settings: Settings of the search.
      scorer: Scores topologies.
      limits: Topologies beyond them are not sampled.
      space: What is sampled from.
      progress: Show a progress bar on standard error.

    Returns:
      What `result.json` holds: the topology that the strategy found, its counts, how many samples failed, and how many
      topologies the space has.

    Raises:
      UserError: Not one topology could be scored, or hardly any is within the limits.
    """
    journal = Journal(directory / "trace.jsonl")
    scalars = Scalars(directory)
    strategy = _OF_NAME[settings.strategy](settings, space)
    # Limits that leave nothing are refused before a progress bar appears.
    _sample(strategy, space, settings.seed, 0, 0, limits)
    failed = 0
    total = settings.total_steps * settings.samples_per_step
    with tqdm.tqdm(total=total, desc="search", unit="topology", disable=not progress) as bar:
        for step in range(settings.total_steps):
            sampled = [
                _sample(strategy, space, settings.seed, step, sample, limits)
                for sample in range(settings.samples_per_step)
            ]
            rows = _rows(journal, step, list(map(space.topology_at, sampled)), scorer, limits)
            strategy.learn(sampled, rows)
            failed += sum(any(row["scores"].get(name) is None for name in settings.reward_types) for row in rows)
            for sample, row in enumerate(rows):
                if step * settings.samples_per_step + sample == len(journal.rows):
                    scalars.write(row, len(journal.rows))
                    journal.append(row)
                bar.update()
            done = (step + 1) * settings.samples_per_step
            if failed == done and (failed >= _HOPELESS or failed == total):
                hint = "; images that are all alike have no NTK condition number"
                raise UserError(
                    f"none of {failed} topologies could be scored (see {directory / 'trace.jsonl'})"
                    + (hint if "ntk_condition_number" in settings.reward_types else "")
                )
            best = strategy.best()
            shown = [f"best {space.topology_at(best)}"] if best else []
            bar.set_postfix_str(", ".join([*shown, *([f"{failed} failed"] if failed else [])]), refresh=False)
    topology = _within(strategy, space, limits)
    counts = dict(steps=settings.total_steps, failed=failed, space_size=space.size)
    result = dict(topology=str(topology), **counts, **_counts(topology, limits))
    write_json(directory / "result.json", result)
    return result


def _sample(strategy: Strategy, space: Space, seed: int, step: int, sample: int, limits: Limits) -> tuple[int, ...]:
    """Draws until a topology is within the limits."""
    generator = np.random.default_rng([seed, step, sample])
    for _ in range(DRAWS):
        indices = strategy.propose(generator)
        if limits.allow(space.topology_at(indices)):
            return indices
    raise UserError(f"of {DRAWS} topologies of the search space not one is within the limits; raise them")


def _within(strategy: Strategy, space: Space, limits: Limits) -> Topology:
    """The best topology that the strategy knows within the limits."""
    found = strategy.found(lambda indices: limits.allow(space.topology_at(indices)))
    if found is None:
        best = strategy.best()
        assert best is not None
        raise UserError(f"the search ended on {space.topology_at(best)}, which is beyond the limits; raise them")
    return space.topology_at(found)


def _rows(
    journal: Journal, step: int, topologies: Sequence[Topology], scorer: Scorer, limits: Limits
) -> list[dict[str, Any]]:
    """The rows of one step without what the policy adds: from the journal as far as it goes, then measured."""
    first = step * len(topologies)
    rows = [dict(row) for row in journal.rows[first : first + len(topologies)]]
    for row, topology in zip(rows, topologies):
        if row["topology"] != str(topology):
            raise UserError(
                f"step {step} replays as {topology}, but the trace has {row['topology']}: it was written by another "
                "version; choose another directory"
            )
    unknown = topologies[len(rows) :]
    for topology, score in zip(unknown, scorer(unknown) if unknown else ()):
        rows.append(
            dict(
                step=step,
                sample=len(rows),
                topology=str(topology),
                scores=score.measures,
                failures=score.failures,
                **_counts(topology, limits),
                seconds=score.seconds,
                split=score.split,
            )
        )
    return rows


def _counts(topology: Topology, limits: Limits) -> dict[str, int]:
    counted = limits.count(topology)
    return dict(parameters=counted.parameters, macs=counted.macs)
