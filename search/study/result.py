"""From the rows of a study to its result: every measure against the accuracy. No TensorFlow."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asvit_tf.choices import INITIALIZATIONS, NORMALIZATIONS, PROXIES, SIZE_MEASURES
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.tasks import baselines
from search.scoring.names import RANK_SUM, SEARCHED_VARIANTS, column_names, direction, in_words, measure_names
from search.scoring.predictor import Predictor
from search.scoring.sizes import sizes
from search.study import regression
from search.study import selection as study_selection
from search.study.explained import explained
from search.study.selection import RIDGES
from search.study.settings import StudySettings
from search.study.statistics import MIN_RANKED, correlation, noise, regret, relative_range, resamples

Row = dict[str, Any]


def without_guessing(rows: Sequence[Row], shares: Sequence[float]) -> list[Row]:
    """The rows, with trainings that learned nothing marked as failed: `accuracy` becomes None, `failed` says why.

    Args:
      rows: With `accuracy` and `loss` on held-out images.
      shares: Shares of the classes in these images.
    """

    def checked(row: Row) -> Row:
        if row["loss"] is None or not baselines.guesses(row["accuracy"], row["loss"], shares):
            return row
        reason = f"learned nothing: accuracy {row['accuracy']:.3f}, loss {row['loss']:.3f}, that of guessing"
        return {**row, "accuracy": None, "failed": {**row["failed"], "training": reason}}

    return list(map(checked, rows))


def accuracies(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Accuracies of all rows, [n], from 0 to 1; NaN where training failed."""
    return np.array([math.nan if row["accuracy"] is None else row["accuracy"] for row in rows])


def columns_of(settings: StudySettings, rows: Sequence[Row], num_classes: int) -> dict[str, np.ndarray]:
    """Every measure and baseline of all rows, [n] each, in the order of the table; NaN where undefined."""
    topologies = (Topology.parse(row["topology"]) for row in rows)
    counts = [sizes(settings.size, topology, num_classes, settings.stride) for topology in topologies]
    columns = {name: np.array([count[name] for count in counts], np.float64) for name in SIZE_MEASURES}
    for name in column_names():
        values = (row["measures"].get(name) for row in rows)
        columns[name] = np.array([math.nan if value is None else value for value in values])
    columns[RANK_SUM] = study_selection.rank_sum(columns, SEARCHED_VARIANTS, tuple(map(direction, SEARCHED_VARIANTS)))
    return columns


def summarize(
    settings: StudySettings, rows: Sequence[Row], repeats: Sequence[Row], columns: Mapping[str, np.ndarray]
) -> Row:
    """The result of a study.

    Args:
      settings, rows, repeats: Settings and rows of the study; rows of all topologies, in their order.
      columns: From `columns_of`.

    Returns:
      `topologies`, `trained`: how many; `failed`: topology, seed, part and reason of each that failed; `accuracy`:
      mean, least, most, best topology; `noise`: see `study_statistics.Noise`; `measures`: by name, `tau`, its 95 %
      `interval`, `spearman`, `regret` (top 5), `direction`, `ranked` and `undefined` topologies with `reasons`,
      `reason` where there is no tau, `relative_range` and `seconds` a topology; `explained`: which choices explain the
      accuracy (see there); `selection`: see `study_selection.held_out`; `seconds` a topology, by part.

    Raises:
      UserError: Fewer than three trainings ended well.
    """
    accuracy = accuracies(rows)
    trained = int(np.isfinite(accuracy).sum())
    failed = _failed(settings, rows, repeats)
    if trained < min(MIN_RANKED, len(rows)):
        reasons = "; ".join(sorted({failure["reason"] for failure in failed}))
        raise UserError(f"{trained} of {len(rows)} topologies could be trained: {reasons}")
    weights = resamples(len(rows), settings.draws, settings.seed)
    split = noise(accuracy, _repeated(rows, repeats), settings.draws, settings.seed)
    return dict(
        settings=dataclasses.asdict(settings),
        topologies=len(rows),
        trained=trained,
        failed=failed,
        accuracy=dict(
            mean=float(np.nanmean(accuracy)),
            least=float(np.nanmin(accuracy)),
            most=float(np.nanmax(accuracy)),
            best=rows[int(np.nanargmax(accuracy))]["topology"],
        ),
        noise=dataclasses.asdict(split),
        measures={
            name: dict(
                **dataclasses.asdict(correlation(column, accuracy, weights)),
                regret=regret(column, accuracy, direction(name)),
                direction=direction(name),
                undefined=int(np.sum(~np.isfinite(column))),
                relative_range=relative_range(column),
                reasons=dict(collections.Counter(row["reasons"][name] for row in rows if name in row["reasons"])),
                seconds=_seconds(name, rows),
            )
            for name, column in columns.items()
        },
        explained=explained(
            settings.sampled, [row["topology"] for row in rows], accuracy, settings.draws, settings.seed
        ),
        selection=study_selection.held_out(columns, accuracy, settings.seed, settings.draws),
        seconds=_mean_seconds(rows, repeats),
    )


