"""Chooses a combination of measures once, and judges it elsewhere.

    python benchmarks/choose_measure.py choose --digits STUDY --photographs STUDY --output choice.json
    python benchmarks/choose_measure.py judge --choice choice.json --photographs STUDY --vit_bench ROWS --data FILE

A `STUDY` is a directory of `asvit study`; digits, all of it, and the even half of the photographs choose; the odd half,
and the networks of ViT-Bench-101 (`ROWS` of benchmarks/vit_bench.py, accuracies in `FILE`) judge. The first command
reads no accuracy of the second's; it writes all candidates, the chosen one, and the hash of both, which the second
checks.

Spaces differ in units, so candidates see ranks within a set, from 0 to 1: every measure alone, the sum of two, and
ridge regressions of the accuracy's rank. Which way a measure is better, and every weight, comes from the choosing sets.
Against length distortion, parameters, multiply-accumulates, the regression on the sizes from the choosing sets, and one
that is fitted where it is judged, each network from all others. Intervals are of paired bootstraps over networks.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import scipy.stats
import vit_bench
from sklearn.linear_model import RidgeCV

from asvit_tf.choices import PROXIES
from search.scoring.names import SEARCHED_VARIANTS, column_names, in_words, name_of
from search.study import regression
from search.study.statistics import ROUNDING, percentiles, relative_range, resampled_taus, resamples, tau_b

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

Columns = Mapping[str, np.ndarray]


class Networks(NamedTuple):
    """A set of networks: its columns and accuracies, [n] each, NaN where undefined."""

    name: str
    columns: dict[str, np.ndarray]
    accuracy: np.ndarray


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


def candidates(sets: Sequence[Networks]) -> Iterator[dict[str, Any]]:
    """Every candidate with its weights and its tau on each set, for a regression with each network left out."""
    names = [name for name in (*column_names(), *SIZES) if usable(name, sets)]
    alone = {name: [tau(each.columns[name], each.accuracy) for each in sets] for name in names}
    signs = {name: 1.0 if np.mean(taus) >= 0 else -1.0 for name, taus in alone.items()}
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
    features, targets, owners = [], [], []
    for number, each in enumerate(sets):
        columns = np.stack([positions(each.columns[name]) for name in names], axis=1) - 0.5
        inside = np.isfinite(each.accuracy) & np.isfinite(columns).all(axis=1)
        features.append(columns[inside])
        targets.append(positions(each.accuracy)[inside] - 0.5)
        owners += [number] * int(inside.sum())
    target, owner = np.concatenate(targets), np.array(owners)
    ridge = RidgeCV(PENALTIES, fit_intercept=False, scoring="neg_mean_squared_error", store_cv_results=True)
    ridge.fit(np.concatenate(features), target)
    left_out = ridge.cv_results_[:, PENALTIES.index(ridge.alpha_)]
    taus = [tau_b(left_out[owner == number], target[owner == number]) for number in range(len(sets))]
    weights = dict(zip(names, map(float, ridge.coef_)))
    return dict(kind=kind, weights=weights, taus=dict(zip((each.name for each in sets), taus)))


def study(directory: Path, name: str, parity: int | None = None) -> Networks:
    """The topologies of a study; of one parity, only every second."""
    from asvit_tf.dataloaders.classification import Dataset
    from asvit_tf.journals import Journal
    from search.study import result
    from search.study.settings import EARLIER, EXTENT, StudySettings

    saved = json.loads((directory / "settings.json").read_text(encoding="utf-8"))
    settings = StudySettings(**{**EARLIER, **{key: value for key, value in saved.items() if key not in EXTENT}})
    dataset = Dataset.load(directory / "data")
    rows = result.without_guessing(Journal(directory / "topologies.jsonl").rows, dataset.shares("validation"))
    columns = result.columns_of(settings, rows, len(dataset.class_names))
    kept = np.arange(len(rows)) if parity is None else np.arange(parity, len(rows), 2)
    return Networks(name, {key: column[kept] for key, column in columns.items()}, result.accuracies(rows)[kept])


def others(rows: Path, data: Path, image_size: int) -> Iterator[Networks]:
    """The networks of ViT-Bench-101, once for each column of accuracies."""
    from asvit_tf.journals import Journal

    bench = json.loads(data.read_text(encoding="utf-8"))
    for name in vit_bench.SETS:
        of_set = [row for row in Journal(rows).rows if (row["set"], row["image_size"]) == (name, image_size)]
        if not of_set:
            continue
        networks = [bench[name][row["index"]] for row in of_set]
        columns = vit_bench.columns_of(of_set, [vit_bench.specification(name, network) for network in networks])
        for key in (key for key in networks[0] if key.endswith("_acc")):
            accuracy = np.array([network[key] for network in networks], np.float64)
            yield Networks(f"{name}, {key.removesuffix('_acc').replace('_', ' ')}", columns, accuracy)


def hashed(content: Any) -> str:
    """Of what was chosen."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def judged(choice: Mapping[str, Any], networks: Networks) -> dict[str, Any]:
    """Tau of every candidate there, and the differences of the chosen to its rivals."""
    chosen = scores_of(choice["chosen"]["weights"], networks.columns)
    sizes = next(each for each in choice["candidates"] if each["kind"] == ON_SIZES)
    rivals = {
        LENGTH: networks.columns[LENGTH],
        **{name: networks.columns[name] for name in SIZES},
        ON_SIZES: scores_of(sizes["weights"], networks.columns),
        f"{ON_SIZES}, fitted here": vit_bench.regression_on_sizes(networks.columns, networks.accuracy, SIZES),
    }
    weights = resamples(len(networks.accuracy), DRAWS, SEED)
    against = {}
    for name, rival in rivals.items():
        both = np.isfinite(chosen) & np.isfinite(rival)
        one, other = (np.where(both, part, np.nan) for part in (chosen, rival))
        drawn = resampled_taus(one, networks.accuracy, weights) - resampled_taus(other, networks.accuracy, weights)
        difference = tau(one, networks.accuracy) - tau(other, networks.accuracy)
        against[name] = dict(tau=tau(other, networks.accuracy), difference=difference, interval=percentiles(drawn))
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
    sets = [study(digits, "digits"), study(photographs, "photographs, even", 0)]
    found = list(candidates(sets))
    # What is judged against the sizes is not the sizes.
    measured = [each for each in found if not set(each["weights"]) <= set(SIZES)]
    best = max(measured, key=lambda each: float(np.mean(list(each["taus"].values()))))
    content = dict(candidates=found, chosen=best)
    output.write_text(json.dumps({**content, "sha256": hashed(content)}, indent=1), encoding="utf-8")
    print(f"{len(found)} candidates; chosen: {label(best)}, tau {best['taus']}; sha256 {hashed(content)}")


@main.command()
@click.option("--choice", required=True, type=click.Path(exists=True, path_type=Path))
@_PHOTOGRAPHS
@click.option("--vit_bench", "rows", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--image_size", default=64, show_default=True, help="Of the networks' measures.")
def judge(choice: Path, photographs: Path, rows: Path, data: Path, image_size: int) -> None:
    content = json.loads(choice.read_text(encoding="utf-8"))
    if hashed({key: content[key] for key in ("candidates", "chosen")}) != content["sha256"]:
        sys.exit(f"{choice} is not what was chosen: its hash differs")
    sets = [study(photographs, "photographs, odd", 1), *others(rows, data, image_size)]
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
