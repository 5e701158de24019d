"""The design of one run: searched and grown on the run's own images, or kept from a network trained before."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asvit_tf.dataloaders import classification as data
from asvit_tf.dataloaders import images
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.journals import Journal
from asvit_tf.modeling import checkpoints
from asvit_tf.serving import export
from asvit_tf.training.saving import best
from search.runs import cluster
from search.runs.search_settings import WorkerSettings
from search.runs.settings import PROXY_DIVISOR, RunSettings
from search.runs.workers import ParallelScorer
from search.scoring.score import Remembered, Score, Scorer
from search.scoring.settings import ScoringSettings
from search.scoring.training_free import TrainingFreeScorer
from search.strategy import growth, loop, space
from search.strategy.limits import Limits
from search.strategy.settings import LEAST_HEAD_DIM, GrowthSettings, SearchSettings

# Growth stops once a member has this share of the budget: one more step would rarely fit, and each one costs a minute.
_FULL_ENOUGH = 0.8
_LATELY = 24  # Scores whose seconds say how long the next one takes.


def once(path: Path, step: Callable[[Path], dict[str, Any]], key: str | None = None) -> dict[str, Any]:
    """A step's `result.json`, made if it is not there, or lacks a key that earlier versions did not write.

    Args:
      path: The step's directory.
      step: Writes it there, and returns it.
      key: Of the result.
    """
    path.mkdir(exist_ok=True)
    written = path / "result.json"
    result = json.loads(written.read_text(encoding="utf-8")) if written.exists() else None
    return result if result is not None and (key is None or key in result) else step(path)


@contextlib.contextmanager
def scoring(
    directory: Path, settings: RunSettings, dataset: data.Dataset, workers: WorkerSettings = WorkerSettings()
) -> Iterator[Scorer]:
    """Scores on a data set's images, each topology once, for the length of a `with` block.

    Where search and growth have their results nothing is left to score; then no worker is started or asked for.

    Args:
      directory: Of the run.
      settings: Of the run.
      dataset: Whose training images are taken.
      workers: What scores.

    Raises:
      UserError: There are fewer images than a score takes, or the cluster cannot be used.
    """
    if all((directory / step / "result.json").exists() for step in ("search", "grow")):
        yield _nothing_left
        return
    source, batch = images.Source(data_path=dataset.train_path), min(settings.score_batch, dataset.train_examples)
    if batch < 2:
        raise UserError(f"there is {batch} training image; the NTK of a score needs at least 2")
    sample, _ = images.sample(source, batch, settings.size, settings.seed, progress=True)
    options = ScoringSettings(
        image_size=settings.size,
        base_stride=settings.stride,
        repeats=settings.repeats,
        seed=settings.seed,
    )
    path = directory / "scores.jsonl"
    if workers.spread:
        with cluster.opened(workers) as pool:
            yield Remembered(ParallelScorer(options, sample, pool), path)
    else:
        yield Remembered(TrainingFreeScorer(options, sample), path)


def _nothing_left(topologies: Sequence[Topology]) -> Iterator[Score]:
    raise AssertionError(f"search and growth are done; nobody needs scores of {topologies}")


def limits(settings: RunSettings, num_classes: int) -> Limits:
    """What the trained network may have."""
    return Limits(settings.most_parameters, None, settings.size, num_classes, settings.stride)


def fitting(settings: RunSettings) -> space.Space:
    """The topologies that fit the images.

    They have the width that growth starts from, so that what is trained is never narrower than what was found.
    """
    return space.fitting(settings.size, settings.stride, settings.width, LEAST_HEAD_DIM)


def smallest(settings: RunSettings) -> Topology:
    """The topology of the fitting space that has the first of all choices."""
    choices = fitting(settings)
    return choices.topology_at([0] * len(choices.choices))


def seconds_of_a_score(settings: RunSettings, scored: Scorer) -> float:
    """Seconds that a score takes: those of the second of two, as they were measured; the first also starts TensorFlow.

    Not those of the call: what a killed start has scored is at hand at once, and a cluster's worker has to start.
    """
    choices = fitting(settings)
    ends = [choices.topology_at([i * (len(options) - 1) for options in choices.choices.values()]) for i in (0, 1)]
    for topology in ends:
        (score,) = scored([topology])
    return score.seconds


def search(directory: Path, settings: RunSettings, scored: Scorer, num_classes: int, steps: int) -> dict[str, Any]:
    """The found topology, as `loop.search` returns it."""
    allowed = limits(settings, num_classes)
    options = SearchSettings(total_steps=steps, seed=settings.seed)
    return once(
        directory / "search",
        lambda path: loop.search(path, options, scored, allowed, fitting(settings), progress=True),
    )


def growth_settings(settings: RunSettings) -> GrowthSettings:
    """How a run's network is grown."""
    stop = round(_FULL_ENOUGH * settings.most_parameters)
    return GrowthSettings(settings.width, PROXY_DIVISOR, stop_parameters=stop)


