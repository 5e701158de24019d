"""Chooses a combination of measures once, and judges it elsewhere.

    python benchmarks/choose_measure.py choose --digits STUDY --photographs STUDY --output choice.json
    python benchmarks/choose_measure.py judge --choice choice.json --photographs STUDY --vit_bench ROWS --data FILE

A `STUDY` is a directory of `asvit study`. One half of all topologies, by a hash of their choices, chooses, on digits
and on photographs; the other half judges, on photographs, and so do the networks of ViT-Bench-101 (`ROWS` of
benchmarks/vit_bench.py, accuracies in `FILE`). Studies of one seed draw the same topologies, so none that judges has
chosen, not even by its digits. The first command reads no accuracy of the second's; it writes all candidates, the
chosen one, which way every column is better, the topologies that chose, and the hash of all, which the second checks.

Spaces differ in units, so candidates see ranks within a set, from 0 to 1: every measure alone, the sum of two, and
ridge regressions of the accuracy's rank, which choose by their mean tau within halves that they were not fitted on
(split_halves.py). Which way a measure is better, and every weight, comes from the choosing sets; for the rivals, too:
length distortion, parameters, multiply-accumulates, the regression on the sizes from the choosing sets. One more rival
is fitted where it is judged, each half by the other, and the chosen one is compared with it within these halves.
Intervals are of paired bootstraps over the networks that judge; in these, no line is fitted again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.stats
from measured_sets import Networks, choices_of, half, others, study
from sklearn.linear_model import RidgeCV
from split_halves import halves, paired, predicted_by, taus_within

from asvit_tf.choices import PROXIES
from search.scoring.names import SEARCHED_VARIANTS, column_names, in_words, name_of
from search.study import regression
from search.study.statistics import ROUNDING, percentiles, relative_range, resamples, tau_b

SEED, DRAWS = 0, 2000
SIZES = ("parameters", "macs")  # Those that all spaces have, and that differ in each.
LENGTH = SEARCHED_VARIANTS[0]
PAIRED = (
    *(name_of(measure, "released", "identity") for measure in ("length_distortion", "curvature")),
    *(name_of(measure, "released", "layer") for measure in ("ntk_condition_number", "ntk_trace", "ntk_effective_rank")),
    *PROXIES,
    *SIZES,
)
REGRESSIONS = {
    "ridge on published measures": tuple(PROXIES),
    "ridge on published measures and sizes": (*PROXIES, *SIZES),
    "ridge on all measures": tuple(column_names()),
    "ridge on all measures and sizes": (*column_names(), *SIZES),
}
ON_SIZES = "ridge on the sizes"
PENALTIES = tuple(10.0**power for power in range(-2, 4))
CHOICE = ("candidates", "chosen", "signs", "topologies")

Columns = Mapping[str, np.ndarray]


def positions(column: np.ndarray) -> np.ndarray:
    """Ranks among those that have a value, from above 0 to below 1, ties in the middle; NaN where there is none."""
    known = np.isfinite(column)
    ranks = np.full(len(column), np.nan)
    ranks[known] = (scipy.stats.rankdata(column[known]) - 0.5) / known.sum()
    return ranks


def scores_of(weights: Mapping[str, float], columns: Columns) -> np.ndarray:
    """The weighted sum of positions, [n]; NaN where a measure is undefined."""
    return sum(weight * positions(columns[name]) for name, weight in weights.items())


def tau(scores: np.ndarray, accuracy: np.ndarray) -> float:
    """Over the networks that have both."""
    known = np.isfinite(scores) & np.isfinite(accuracy)
    return tau_b(scores[known], accuracy[known])


def usable(name: str, sets: Sequence[Networks]) -> bool:
    """Whether a column says something about most networks of every set; accuracies are not looked at."""
    for each in sets:
        known = each.columns[name][np.isfinite(each.columns[name])]
        if len(known) < regression.MOST * len(each.accuracy) or (relative_range(known) or 0) <= ROUNDING:
            return False
    return True


def signs_of(sets: Sequence[Networks]) -> dict[str, float]:
    """+1 where more of a column is better by its mean tau over the sets, or nothing is known; -1 where less is."""
    return {
        name: -1.0 if np.mean([tau(each.columns[name], each.accuracy) for each in sets]) < 0 else 1.0
        for name in (*column_names(), *SIZES)
    }


def candidates(sets: Sequence[Networks], signs: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Every candidate with its weights and its tau on each set; for a regression, the mean tau within halves of it that
    a line was not fitted on, and the weights of all networks."""
    names = [name for name in signs if usable(name, sets)]
    for name in names:
        yield _candidate("measure", {name: signs[name]}, sets)
    for pair in itertools.combinations([name for name in PAIRED if name in names], 2):
        yield _candidate("rank sum", {name: signs[name] for name in pair}, sets)
    for kind, regressors in {**REGRESSIONS, ON_SIZES: SIZES}.items():
        chosen = [name for name in regressors if name in names]
        if chosen:
            yield _regression(kind, chosen, sets)


