"""Search and growth as commands run them: images drawn once, scores kept, results and figures in one directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from asvit_tf.errors import UserError
from asvit_tf.images import Source, sample
from asvit_tf.topology import Topology
from search import family
from search.limits import Limits
from search.records import Journal, workspace


def search(
    *, save_dir: str, timestamp: str, seed: int, measures: tuple[str, ...], policy: dict[str, Any], **options: Any
) -> dict[str, Any]:
    """`asvit search`: see its flags.

    Returns:
      `topology`, its `scores`, `parameters` and `macs`; `steps`, `failed`, `skipped_images`, `figure`.
    """
    limits = _limits(options)
    from search import reinforce, report

    chosen = reinforce.Options(seed=seed, reward_types=measures, **policy)
    # A longer search starts like a shorter one: the number of steps may be raised later.
    fixed = {name: value for name, value in policy.items() if name != "total_steps"}
    with _scoring(save_dir, timestamp, seed, measures, limits, options, fixed) as (directory, scorer, skipped):
        result = reinforce.search(directory, chosen, scorer, limits, progress=True)
        (score,) = scorer([Topology.parse(result["topology"])])
        figure = report.save(directory / "search.png", report.search_figure(Journal(directory / "trace.jsonl").rows))
    return dict(**result, scores=score.measures, skipped_images=skipped, figure=figure)


def grow(
    arch: Topology,
    *,
    save_dir: str,
    timestamp: str,
    seed: int,
    measures: tuple[str, ...],
    targets: str | None,
    width: int,
    proxy_divisor: int,
    stop_parameters: float,
    **options: Any,
) -> dict[str, Any]:
    """`asvit grow`: see its flags.

    Returns:
      `family` and `topologies`, every member and their strings; `topology`, the last; `scores`, its; `configs`, YAML by
      target; `missed`, a line for each target without a member; `skipped_images`, `figure`.
    """
    limits = _limits(options)
    from search import grow, report

    chosen = grow.Options(width, proxy_divisor, round(stop_parameters * 1e6))
    least = limits.count(chosen.start(arch)).parameters
    if limits.max_parameters is not None and least > limits.max_parameters:
        raise UserError(
            f"growth starts at {least / 1e6:.2f} M parameters, over the limit of {options['max_parameters']:g} M"
        )
    sizes = family.parse_targets(targets, least, limits.max_parameters or chosen.stop_parameters)
    fixed = dict(arch=str(arch), width=width, proxy_divisor=proxy_divisor)
    with _scoring(save_dir, timestamp, seed, measures, limits, options, fixed) as (directory, scorer, skipped):
        result = grow.grow(directory, arch, chosen, scorer, limits, progress=True)
        members = result["family"]
        configs, missed = family.write_configs(directory / "configs", members, sizes, options["image_size"])
        figure = report.save(directory / "growth.png", report.growth_figure(members, others=True))
    return dict(
        **result,
        topologies=[member["topology"] for member in members],
        scores=members[-1]["scores"],
        configs=configs,
        missed=missed,
        skipped_images=skipped,
        figure=figure,
    )


def _limits(options: dict[str, Any]) -> Limits:
    def whole(name: str, unit: float) -> int | None:
        value = options[name]
        return None if value is None else round(value * unit)

    side = options["image_size"]
    return Limits(whole("max_parameters", 1e6), whole("max_macs", 1e9), (side, side), options["num_classes"])


@contextmanager
def _scoring(
    save_dir: str,
    timestamp: str,
    seed: int,
    measures: tuple[str, ...],
    limits: Limits,
    options: dict[str, Any],
    fixed: dict[str, Any],
) -> Iterator[tuple[Path, Callable, int]]:
    """The directory, locked; a scorer that remembers; and how many image files were skipped."""
    from search.scoring import Remembered, Settings

    settings = Settings(
        image_size=limits.image_size,
        repeats=options["repeats"],
        points=options["points"],
        seed=seed,
        radius=options["radius"],
        initialization=options["initialization"],
        normalization=options["normalization"],
        engine=options["engine"],
        measures=measures,
    )
    settings.check(options["batch_size"])
    dataset, data_path = options["dataset"], options["data_path"]
    if data_path is not None and dataset == "imagenet":
        dataset = None  # The released command lines name the data set beside its folder.
    if dataset is None and data_path is None:
        raise UserError("give --data_path, or --dataset (noise needs no data)")
    source = Source(dataset, os.path.abspath(data_path) if data_path else None, options["data_dir"])
    directory = Path(save_dir) if timestamp == "none" else Path(save_dir) / timestamp
    names = ("repeats", "points", "radius", "initialization", "normalization", "batch_size", "image_size")
    identity = dict(
        {name: options[name] for name in (*names, "max_parameters", "max_macs", "num_classes")},
        dataset=source.dataset,
        data_path=source.data_path,
        measures=list(measures),
        seed=seed,
        **fixed,
    )
    with workspace(directory, identity) as owned:
        images, skipped = _images(owned / "images.npz", source, options["batch_size"], limits.image_size, seed)
        scorer = _scorer(settings, images, options["workers"], options["worker_threads"], options["backend"])
        yield owned, Remembered(scorer, owned / "scores.jsonl"), skipped


def _images(path: Path, source: Source, count: int, size: tuple[int, int], seed: int) -> tuple[np.ndarray, int]:
    """The images of the whole run: drawn once and kept, so that it continues with the same ones."""
    if not path.exists():
        images, skipped = sample(source, count, size, seed)
        partial = path.with_name("partial.npz")
        np.savez(partial, images=images, skipped=skipped)
        partial.replace(path)
    with np.load(path) as kept:
        return kept["images"], int(kept["skipped"])


def _scorer(settings: Any, images: np.ndarray, workers: int, threads: int | None, backend: str) -> Callable:
    from search.scoring import TrainingFreeScorer
    from search.workers import ParallelScorer, set_threads

    if workers == 1 and backend == "loky":
        if threads is not None:
            set_threads(threads)
        return TrainingFreeScorer(settings, images)
    return ParallelScorer(settings, images, workers, threads or max(1, (os.cpu_count() or 1) // workers), backend)