def predictor_of(
    settings: StudySettings,
    rows: Sequence[Row],
    columns: Mapping[str, np.ndarray],
    num_classes: int,
    selection: Row | None,
) -> Predictor | None:
    """The better one of the two regressions, by the half that chooses, fitted on all topologies that were trained
    and have its measures.

    None where there were too few topologies to choose and judge, or too few have the measures.
    """
    kinds = {kind: found for kind, found in (selection or {"kinds": {}})["kinds"].items() if kind in RIDGES}
    if selection is None or not kinds:
        return None
    kind = max(kinds, key=lambda kind: kinds[kind]["tau_choosing"])
    accuracy = accuracies(rows)
    names = [*measure_names(), *RIDGES[kind]]
    fitted = regression.fit_usable(columns, names, accuracy, np.flatnonzero(np.isfinite(accuracy)))
    if fitted is None or not fitted[0].measures():
        return None
    line, _, inside = fitted
    rivals = (
        f"{in_words(name)} {found['tau']:+.2f}" for name, found in selection["against"].items() if name != RANK_SUM
    )
    evidence = (
        f"{kind}; fitted on {selection['choosing']} topologies, tau {kinds[kind]['tau_judging']:+.2f} on "
        f"{selection['judging']} others, where {', '.join(rivals)}"
    )
    return Predictor(
        line,
        image_size=settings.size,
        base_stride=settings.stride,
        space=settings.space,
        images=settings.score_batch,
        points=settings.points,
        width=settings.width,
        num_classes=num_classes,
        topologies=len(inside),
        evidence=evidence,
    )


def _failed(settings: StudySettings, rows: Sequence[Row], repeats: Sequence[Row]) -> list[Row]:
    return [
        dict(topology=row["topology"], seed=row.get("seed", settings.seed), part=part, reason=reason)
        for row in (*rows, *repeats)
        for part, reason in row["failed"].items()
    ]


def _repeated(rows: Sequence[Row], repeats: Sequence[Row]) -> list[list[float]]:
    """Accuracies with several seeds, of the topologies that have them."""
    by_topology: dict[str, list[float]] = {row["topology"]: [] for row in rows}
    for row in (*rows, *repeats):
        if row["accuracy"] is not None:
            by_topology[row["topology"]].append(row["accuracy"])
    return [values for values in by_topology.values() if len(values) > 1]


def _seconds(name: str, rows: Sequence[Row]) -> float | None:
    """Median over topologies of half of what both kinds of weights took together, tracing included; less than a measure
    alone would take, because they share the tracing. Measures of one program share it. Of a published measure, which is
    taken with one kind only, all it took, with the passes that it shares with others."""
    if name in SIZE_MEASURES:
        return 0.0
    if name in PROXIES:
        known = [row["seconds"][name] for row in rows if name in row["seconds"]]
        return statistics.median(known) if known else None
    names = SEARCHED_VARIANTS if name == RANK_SUM else (name,)
    total = 0.0
    for measure, _, norms in (part.split(":") for part in names):
        program = f"{'ntk' if measure.startswith('ntk') else 'circle'}:{norms}"
        seconds = [row["seconds"][program] / len(INITIALIZATIONS) for row in rows if program in row["seconds"]]
        if not seconds:
            return None
        total += statistics.median(seconds)
    return total


def _mean_seconds(rows: Sequence[Row], repeats: Sequence[Row]) -> dict[str, float]:
    """Means over topologies by part, and over all trainings."""
    parts = ["build", *(f"{kind}:{norms}" for kind in ("circle", "ntk") for norms in NORMALIZATIONS)]
    parts += ["published", "measuring", "processor"]
    known = {part: [row["seconds"][part] for row in rows if part in row["seconds"]] for part in parts}
    means = {part: statistics.fmean(seconds) for part, seconds in known.items() if seconds}
    return {**means, "training": statistics.fmean(row["seconds"]["training"] for row in (*rows, *repeats))}
