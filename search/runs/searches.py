"""Search and growth as commands run them: images drawn once, scores kept, results and figures in one directory."""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from asvit_tf.choices import RANKABLE
from asvit_tf.dataloaders.images import Source, sample
from asvit_tf.design.topology import NUM_STAGES, Topology
from asvit_tf.errors import UserError
from asvit_tf.journals import Journal, workspace
from search.runs import family
from search.scoring.predictor import Predictor
from search.strategy.limits import Limits

# What scores depend on besides measures, seed and data_path; a directory holds results of one configuration.
_IDENTITY = (
    *("dataset", "data_dir", "batch_size", "image_size", "repeats", "points", "radius", "initialization"),
    *("normalization", "engine", "max_parameters", "max_macs", "num_classes"),
)


def search(
    *, save_dir: str, timestamp: str, seed: int, measures: tuple[str, ...], policy: dict[str, Any], **options: Any
) -> dict[str, Any]:
    """`asvit search`: see its flags.

    Returns:
      `topology`, its `scores`, `parameters` and `macs`; `steps`, `failed`, `skipped_images`, `figure`.
    """
    limits = _limits(options)
    from search.report import figures as report
    from search.strategy import reinforce

    _check_rewards(measures)
    chosen = reinforce.Options(seed=seed, reward_types=measures, **policy)
    samples = chosen.total_steps * chosen.samples_per_step
    # A longer search starts like a shorter one: the number of steps may be raised later.
    fixed = {name: value for name, value in policy.items() if name != "total_steps"}
    predictor = _predictor(options)
    arguments = (save_dir, timestamp, seed, measures, predictor, limits, options, fixed)
    with _scoring(*arguments) as (directory, scorer, skipped):
        if predictor is not None:
            print(f"measured at width {predictor.width}, the study's, where it interpolates", file=sys.stderr)
            scorer = _at_width(predictor.width, scorer)
        result = reinforce.search(directory, chosen, scorer, limits, progress=True)
        (score,) = scorer([Topology.parse(result["topology"])])
        figure = report.save(
            directory / "search.png", report.search_figure(Journal(directory / "trace.jsonl").rows[:samples])
        )
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
    from search.report import figures as report
    from search.strategy import growth as grow

    _check_rewards(measures)
    chosen = grow.Options(width, proxy_divisor, round(stop_parameters * 1e6))
    start = chosen.start(arch)
    least = limits.count(start).parameters
    if not limits.allow(start):
        raise UserError(
            f"growth starts at {least / 1e6:.2f} M parameters and {limits.count(start).macs / 1e9:.3f} G "
            "multiply-accumulates, over the limits; raise them"
        )
    sizes = family.parse_targets(targets, least, min(chosen.stop_parameters, limits.max_parameters or least))
    fixed = dict(arch=str(arch), width=width, proxy_divisor=proxy_divisor)
    predictor = _predictor(options)
    arguments = (save_dir, timestamp, seed, measures, predictor, limits, options, fixed)
    with _scoring(*arguments) as (directory, scorer, skipped):
        if predictor is not None:
            print(
                f"it is of networks of width {predictor.width} with a block a stage; for the wider and deeper ones of "
                "a growth it extrapolates, untested",
                file=sys.stderr,
            )
        result = grow.grow(directory, arch, chosen, scorer, limits, progress=True)
        members = result["family"]
        configs, missed = family.write_configs(directory / "configs", members, sizes, limits)
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


def _predictor(options: dict[str, Any]) -> Predictor | None:
    return None if options["predictor"] is None else Predictor.read(options["predictor"])


def _at_width(width: int, scorer: Callable) -> Callable:
    """The scorer, but of topologies with one block a stage, beginning at that width."""
    return lambda topologies: scorer([topology.scaled(width, (1,) * NUM_STAGES) for topology in topologies])


def _check_rewards(measures: tuple[str, ...]) -> None:
    for name in measures:
        if name not in RANKABLE:
            allowed = ("ntk_exp", "exp", "ntk", *RANKABLE)
            raise UserError(f"unknown measure {name!r}; allowed are {', '.join(allowed)}")


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
    predictor: Predictor | None,
    limits: Limits,
    options: dict[str, Any],
    fixed: dict[str, Any],
) -> Iterator[tuple[Path, Callable, int]]:
    """The directory, locked; a scorer that remembers; and how many image files were skipped."""
    from search.scoring.score import Remembered
    from search.scoring.settings import Settings

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
        predictor=predictor,
    )
    settings.check(options["batch_size"])
    if options["workers"] == 1 and options["worker_threads"] is not None:
        from search.runs.workers import set_threads

        set_threads(options["worker_threads"])  # Before anything starts TensorFlow.
    if options["dataset"] is None and options["data_path"] is None:
        raise UserError("give --data_path, or --dataset (noise needs no data)")
    directory = Path(save_dir) if timestamp == "none" else Path(save_dir) / timestamp
    data_path = options["data_path"]
    identity = dict(
        {name: options[name] for name in _IDENTITY},
        data_path=None if data_path is None else os.path.abspath(data_path),
        measures=list(measures),
        seed=seed,
        **fixed,
    )
    if predictor is not None:
        identity["predictor"] = zlib.crc32(json.dumps(predictor.as_dict()).encode())
        print(f"predicted accuracy: {predictor.evidence}", file=sys.stderr)
    with workspace(directory, identity) as owned:
        try:
            images, skipped = _images(owned / "images.npz", options, limits.image_size, seed)
            scorer = _scorer(settings, images, options["workers"], options["worker_threads"], options["backend"])
            yield owned, Remembered(scorer, owned / "scores.jsonl"), skipped
        except UserError:
            if not (owned / "scores.jsonl").exists():  # Nothing is lost: other settings may be tried here.
                for name in ("settings.json", "images.npz"):
                    (owned / name).unlink(missing_ok=True)
            raise


def _images(path: Path, options: dict[str, Any], size: tuple[int, int], seed: int) -> tuple[np.ndarray, int]:
    """The images of the whole run: drawn once and kept, so that it continues with the same ones."""
    if not path.exists():
        source = Source.of_flags(options["dataset"], options["data_path"], options["data_dir"])
        images, skipped = sample(source, options["batch_size"], size, seed, progress=True)
        partial = path.with_name("partial.npz")
        np.savez(partial, images=images, skipped=skipped)
        partial.replace(path)
    with np.load(path) as kept:
        return kept["images"], int(kept["skipped"])


def _scorer(settings: Any, images: np.ndarray, workers: int, threads: int | None, backend: str) -> Callable:
    from search.runs.workers import ParallelScorer
    from search.scoring.predicting import scorer_of

    if workers == 1 and backend == "loky":
        return scorer_of(settings, images)
    return ParallelScorer(settings, images, workers, threads or max(1, (os.cpu_count() or 1) // workers), backend)
