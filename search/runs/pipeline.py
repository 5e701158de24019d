"""The whole path in order: images, search, growth, training, export, report. Each step continues where it was killed.

Every step leaves one result when it is done (a `result.json`, the SavedModel), and a step whose result is there is not
repeated. The same function serves the embedded digits and a user's own images.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg

from asvit_tf import (
    private_names,
    registry_imports,  # noqa: F401
)
from asvit_tf.dataloaders import classification as data
from asvit_tf.dataloaders import images
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.hardware.choice import Chosen
from asvit_tf.journals import Journal
from asvit_tf.modeling import checkpoints
from asvit_tf.serving import export
from asvit_tf.storage import write_json, write_text
from asvit_tf.tasks import baselines, classification, schedules
from asvit_tf.training import guard, step_log
from asvit_tf.training import run as train
from asvit_tf.training.runtimes import Runtime
from search.report import run_page
from search.runs.search_settings import WorkerSettings
from search.runs.settings import PROXY_DIVISOR, RunSettings
from search.runs.workers import ParallelScorer
from search.scoring.score import Remembered, Scorer
from search.scoring.settings import ScoringSettings
from search.scoring.training_free import TrainingFreeScorer
from search.strategy import growth, reinforce, space
from search.strategy.limits import Limits
from search.strategy.settings import LEAST_HEAD_DIM, GrowthSettings, SearchSettings

# Growth stops once a member has this share of the budget: one more step would rarely fit, and each one costs a minute.
_FULL_ENOUGH = 0.8


def run(
    directory: Path, settings: RunSettings, say: Callable[[str], None], chosen: Chosen = Chosen()
) -> dict[str, Any]:
    """Runs every step that is not done yet.

    Args:
      directory: For everything; owned by this process (`journals.workspace`).
      settings: What to run.
      say: Receives a line at the start of each step.
      chosen: Devices, as `doctor.devices.take` took them; no part of the settings, so another start may have others.

    Returns:
      `topology` (found by search), `grown` (trained), `parameters`; on held-out images, at all tokens, `accuracy` with
      its 95 % interval `accuracy_interval`,
      `majority_share`, `balanced_accuracy`, `learned` and `too_few_examples` (see `baselines.Verdict`); `saved_model`,
      None where nothing was learned; `report`, `seconds` (an object, by step: near 0 for what was done before), what
      `Skipped.as_dict` says of image files, `test_accuracy` and `test_balanced_accuracy` (None without a test split),
      `failed_scores` (topologies that the search could not score), `rollbacks` (a `verdicts.Rollback` each),
      `hardware` (`Chosen.name`, of the start that finished).

    Raises:
      UserError: The images are too few or cannot be read, no network fits the budget, or a batch cannot be divided
        among the devices.
    """
    return _Run(directory, settings, say, chosen).everything()


class _Run:
    """One run's directory and settings; each method is one step."""

    def __init__(self, directory: Path, settings: RunSettings, say: Callable[[str], None], chosen: Chosen):
        self.directory = directory
        self.settings = settings
        self._chosen = chosen
        self._runtime = Runtime(chosen, settings.batch_size)
        self.seconds: dict[str, float] = {}
        self._say = say

    def everything(self) -> dict[str, Any]:
        """All steps; of a run that is finished, what it wrote."""
        written = self.directory / "result.json"
        if written.exists():
            finished = json.loads(written.read_text(encoding="utf-8"))
            if "learned" in finished:  # Else it is of an earlier version: its network is evaluated again.
                return self._placed(finished)
        self._say(f"hardware: {self._runtime}")
        dataset = self._timed("data", self.prepare_data)
        scorer = self._scorer(dataset)
        found = self._timed("search", self.search_seed, scorer, len(dataset.class_names))
        grown = self._timed("grow", self.grow_seed, Topology.parse(found["topology"]), scorer, len(dataset.class_names))
        params = classification.classifier(self._plan(), dataset, Topology.parse(grown["topology"]))
        if len(self._chosen.gpus) > 1:
            private_names.end_workers()  # Training needs the memory that they hold of their GPUs.
        self._runtime.apply(params, dataset.validation_examples)
        metrics = self._timed("train", self.train_model, params)
        failed = baselines.is_failure(metrics)
        saved_model = None if failed else self._timed("export", self.export_model, params).name
        tested = self._timed("test", self.evaluate_test, params, dataset) if dataset.test_path else None
        result = dict(
            topology=found["topology"],
            grown=grown["topology"],
            parameters=grown["family"][-1]["parameters"],
            accuracy=metrics["accuracy"],
            accuracy_interval=baselines.interval(metrics["accuracy"], dataset.validation_examples),
            majority_share=metrics["majority_share"],
            balanced_accuracy=metrics["balanced_accuracy"],
            learned=bool(metrics["learned"]),
            too_few_examples=bool(metrics.get("too_few_examples")),
            saved_model=saved_model,
            report="report.html",
            test_accuracy=None if tested is None else tested["accuracy"],
            test_accuracy_interval=(
                None if tested is None else baselines.interval(tested["accuracy"], dataset.test_examples)
            ),
            test_balanced_accuracy=None if tested is None else tested["balanced_accuracy"],
            **dataset.all_skipped.as_dict(),
            failed_scores=found["failed"],
            rollbacks=list(map(dataclasses.asdict, guard.read_rollbacks(self.directory / "train"))),
            seconds=self.seconds,
            hardware=self._chosen.name,
        )
        self._timed("report", self.write_report, params, grown["family"], result)
        write_json(written, result)
        return self._placed(result)

    def _placed(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result with paths; kept are names, because the directory may be moved."""
        names = {key: result[key] for key in ("saved_model", "report") if result[key] is not None}
        return {**result, **{key: str(self.directory / Path(name).name) for key, name in names.items()}}

    def _plan(self) -> classification.Plan:
        """How the grown network is trained."""
        names = [field.name for field in dataclasses.fields(classification.Plan)]
        return classification.Plan(**{name: getattr(self.settings, name) for name in names})

    def _timed(self, name: str, step: Callable, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = step(*arguments)
        self.seconds[name] = time.perf_counter() - start
        return result

    def prepare_data(self) -> data.Dataset:
        self._say("reading images")
        return data.prepare(self.directory / "data", self.settings.data_path, progress=True, without=[self.directory])

    def _scorer(self, dataset: data.Dataset) -> Scorer:
        """Scores on this data set's images, each topology once."""
        settings = self.settings
        size = (settings.image_size, settings.image_size)
        if settings.score_batch > dataset.train_examples:
            raise UserError(
                f"score_batch is {settings.score_batch}, but there are {dataset.train_examples} training images"
            )
        source = images.Source(data_path=dataset.train_path)
        sample, _ = images.sample(source, settings.score_batch, size, settings.seed, progress=True)
        scoring = ScoringSettings(
            image_size=size, base_stride=self._base_stride, repeats=settings.repeats, seed=settings.seed
        )
        gpus = self._chosen.worker_gpus()
        workers = WorkerSettings(len(gpus), gpus=gpus)
        scorer: Scorer = (
            TrainingFreeScorer(scoring, sample) if len(gpus) == 1 else ParallelScorer(scoring, sample, workers)
        )
        return Remembered(scorer, self.directory / "scores.jsonl")

    @property
    def _base_stride(self) -> int:
        assert self.settings.base_stride is not None  # Settings resolve it.
        return self.settings.base_stride

    def _limits(self, num_classes: int) -> Limits:
        size = (self.settings.image_size, self.settings.image_size)
        return Limits(round(self.settings.budget * 1e6), None, size, num_classes, self._base_stride)

    def search_seed(self, scorer: Scorer, num_classes: int) -> dict[str, Any]:
        """At the width that growth starts from, so that what is trained is never narrower than what was found."""
        self._say(f"searching a seed topology: {self.settings.search_steps} steps")
        limits = self._limits(num_classes)
        fitting = space.fitting(limits.image_size, self._base_stride, self.settings.width, LEAST_HEAD_DIM)
        options = SearchSettings(total_steps=self.settings.search_steps, seed=self.settings.seed)
        return self._once(
            "search", lambda path: reinforce.search(path, options, scorer, limits, fitting, progress=True)
        )

    def grow_seed(self, topology: Topology, scorer: Scorer, num_classes: int) -> dict[str, Any]:
        self._say(f"growing {topology} to {self.settings.budget:g} M parameters")
        limits = self._limits(num_classes)
        budget = round(self.settings.budget * 1e6)
        options = GrowthSettings(self.settings.width, PROXY_DIVISOR, stop_parameters=round(_FULL_ENOUGH * budget))
        smallest = limits.count(options.start(topology)).parameters
        if smallest > budget:
            raise UserError(
                f"the smallest network of this topology has {smallest / 1e6:.2f} M parameters, over the budget of "
                f"{self.settings.budget:g} M; start again in another directory with a larger budget"
            )
        return self._once("grow", lambda path: growth.grow(path, topology, options, scorer, limits, progress=True))

    def _once(self, name: str, step: Callable[[Path], dict[str, Any]], key: str | None = None) -> dict[str, Any]:
        """The step's `result.json`, made if it is not there, or lacks a key that earlier versions did not write."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        path = directory / "result.json"
        result = json.loads(path.read_text()) if path.exists() else None
        return result if result is not None and (key is None or key in result) else step(directory)

    def train_model(self, params: cfg.ExperimentConfig) -> dict[str, Any]:
        self._say(f"training {params.task.model.backbone.asvit.topology}: {self.settings.epochs} epochs")
        directory = self.directory / "train"

        def trained(path: Path) -> dict[str, Any]:
            metrics = train.run(params, str(path), "train_and_eval", progress=True, root=str(self.directory))
            write_json(path / "result.json", metrics)
            return metrics

        return self._once(directory.name, trained, "learned")

    def evaluate_test(self, params: cfg.ExperimentConfig, dataset: data.Dataset) -> dict[str, Any]:
        """Metrics on the test split, of which nothing before has seen an image."""
        self._say(f"evaluating {dataset.test_examples} images of the test split")
        params = copy.deepcopy(params)
        params.task.validation_data.input_path = dataset.test_path
        self._runtime.evaluate(params, dataset.test_examples)

        def tested(path: Path) -> dict[str, Any]:
            # In a directory of its own: the training's holds the curve of the validation images.
            newest = checkpoints.newest(str(self.directory / "train"))
            assert newest is not None  # Training has ended.
            for file in checkpoints.files_of(newest):
                shutil.copy(file, path)
            tf.compat.v1.train.update_checkpoint_state(str(path), str(path / Path(newest).name))
            metrics = train.run(params, str(path), "eval", progress=True, root=str(self.directory))
            write_json(path / "result.json", metrics)
            return metrics

        return self._once("test", tested)

    def export_model(self, params: cfg.ExperimentConfig) -> Path:
        saved_model = self.directory / "saved_model"
        if not saved_model.exists():
            self._say("exporting")
            export.export(params, str(self.directory / "train"), str(saved_model))
        return saved_model

    def write_report(self, params: cfg.ExperimentConfig, family: list[dict[str, Any]], result: dict[str, Any]) -> None:
        self._say("writing the report")
        directory = self.directory
        page = run_page.render(
            source=self.settings.data_path or "scikit-learn's handwritten digits (embedded)",
            result=result,
            search_trace=Journal(directory / "search" / "trace.jsonl").rows,
            family=family,
            training=run_page.Training(
                schedule=schedules.schedule_of(params),
                planned=train.plan_of(params),
                blocks=step_log.read_blocks(directory / "train"),
                evaluations=train.read_evaluations(directory / "train"),
            ),
        )
        write_text(directory / "report.html", page)