def growth_seconds(directory: Path, settings: RunSettings, topology: Topology, num_classes: int) -> float:
    """About what the growth of a searched topology will take, by the scores of the search."""
    candidates = growth.expected_candidates(topology, growth_settings(settings), limits(settings, num_classes))
    return candidates * score_seconds(directory)


def score_seconds(directory: Path) -> float:
    """Seconds that a score of this run takes: the median of the last ones, which were of networks of like size."""
    rows = Journal(directory / "scores.jsonl").rows[-_LATELY:]
    return statistics.median(row["seconds"] for row in rows) if rows else 0.0


class GrowthRate:
    """Seconds that a candidate of growth takes, workers side by side: by the clock, once this start has scored some.

    Args:
      directory: Of the run.
      side_by_side: Workers that are known beforehand; those of a scheduler elsewhere show in the clock only.
    """

    def __init__(self, directory: Path, side_by_side: int):
        self._directory = directory
        self._side_by_side = side_by_side
        self._before: tuple[float, int] | None = None

    def __call__(self) -> float:
        """Call it before each step of growth."""
        now, scored = time.monotonic(), len(Journal(self._directory / "scores.jsonl").rows)
        before, self._before = self._before, (now, scored)
        if before is None or scored == before[1]:  # Behind a kill steps are remembered at first.
            return score_seconds(self._directory) / self._side_by_side
        return (now - before[0]) / (scored - before[1])


def grow(
    directory: Path,
    settings: RunSettings,
    topology: Topology,
    scored: Scorer,
    num_classes: int,
    stop: Callable[[int], bool] | None,
) -> dict[str, Any]:
    """The family, as `growth.grow` returns it; `stop` ends it.

    Raises:
      UserError: Not even the smallest network fits the budget.
    """
    allowed, budget, options = limits(settings, num_classes), settings.most_parameters, growth_settings(settings)
    smallest = allowed.count(options.start(topology)).parameters
    if smallest > budget:
        raise UserError(
            f"the smallest network of this topology has {smallest / 1e6:.2f} M parameters, over the budget of "
            f"{settings.budget:g} M; start again in another directory with a larger budget"
        )
    return once(
        directory / "grow",
        lambda path: growth.grow(path, topology, options, scored, allowed, progress=True, stop=stop),
    )


@dataclasses.dataclass(frozen=True)
class Kept:
    """A network that was trained before.

    Attributes:
      topology: Its topology.
      base_stride: Pixels between its tokens at the finest tokenization.
      checkpoint: Directory or checkpoint with its weights.
      class_names: That it tells apart.
    """

    topology: Topology
    base_stride: int
    checkpoint: str
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, path: str) -> Kept:
        """That of a run's directory, or of a training's.

        Raises:
          UserError: There is none, or it is no As-ViT classifier.
        """
        directory = Path(path) / "train" if (Path(path) / "train" / "params.yaml").exists() else Path(path)
        params = export.read_params(str(directory))
        backbone = getattr(getattr(params.task.model, "backbone", None), "asvit", None)
        if backbone is None or not hasattr(params.task, "class_names"):
            raise UserError(f"init_checkpoint {path} holds no As-ViT classifier")
        found = best.read(directory)
        if found is None and checkpoints.newest(directory) is None:
            raise UserError(f"init_checkpoint {path} holds no checkpoint; train it first")
        checkpoint = found.checkpoint if found else str(directory)
        names = tuple(params.task.class_names)
        return cls(Topology.parse(backbone.topology), backbone.base_stride, checkpoint, names)

    def family(self, settings: RunSettings, num_classes: int) -> list[dict[str, Any]]:
        """The network as the one member of its family."""
        sizes = dataclasses.replace(limits(settings, num_classes), base_stride=self.base_stride)
        counted = sizes.count(self.topology)
        return [dict(topology=str(self.topology), parameters=counted.parameters, macs=counted.macs, scores=None)]
