"""Do training-free measures order networks whose accuracies others have trained? ViT-Bench-101, three sets of 100.

    python benchmarks/vit_bench.py --data FILE [--images DIR] [--image_size 224] [--sets pit,autoformer] [--limit 20]
    python benchmarks/vit_bench.py --data FILE --tables [--image_size 64]

`FILE` has the networks and their accuracies (Auto-Prox, AAAI 2024): plain and distilled on CIFAR-100, Flowers and
Chaoyang, and of AutoFormer ImageNet from a supernet. Every network is built as `vit_bench_networks.py` says, its
parameters are compared with a closed formula, and it is measured by the battery of `asvit study`: all measures of the
circle and the NTK with both kinds of weights, norms on and off, and all published measures. Images are those of a
folder, or noise; networks of a smaller image size have fewer tokens. Rows go to benchmarks/results/vit_bench.jsonl (or
--results); started again, it continues. A file has rows of one sample of images, and of one number of repeats, for an
image size. `--tables` prints, without measuring, tau for every column of accuracies, as Markdown, beside sizes and
their regression; where there are two image sizes, also how alike they order the networks that were measured at both.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np
import tqdm
from split_halves import predicted_by, taus_within

RESULTS = Path(__file__).parent / "results" / "vit_bench.jsonl"
SETS = ("pit", "autoformer", "autoformer_second_set")
SIZES = ("parameters", "macs", "depth", "width")
SEED, CLASSES, DRAWS = 0, 100, 2000
BATCH, POINTS = 16, 10
MADE_BY = ("images", "repeats", "points", "seed")  # What a row depends on besides the network and the image size.


def specification(name: str, row: dict[str, Any]) -> Any:
    """A network of the benchmark, not yet built."""
    from vit_bench_networks import AutoFormer, PiT

    return PiT.of(row) if name == "pit" else AutoFormer.of(row)


def counted(spec: Any, image_size: int) -> dict[str, int]:
    """The sizes of a network; those of 224 x 224, whatever it is measured at."""
    width = getattr(spec, "width", None) or spec.widths[-1]
    return dict(
        parameters=spec.parameters(image_size, CLASSES), macs=spec.macs(image_size), depth=spec.depth, width=width
    )


def sampled(images: Path | None, image_size: int) -> np.ndarray:
    """The images of the NTK and of published measures, normalized."""
    from asvit_tf.dataloaders import images as data

    source = data.Source(data_path=str(images)) if images else data.Source(dataset="noise")
    drawn, _ = data.sample(source, BATCH, (image_size, image_size), SEED, progress=True)
    return drawn


def built(spec: Any, image_size: int) -> Any:
    """The network, whose parameters are those of the formula."""
    network = spec.build(image_size, CLASSES, SEED)
    count = sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
    expected = spec.parameters(image_size, CLASSES)
    if count != expected:
        raise AssertionError(f"{spec} has {count} parameters; by its formula {expected}")
    return network


def made_by(images: np.ndarray, repeats: int) -> dict[str, Any]:
    """`MADE_BY`; the images by the hash of the sample."""
    sample = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()[:16]
    return dict(zip(MADE_BY, (sample, repeats, POINTS, SEED), strict=True))


def check_alike(rows: Sequence[dict[str, Any]], names: Sequence[str] = MADE_BY) -> None:
    """Refuses rows that no table may mix.

    Raises:
      UsageError: One of these settings differs between them.
    """
    for name in names:
        values = sorted({str(row.get(name)) for row in rows})
        if len(values) > 1:
            raise click.UsageError(
                f"{name} of the rows differ: {', '.join(values)}; take another file for each: --results"
            )


def of_size(rows: Sequence[dict[str, Any]], image_size: int) -> list[dict[str, Any]]:
    """The rows of an image size.

    Raises:
      UsageError: There are none, or they are of several samples of images or other settings.
    """
    there = sorted({row["image_size"] for row in rows})
    if image_size not in there:
        raise click.UsageError(
            f"no network was measured at {image_size} pixels a side (--image_size); there are rows of "
            f"{', '.join(map(str, there)) or 'none'}"
        )
    chosen = [row for row in rows if row["image_size"] == image_size]
    check_alike(chosen)
    return chosen


def measured(battery: Any, name: str, index: int, spec: Any, image_size: int, made: dict[str, Any]) -> dict[str, Any]:
    """A row of results; `made` has `MADE_BY`."""
    key = f"{name} {index}"
    score = battery.measure(
        lambda: built(spec, image_size), lambda: np.random.default_rng([SEED, zlib.crc32(key.encode())])
    )
    return dict(
        set=name,
        index=index,
        image_size=image_size,
        **made,
        parameters=spec.parameters(image_size, CLASSES),
        measures=score.measures,
        reasons=score.reasons,
        seconds=score.seconds,
        split=score.split,
    )


def columns_of(rows: list[dict[str, Any]], specs: list[Any]) -> dict[str, np.ndarray]:
    """Measures, their combinations and sizes of a set, [n] each; NaN where undefined."""
    import scipy.stats

    from search.scoring.names import SEARCHED_VARIANTS, column_names
    from search.study.selection import rank_sum

    columns = {
        name: np.array([np.nan if (v := row["measures"].get(name)) is None else v for row in rows], np.float64)
        for name in column_names()
    }
    columns["rank_sum"] = -rank_sum(columns, SEARCHED_VARIANTS, (1, -1))
    for name in SIZES:
        columns[name] = np.array([counted(spec, 224)[name] for spec in specs], np.float64)
    # As AZ-NAS adds up its measures for AutoFormer, progressivity left out: logarithms of ranks from the worst, so that
    # a low rank in any of them counts most.
    columns["az_nas"] = sum(
        np.log(scipy.stats.rankdata(columns[part], nan_policy="omit") / len(rows))
        for part in ("expressivity", "trainability", "macs")
    )
    return columns


def tables(bench: dict[str, Any], rows: list[dict[str, Any]], image_size: int) -> Iterator[str]:
    """Markdown: tau of every measure with every column of accuracies, a table for each set; of the regression on the
    sizes, the mean tau within the halves that it was not fitted on, with a bootstrap over the networks of these.

    Raises:
      UsageError: As of `of_size`.
    """
    from search.scoring.names import in_words
    from search.study.statistics import correlation, percentiles, resamples

    rows = of_size(rows, image_size)
    for name in SETS:
        measured_rows = sorted((row for row in rows if row["set"] == name), key=lambda row: row["index"])
        if len(measured_rows) < 3:
            continue
        networks = [bench[name][row["index"]] for row in measured_rows]
        columns = columns_of(measured_rows, [specification(name, network) for network in networks])
        accuracies = {
            key: np.array([network.get(key, np.nan) for network in networks], np.float64)
            for key in bench[name][0]
            if key.endswith("_acc")
        }
        weights = resamples(len(networks), DRAWS, SEED)
        yield f"**{name}**, {len(networks)} networks measured at {image_size} x {image_size}:\n"
        yield "| measure | " + " | ".join(key.removesuffix("_acc").replace("_", " ") for key in accuracies) + " |"
        yield "|---" * (1 + len(accuracies)) + "|"
        for column, values in columns.items():
            found = [correlation(values, accuracy, weights) for accuracy in accuracies.values()]
            yield f"| {in_words(column)} | " + " | ".join(_cell(each.tau, each.interval) for each in found) + " |"
        cells = []
        for accuracy in accuracies.values():
            parts = predicted_by(SIZES, columns, accuracy)
            (tau,) = taus_within(parts, accuracy, np.ones((1, len(networks))))
            cells.append(_cell(tau, percentiles(taus_within(parts, accuracy, weights))))
        yield "| regression on the sizes, each half from the other | " + " | ".join(cells) + " |\n"


def _cell(tau: float | None, interval: tuple[float, float] | None) -> str:
    if tau is None or np.isnan(tau):
        return "none"
    return f"{tau:+.2f}" + ("" if interval is None else " [{:+.2f}, {:+.2f}]".format(*interval))


def alike(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: how alike two image sizes order the networks that were measured at both.

    Raises:
      UsageError: Rows of an image size are of several samples, or those of both of other settings.
    """
    from search.scoring.names import column_names, in_words
    from search.study.statistics import tau_b

    for name in SETS:
        by_size: dict[int, dict[int, dict[str, Any]]] = {}
        for row in rows:
            if row["set"] == name:
                by_size.setdefault(row["image_size"], {})[row["index"]] = row
        if len(by_size) != 2:
            continue
        (small, one), (large, other) = sorted(by_size.items())
        check_alike([*one.values(), *other.values()], MADE_BY[1:])
        for side in (one, other):
            check_alike(list(side.values()))
        both = sorted(one.keys() & other.keys())
        yield f"**{name}**, {len(both)} networks at {small} and at {large} pixels a side: tau between the two\n"
        yield "| measure | tau |\n|---|---|"
        for column in column_names():
            pair = np.array([[side[i]["measures"].get(column) for i in both] for side in (one, other)], np.float64)
            known = np.all(np.isfinite(pair), axis=0)
            tau = tau_b(*pair[:, known]) if known.sum() > 2 else np.nan
            yield f"| {in_words(column)} | {'none' if np.isnan(tau) else f'{tau:+.2f}'} |"


