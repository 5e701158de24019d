"""A study as text: two CSV tables, and lines for a terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from search.scoring.names import direction, in_words
from search.study.explained import TOGETHER
from search.study.regression import MOST
from search.study.statistics import ROUNDING


def _csv(table: Iterator[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue()


def topologies_csv(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, np.ndarray]) -> str:
    """A line for each topology, with its accuracy and all columns; what is undefined is empty."""
    return _csv(_topologies(rows, columns))


def measures_csv(measures: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each measure, with tau and what belongs to it; what there is none of is empty."""
    return _csv(_measures(measures))


def _topologies(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, np.ndarray]) -> Iterator[Sequence[Any]]:
    yield ["topology", "accuracy", *columns, "failed"]
    for i, row in enumerate(rows):
        values = ["" if math.isnan(column[i]) else repr(float(column[i])) for column in columns.values()]
        failed = "; ".join(f"{part}: {reason}" for part, reason in row["failed"].items())
        yield [row["topology"], "" if row["accuracy"] is None else row["accuracy"], *values, failed]


def _measures(measures: Mapping[str, Mapping[str, Any]]) -> Iterator[Sequence[Any]]:
    plain = ("direction", "tau", "spearman", "regret", "ranked", "undefined", "relative_range", "seconds", "reason")
    yield ["measure", *plain, "interval_low", "interval_high"]
    for name, measure in measures.items():
        cells = [measure[key] for key in plain] + list(measure["interval"] or (None, None))
        yield [name, *("" if cell is None else cell for cell in cells)]


def in_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The result for a terminal."""
    noise, accuracy = result["noise"], result["accuracy"]
    yield (
        f"{result['trained']} of {result['topologies']} topologies trained; accuracy {accuracy['least']:.1%} to "
        f"{accuracy['most']:.1%}, mean {accuracy['mean']:.1%}, deviation {noise['over_topologies']:.2%}"
    )
    if noise["reliability"] is not None:
        yield (
            f"deviation over {noise['seeds']} seeds of {noise['repeated']} topologies {noise['over_seeds']:.2%}: a "
            f"perfect measure would have a tau of about {noise['highest_tau']:.2f}" + _between(noise["interval"])
        )
    yield f"{'measure':<58}{'better':>7}{'tau':>7}{'95 %':>18}{'rho':>7}{'regret':>8}{'none':>6}{'seconds':>9}"
    for name, measure in result["measures"].items():
        yield _line(name, measure)
    for name, measure in result["measures"].items():
        if measure["tau"] is not None and measure["relative_range"] < ROUNDING:
            yield (
                f"{in_words(name)}: all topologies have the same to {measure['relative_range']:.0e} of it, which is "
                "rounding; its tau says nothing"
            )
    yield from _explained_lines(result["explained"])
    yield from _selection_lines(result["selection"])
    for failure in result["failed"]:
        yield f"failed: {failure['topology']} seed {failure['seed']}, {failure['part']}: {failure['reason']}"
    yield "seconds a topology: " + ", ".join(f"{part} {value:.1f}" for part, value in result["seconds"].items())
    written = [*result["figures"], *result["csv"], *filter(None, [result["predictor"]])]
    yield from (f"written: {path}" for path in written)


def _line(name: str, measure: Mapping[str, Any]) -> str:
    better = "more" if direction(name) > 0 else "less"
    regret = "" if measure["regret"] is None else f"{measure['regret']:.2%}"
    seconds = "" if measure["seconds"] is None else f"{measure['seconds']:.1f}"
    if measure["tau"] is None:
        return f"{in_words(name):<58}{better:>7}  {measure['reason']}; {measure['undefined']} undefined"
    interval = "" if measure["interval"] is None else "[{:+.2f}, {:+.2f}]".format(*measure["interval"])
    return (
        f"{in_words(name):<58}{better:>7}{measure['tau']:>+7.2f}{interval:>18}{measure['spearman']:>+7.2f}"
        f"{regret:>8}{measure['undefined']:>6}{seconds:>9}"
    )


def _explained_lines(explained: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "share of the variance of accuracy that choices explain, and what 95 % of shuffles stay below:"
    for kind, found in explained.items():
        name = "all together" if kind == TOGETHER else kind.replace("_", " ")
        if found["share"] is None:
            yield f"  {name}: too few topologies"
            continue
        taus = [f"{choice} {tau:+.2f}" for choice, tau in found["taus"].items() if tau is not None]
        told = f"; tau of {', '.join(taus)}" if taus and kind != TOGETHER else ""
        yield f"  {name}: {found['share']:.0%}, by chance {found['by_chance']:.0%}{told}"


def _selection_lines(selection: Mapping[str, Any] | None) -> Iterator[str]:
    if selection is None:
        yield (
            "no measure was chosen on one half and judged on the other: there are too few topologies, their accuracies "
            f"are all alike, or no measure is defined for {MOST:.0%} of both halves"
        )
        return
    chosen = " + ".join(map(in_words, selection["chosen"].split(" + ")))
    yield f"best of {selection['candidates']} candidates on {selection['choosing']} topologies: {chosen}"
    yield (
        f"  tau there {selection['tau_choosing']:+.2f}; on the {selection['judging']} other topologies "
        f"{selection['tau_judging']:+.2f}"
    )
    for name, against in selection["against"].items():
        yield (
            f"  against {in_words(name)}: {against['tau_chosen']:+.2f} and {against['tau']:+.2f}, difference "
            f"{against['difference']:+.2f}"
            + _between(against["interval"])
            + _elsewhere(name, selection["other_splits"]["differences"])
        )
    splits = selection["other_splits"]
    if splits["splits"]:
        yield f"  the mean tau of what is chosen in {splits['splits']} other halvings is {splits['tau']:+.2f}"


def _elsewhere(name: str, differences: Mapping[str, Mapping[str, float]]) -> str:
    if name not in differences:
        return ""
    found = differences[name]
    return f"; in other halvings {found['mean']:+.2f}, above 0 in {found['above_zero']:.0%}"


def _between(interval: Sequence[float] | None) -> str:
    return "" if interval is None else " [{:+.2f}, {:+.2f}]".format(*interval)