def _candidate(kind: str, weights: dict[str, float], sets: Sequence[Networks]) -> dict[str, Any]:
    taus = [tau(scores_of(weights, each.columns), each.accuracy) for each in sets]
    return dict(kind=kind, weights=weights, taus=dict(zip((each.name for each in sets), taus)))


def _regression(kind: str, names: Sequence[str], sets: Sequence[Networks]) -> dict[str, Any]:
    parts = []
    for each in sets:
        features = np.stack([positions(each.columns[name]) for name in names], axis=1) - 0.5
        inside = np.isfinite(each.accuracy) & np.isfinite(features).all(axis=1)
        parts.append((features[inside], positions(each.accuracy)[inside] - 0.5))
    taus: list[list[float]] = [[] for _ in sets]
    for split in zip(*(halves(len(target)) for _, target in parts)):
        ridge = _fitted([(features[fit], target[fit]) for (features, target), (fit, _) in zip(parts, split)])
        for found, (features, target), (_, rest) in zip(taus, parts, split):
            found.append(tau_b(ridge.predict(features[rest]), target[rest]))
    weights = dict(zip(names, map(float, _fitted(parts).coef_)))
    means = {each.name: float(np.nanmean(found)) for each, found in zip(sets, taus)}
    return dict(kind=kind, weights=weights, taus=means)