@click.command()
@click.option("--data", "data_path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="  [default: noise]")
@click.option("--image_size", default=224, show_default=True, type=click.IntRange(16))
@click.option("--sets", default=",".join(SETS), show_default=True)
@click.option("--limit", default=100, show_default=True, help="Networks of each set.")
@click.option("--repeats", default=1, show_default=True, help="Draws of weights and circles.")
@click.option("--tables", "only_tables", is_flag=True)
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
def main(
    data_path: Path,
    images: Path | None,
    image_size: int,
    sets: str,
    limit: int,
    repeats: int,
    only_tables: bool,
    results: Path,
) -> None:
    from asvit_tf.journals import Journal, rows_in

    bench = json.loads(data_path.read_text(encoding="utf-8"))
    unknown = set(sets.split(",")) - set(SETS)
    if unknown:
        sys.exit(f"no set {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    if only_tables:
        rows = rows_in(results)
        for line in itertools.chain(tables(bench, rows, image_size), alike(rows)):
            print(line)
        return
    from asvit_tf.choices import PROXIES
    from search.scoring.battery import Battery
    from search.scoring.settings import ScoringSettings

    settings = ScoringSettings(image_size=(image_size, image_size), repeats=repeats, points=POINTS, seed=SEED)
    drawn = sampled(images, image_size)
    made = made_by(drawn, repeats)
    journal = Journal(results)
    check_alike([*(row for row in journal.rows if row["image_size"] == image_size), made])
    battery = Battery(settings, drawn, tuple(PROXIES))
    done = {(row["set"], row["index"], row["image_size"], *map(row.get, MADE_BY)) for row in journal.rows}
    # The sets in turn, so that whatever is there when it is stopped is of all of them.
    wanted = [(name, i) for i in range(limit) for name in sets.split(",") if i < len(bench[name])]
    missing = [key for key in wanted if (*key, image_size, *made.values()) not in done]
    for name, index in tqdm.tqdm(missing, unit="network"):
        journal.append(measured(battery, name, index, specification(name, bench[name][index]), image_size, made))


if __name__ == "__main__":
    main()
