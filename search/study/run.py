"""The study: do the training-free measures predict the accuracy of trained networks?

Topologies are drawn from the search space, measured, and trained briefly. A row for each goes to `topologies.jsonl` as
soon as it is done, further seeds of some topologies go to `repeats.jsonl`; started again, only what is missing is done.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import tqdm

from asvit_tf.choices import EMBEDDED
from asvit_tf.dataloaders.folders import layout
from asvit_tf.dataloaders.imagefiles.skipped import Skipped
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.journals import Journal, workspace
from search.runs.search_settings import WorkerSettings
from search.strategy.space import Space, single_token_share
from search.study.settings import EARLIER, StudySettings

Row = dict[str, Any]

# Of a worker, in bytes; a training of the Model Garden's leaves 0.01 to 0.02 GB behind.
_GROWTH = 2e9

# What a row has.
_NUMBER = (int, float, NoneType)
_TRAINED: dict[str, Any] = {"topology": str, "accuracy": _NUMBER, "loss": _NUMBER, "failed": dict, "seconds": dict}
_MEASURED: dict[str, Any] = dict.fromkeys(("measures", "errors", "failures", "reasons"), dict)


def sample(space: Space, count: int, seed: int) -> list[Topology]:
    """Different topologies of a space, each as likely; the first of more are the same as those of fewer.

    Args:
      space: The space.
      count: How many, up to its size.
      seed: Seed of the draws.
    """
    generator = np.random.default_rng([seed, 0])
    drawn: dict[str, Topology] = {}
    while len(drawn) < count:
        topology = space.topology_at([int(generator.integers(len(options))) for options in space.choices.values()])
        drawn.setdefault(str(topology), topology)
    return list(drawn.values())


def warnings(settings: StudySettings) -> Iterator[str]:
    """What makes the sampled space say little about attention; nothing where it is sound."""
    share = single_token_share(settings.sampled, settings.size, settings.stride)
    if share > 0:
        yield (
            f"{share:.0%} of the space have attention windows of a single token at {settings.image_size} pixels and a "
            f"base stride of {settings.stride}: attention does nothing there, and kernels do all the mixing; "
            "--space fitting leaves them out"
        )
    fixed = [name for name in settings.sampled.choices if name not in settings.sampled.free]
    if "num_heads" in fixed or {"splits_1", "splits_2", "splits_3"} <= {*fixed}:
        yield (
            f"the same for all topologies at width {settings.width}: {', '.join(fixed)}; the study says nothing about "
            "these choices"
        )


def run(save_dir: str, settings: StudySettings, workers: WorkerSettings = WorkerSettings()) -> dict[str, Any]:
    """Runs the study, or continues it.

    Args:
      save_dir: For everything; holds results of one `StudySettings`, but for its extent.
      settings: What to study.
      workers: Processes, each with one topology at a time.

    Returns:
      What `result.json` holds: see `study_result.summarize`.

    Raises:
      UserError: The images cannot be used, the directory is of another study or cannot be seen by a worker, or fewer
        than three trainings ended well.
    """
    for warning in warnings(settings):
        print(f"warning: {warning}", file=sys.stderr)
    if settings.data_path is not None and not (Path(save_dir) / "data" / "dataset.json").exists():
        layout(settings.data_path, [save_dir])
    with workspace(save_dir, settings.identity(), EARLIER) as directory, contextlib.ExitStack() as opened:
        try:
            from search.runs import cluster
            from search.runs.workers import set_threads

            if not workers.spread:
                set_threads(workers.threads_each)  # Before anything starts TensorFlow.
            pool = opened.enter_context(cluster.opened(workers, _GROWTH))
            own = not (directory / "data").exists()
            images, shares, skipped = prepare(directory, settings)
        except UserError:
            if not (directory / "topologies.jsonl").exists():  # Nothing is lost: other settings may be tried here.
                (directory / "settings.json").unlink(missing_ok=True)
                if own:
                    shutil.rmtree(directory / "data", ignore_errors=True)
            raise
        rows, repeats = _rows(directory, settings, images, pool.map)
        from search.study import report as study_report
        from search.study import result as study_result

        rows, repeats = (study_result.without_guessing(part, shares) for part in (rows, repeats))
        columns = study_result.columns_of(settings, rows, len(shares))
        result = {**study_result.summarize(settings, rows, repeats, columns), **skipped.as_dict()}
        predictor = study_result.predictor_of(settings, rows, columns, len(shares), result["selection"])
        return study_report.write(directory, rows, columns, result, predictor)


def prepare(directory: Path, settings: StudySettings) -> tuple[np.ndarray, list[float], Skipped]:
    """Writes the TFRecords into the directory's `data`, where they are not yet.

    Returns:
      The images of the NTK, normalized; the share of each class in the held-out images; what was not read.

    Raises:
      UserError: There are too few images, or none.
    """
    from asvit_tf.dataloaders import classification as data
    from asvit_tf.dataloaders import images

    dataset = data.prepare(
        directory / "data",
        settings.data_path,
        progress=True,
        embedded=settings.dataset or EMBEDDED[0],
        without=[directory],
    )
    if settings.score_batch > dataset.train_examples:
        raise UserError(
            f"score_batch is {settings.score_batch}, but there are {dataset.train_examples} training images"
        )
    source = images.Source(data_path=dataset.train_path)
    drawn, _ = images.sample(source, settings.score_batch, settings.size, settings.seed, progress=True)
    return drawn, dataset.shares("validation"), dataset.all_skipped


def _rows(
    directory: Path, settings: StudySettings, images: np.ndarray, spread: Callable[..., Iterator[Row]]
) -> tuple[list[Row], list[Row]]:
    """Rows of all topologies, and of all repeats, in their order; what the journals lack is done first."""
    from search.study import work as study_work

    shutil.rmtree(directory / study_work.SCRATCH, ignore_errors=True)
    drawn = list(map(str, sample(settings.sampled, settings.topologies, settings.seed)))
    again = [
        (topology, settings.seed + number)
        for topology in drawn[: settings.repeated_topologies]
        for number in range(1, settings.seed_repeats)
    ]
    first = Journal(directory / "topologies.jsonl", {**_TRAINED, **_MEASURED})
    more = Journal(directory / "repeats.jsonl", {**_TRAINED, "seed": int})
    measured = {row["topology"] for row in first.rows}
    repeated = {(row["topology"], row["seed"]) for row in more.rows}
    with tqdm.tqdm(total=len(drawn) + len(again), desc="study", unit="training") as bar:
        bar.update(sum(topology in measured for topology in drawn) + sum(key in repeated for key in again))
        place = str(directory.resolve())  # A worker may have another working directory.
        # One queue, so that no worker waits for another between the two kinds.
        calls: list[tuple] = [(topology, None) for topology in drawn if topology not in measured]
        calls += [key for key in again if key not in repeated]
        for row in spread(study_work.work, calls, (settings, place, images)) if calls else ():
            (more if "seed" in row else first).append(row)
            _show(row, bar)
    shutil.rmtree(directory / study_work.SCRATCH, ignore_errors=True)
    rows = {row["topology"]: row for row in first.rows}
    others = {(row["topology"], row["seed"]): row for row in more.rows}
    return [rows[topology] for topology in drawn], [others[key] for key in again]


def _show(row: Row, bar: tqdm.tqdm) -> None:
    for part, reason in row["failed"].items():
        bar.write(f"{row['topology']}: {part} failed: {reason}", file=sys.stderr)
    if row["accuracy"] is not None:
        bar.set_postfix_str(f"last accuracy {row['accuracy']:.3f}", refresh=False)
    bar.update()