def _fitted(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> RidgeCV:
    """To the features [n, p] and targets [n] of all sets together."""
    features, targets = zip(*parts)
    return RidgeCV(PENALTIES, fit_intercept=False).fit(np.concatenate(features), np.concatenate(targets))


def hashed(content: Any) -> str:
    """Of what was chosen."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> dict[str, Any]:
    """What `choose` wrote.

    Raises:
      UsageError: It is not what was chosen.
    """
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        if hashed({name: content[name] for name in CHOICE}) == content["sha256"]:
            return content
    except (ValueError, TypeError, KeyError):
        pass
    raise click.UsageError(f"{path} is not what was chosen: its hash differs, or another version wrote it")


def judged(choice: Mapping[str, Any], networks: Networks) -> dict[str, Any]:
    """Tau of every candidate there, and the differences of the chosen to its rivals, each within the rival's parts."""
    chosen = scores_of(choice["chosen"]["weights"], networks.columns)
    sizes = next(each for each in choice["candidates"] if each["kind"] == ON_SIZES)
    rivals = {
        **{name: [choice["signs"][name] * networks.columns[name]] for name in (LENGTH, *SIZES)},
        ON_SIZES: [scores_of(sizes["weights"], networks.columns)],
        f"{ON_SIZES}, fitted here": predicted_by(SIZES, networks.columns, networks.accuracy),
    }
    alone, weights = np.ones((1, len(networks.accuracy))), resamples(len(networks.accuracy), DRAWS, SEED)
    against = {}
    for name, parts in rivals.items():
        own, other = paired(chosen, parts)
        (here,), (there,) = (taus_within(side, networks.accuracy, alone) for side in (own, other))
        drawn = taus_within(own, networks.accuracy, weights) - taus_within(other, networks.accuracy, weights)
        against[name] = dict(tau=float(there), difference=float(here - there), interval=percentiles(drawn))
    taus = [tau(scores_of(each["weights"], networks.columns), networks.accuracy) for each in choice["candidates"]]
    return dict(
        set=networks.name,
        networks=len(networks.accuracy),
        tau=tau(chosen, networks.accuracy),
        taus=taus,
        against=against,
    )


def _cell(tau_there: float) -> str:
    return "none" if np.isnan(tau_there) else f"{tau_there:+.2f}"


def label(candidate: Mapping[str, Any]) -> str:
    """A candidate in words."""
    if candidate["kind"] not in ("measure", "rank sum"):
        return candidate["kind"]
    return " + ".join(f"{'' if sign > 0 else 'less '}{in_words(name)}" for name, sign in candidate["weights"].items())


@click.group()
def main() -> None:
    """See the file."""


_PHOTOGRAPHS = click.option("--photographs", required=True, type=click.Path(exists=True, path_type=Path))


@main.command()
@click.option("--digits", required=True, type=click.Path(exists=True, path_type=Path))
@_PHOTOGRAPHS
@click.option("--output", required=True, type=click.Path(path_type=Path))
def choose(digits: Path, photographs: Path, output: Path) -> None:
    if output.exists():
        raise click.UsageError(f"{output} is there, and a choice is made once; take another name")
    sets = [
        half(study(directory, name), False) for directory, name in ((digits, "digits"), (photographs, "photographs"))
    ]
    signs = signs_of(sets)
    found = list(candidates(sets, signs))
    # What is judged against the sizes is not the sizes.
    measured = [each for each in found if not set(each["weights"]) <= set(SIZES)]
    best = max(measured, key=lambda each: float(np.mean(list(each["taus"].values()))))
    topologies = sorted({choices_of(topology) for each in sets for topology in each.topologies})
    content = dict(candidates=found, chosen=best, signs=signs, topologies=topologies)
    output.write_text(json.dumps({**content, "sha256": hashed(content)}, indent=1), encoding="utf-8")
    print(f"{len(found)} candidates; chosen: {label(best)}, tau {best['taus']}; sha256 {hashed(content)}")


@main.command()
@click.option("--choice", required=True, type=click.Path(exists=True, path_type=Path))
@_PHOTOGRAPHS
@click.option("--vit_bench", "rows", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--image_size", default=64, show_default=True, help="Of the networks' measures.")
def judge(choice: Path, photographs: Path, rows: Path, data: Path, image_size: int) -> None:
    content = read(choice)
    judging = half(study(photographs, "photographs"), True)
    chose = set(content["topologies"]) & set(map(choices_of, judging.topologies))
    if chose:
        raise click.UsageError(f"{len(chose)} topologies of {photographs} chose and cannot judge, as {min(chose)}")
    sets = [judging, *others(rows, data, image_size)]
    results = [judged(content, each) for each in sets]
    print(f"chosen: {label(content['chosen'])}; sha256 {content['sha256']}\n")
    print(
        "| set | networks | τ | "
        + " | ".join(f"less that of {in_words(name)}" for name in results[0]["against"])
        + " |"
    )
    print("|---" * (3 + len(results[0]["against"])) + "|")
    for result in results:
        cells = [
            "{:+.2f} [{:+.2f}, {:+.2f}]".format(each["difference"], *(each["interval"] or (np.nan, np.nan)))
            for each in result["against"].values()
        ]
        print(f"| {result['set']} | {result['networks']} | {result['tau']:+.2f} | " + " | ".join(cells) + " |")
    print(
        "\n| candidate | "
        + " | ".join(result["set"] for result in results)
        + " |\n"
        + "|---" * (1 + len(results))
        + "|"
    )
    for number, each in enumerate(content["candidates"]):
        print(f"| {label(each)} | " + " | ".join(_cell(result["taus"][number]) for result in results) + " |")


if __name__ == "__main__":
    main()
