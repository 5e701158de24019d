"""Search and growth as commands run them: images drawn once, scores kept, results and figures in one directory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from asvit_tf.choices import SEARCH_STRATEGIES
from asvit_tf.dataloaders.imagefiles.skipped import Skipped
from asvit_tf.design.topology import NUM_STAGES, STRIDE, Topology
from asvit_tf.errors import UserError
from asvit_tf.journals import Journal, workspace
from search.runs.search_settings import ImageSettings, ScoredRun
from search.scoring.score import Remembered, Scorer
from search.strategy import family
from search.strategy.settings import GrowthSettings, SearchSettings

# A longer search starts like a shorter one: the number of steps may be raised later.
_POLICY = ("samples_per_step", "learning_rate", "ema_momentum", "buffer_size", "strategy")


def search(directory: Path, settings: SearchSettings, run: ScoredRun) -> dict[str, Any]:
    """Searches, or continues, and draws the search.

    Args:
      directory: For everything; holds results of one configuration.
      settings: Settings of the policy; its measures and seed are those of `run.scoring`.
      run: Images, scores, limits and processes.

    Returns:
      `topology`, its `scores`, `parameters` and `macs`; `steps`, `failed`, `figure`, and what
      `Skipped.as_dict` says of image files.

    Raises:
      UserError: The images cannot be used, the directory is of another configuration, or nothing could be scored.
    """
    from search.report import figures
    from search.strategy import loop

    samples = settings.total_steps * settings.samples_per_step
    predictor = run.scoring.predictor
    with _scoring(directory, run, {name: getattr(settings, name) for name in _POLICY}) as (remembered, skipped):
        scorer = remembered
        if predictor is not None:
            print(f"measured at width {predictor.width}, the study's, where it interpolates", file=sys.stderr)
            scorer = _at_width(predictor.width, remembered)
        result = loop.search(directory, settings, scorer, run.limits, run.space, progress=True)
        (score,) = scorer([Topology.parse(result["topology"])])
        trace = Journal(directory / "trace.jsonl").rows[:samples]
        figure = figures.save(directory / "search.png", figures.search_figure(trace))
    return dict(**result, scores=score.measures, **skipped.as_dict(), figure=figure)


def grow(
    directory: Path, arch: Topology, settings: GrowthSettings, targets: str | None, run: ScoredRun
) -> dict[str, Any]:
    """Grows a family, or continues, draws it, and writes YAMLs for its targets.

    Args:
      directory: For everything; holds results of one configuration.
      arch: The seed topology.
      settings: Settings of the growth.
      targets: Sizes in millions of parameters, separated by commas.
      run: Images, scores, limits and processes.

    Returns:
      `family` and `topologies`, every member and their strings; `topology`, the last; `scores`, its; `configs`, YAML by
      target; `missed`, a line for each target without a member; `figure`, and what `Skipped.as_dict` says of image
      files.

    Raises:
      UserError: The images cannot be used, the directory is of another configuration, the growth starts beyond the
        limits, or no candidate could be scored.
    """
    from search.report import figures
    from search.strategy import growth

    limits = run.limits
    start = settings.start(arch)
    if start.width != settings.width:
        print(
            f"growth starts at width {start.width} instead of {settings.width}: {arch.heads[0]} heads of 8 channels in "
            "the first stage need it",
            file=sys.stderr,
        )
    counted = limits.count(start)
    if not limits.allow(start):
        raise UserError(
            f"growth starts at {counted.parameters / 1e6:.2f} M parameters and {counted.macs / 1e9:.3f} G "
            "multiply-accumulates, over the limits; raise them"
        )
    most = settings.stop_parameters
    if limits.max_parameters is not None:
        most = min(most, limits.max_parameters)
    sizes = family.parse_targets(targets, counted.parameters, most)
    fixed = dict(arch=str(arch), width=settings.width, proxy_divisor=settings.proxy_divisor)
    predictor = run.scoring.predictor
    with _scoring(directory, run, fixed) as (scorer, skipped):
        if predictor is not None:
            print(
                f"it is of networks of width {predictor.width} with a block a stage; for the wider and deeper ones of "
                "a growth it extrapolates, untested",
                file=sys.stderr,
            )
        result = growth.grow(directory, arch, settings, scorer, limits, progress=True)
        members = result["family"]
        configs, missed = family.write_configs(directory / "configs", members, sizes, limits)
        figure = figures.save(directory / "growth.png", figures.growth_figure(members, others=True))
    return dict(
        **result,
        topologies=[member["topology"] for member in members],
        scores=members[-1]["scores"],
        configs=configs,
        missed=missed,
        **skipped.as_dict(),
        figure=figure,
    )


def _at_width(width: int, scorer: Scorer) -> Scorer:
    """The scorer, but of topologies with one block a stage, beginning at that width."""
    return lambda topologies: scorer([topology.scaled(width, (1,) * NUM_STAGES) for topology in topologies])


@contextlib.contextmanager
def _scoring(directory: Path, run: ScoredRun, fixed: dict[str, Any]) -> Iterator[tuple[Scorer, Skipped]]:
    """Locks the directory; yields a scorer that remembers, and which image files were skipped.

    Args:
      directory: Directory of the run.
      run: Settings of the run.
      fixed: What else must not change between starts.
    """
    workers = run.workers
    if not workers.spread and workers.threads is not None:
        from search.runs.workers import set_threads

        set_threads(workers.threads)  # Before anything starts TensorFlow.
    if run.scoring.predictor is not None:
        print(f"predicted accuracy: {run.scoring.predictor.evidence}", file=sys.stderr)
    earlier = {"base_stride": STRIDE, **({"strategy": SEARCH_STRATEGIES[0]} if "strategy" in fixed else {})}
    with workspace(directory, {**run.identity(), **fixed}, earlier) as owned:
        try:
            images, skipped = _images(owned / "images.npz", run.images, run.scoring.seed)
            with _scorer(run, images) as scorer:
                yield Remembered(scorer, owned / "scores.jsonl"), skipped
        except UserError:
            if not (owned / "scores.jsonl").exists():  # Nothing is lost: other settings may be tried here.
                for name in ("settings.json", "images.npz"):
                    (owned / name).unlink(missing_ok=True)
            raise


def _images(path: Path, settings: ImageSettings, seed: int) -> tuple[np.ndarray, Skipped]:
    """The images of the whole run: drawn once and kept, so that it continues with the same ones."""
    from asvit_tf.dataloaders.images import Source, sample

    if not path.exists():
        source = Source.of_flags(settings.dataset, settings.data_path, settings.data_dir)
        images, skipped = sample(source, settings.batch_size, settings.size, seed, progress=True)
        partial = path.with_name("partial.npz")
        np.savez(partial, images=images, skipped=skipped.text())
        partial.replace(path)
    with np.load(path) as kept:
        text = str(kept["skipped"])
        if text.isdigit():  # Of an earlier version: how many.
            return kept["images"], Skipped((("a file", "not known"),) * int(text))
        return kept["images"], Skipped.of_text(text)


@contextlib.contextmanager
def _scorer(run: ScoredRun, images: np.ndarray) -> Iterator[Scorer]:
    from search.runs import cluster
    from search.runs.workers import ParallelScorer
    from search.scoring.predicting import scorer_of

    if run.workers.spread:
        with cluster.opened(run.workers) as pool:
            yield ParallelScorer(run.scoring, images, pool)
    else:
        yield scorer_of(run.scoring, images)
