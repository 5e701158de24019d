"""The whole path in order: images, search, growth, training, export, answers to held-out images, report.

Each step continues where it was killed. Every step leaves one result when it is done (a `result.json`, the
SavedModel), and a step whose result is there is not repeated. The same function serves the embedded digits and a user's
own images.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
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
from asvit_tf.design.topology import Topology
from asvit_tf.hardware.choice import Chosen
from asvit_tf.modeling import checkpoints
from asvit_tf.serving import export
from asvit_tf.storage import write_json
from asvit_tf.tasks import baselines, photographs, plans
from asvit_tf.training import guard
from asvit_tf.training import run as train
from asvit_tf.training.runtimes import Runtime
from asvit_tf.training.saving import best
from search.runs import designing, evidence, reporting, timetable, trainings
from search.runs.planning import Planning
from search.runs.search_settings import WorkerSettings
from search.runs.settings import RunSettings
from search.runs.timetable import Timetable
from search.scoring.score import Scorer


def run(
    directory: Path,
    settings: RunSettings,
    say: Callable[[str], None],
    chosen: Chosen = Chosen(),
    started: float | None = None,
    cluster: str | None = None,
) -> dict[str, Any]:
    """Runs every step that is not done yet.

    Args:
      directory: For everything; owned by this process (`journals.workspace`).
      settings: What to run.
      say: Receives a line at the start of each step.
      chosen: Devices, as `doctor.devices.take` took them; no part of the settings, so another start may have others.
      started: When the command began, of `time.monotonic`, for `hours`; None for now.
      cluster: Of Dask, whose workers score (see `WorkerSettings`); it trains nothing.

    Returns:
      `topology` (found by search), `grown` (trained), `parameters`; on held-out images, at all tokens, `accuracy` with
      its 95 % interval `accuracy_interval`, `majority_share`, `balanced_accuracy`, `learned` and `too_few_examples`
      (see `baselines.Verdict`); `saved_model`, None where nothing was learned; `report`, `seconds` (an object, by step:
      near 0 for what was done before), what `Skipped.as_dict` says of image files, `test_accuracy` and
      `test_balanced_accuracy` (None without a test split), `failed_scores` (topologies that the search could not
      score), `rollbacks` (a `verdicts.Rollback` each), `hardware` (`Chosen.name`, of the start that finished),
      `best_step` (steps of the network that is reported and exported, the best of all evaluations; None where an
      earlier version trained it: the last), `diverged` (what ended the training before its last step, behind the last
      set-back; None where nothing did), `duplicates` (what `imagefiles.duplicates.count` found; None for images
      that an earlier version prepared), `calibration_error` (on the validation images, see `calibration.Reliability`).

    Raises:
      UserError: The images are too few or cannot be read, no network fits the budget, or a batch cannot be divided
        among the devices.
      DivergedError: The training lost what it had learned, and no evaluation had found a network that learned.
    """
    started = time.monotonic() if started is None else started
    return _Run(directory, settings, say, chosen, started, cluster).everything()


_OVER = 1.15  # Of the hours: what is beyond is said.


@dataclasses.dataclass(frozen=True)
class _Design:
    """What is trained.

    Attributes:
      found: The searched topology.
      family: Members from the smallest to the trained one.
      failed: Topologies that the search could not score.
    """

    found: str
    family: list[dict[str, Any]]
    failed: int

    @property
    def grown(self) -> str:
        """The trained topology."""
        return self.family[-1]["topology"]


class _Run:
    """One run's directory and settings; each method is one step."""

    def __init__(
        self,
        directory: Path,
        settings: RunSettings,
        say: Callable[[str], None],
        chosen: Chosen,
        started: float,
        cluster: str | None,
    ):
        self.directory = directory
        self._chosen = chosen
        gpus = chosen.worker_gpus()
        self._workers = WorkerSettings(1 if cluster else len(gpus), gpus=gpus, cluster=cluster)
        self.seconds: dict[str, float] = {}
        self._say = say
        self._timetable = (
            None if settings.hours is None else Timetable(directory / "timetable.json", settings.hours, started)
        )
        kept = None if settings.init_checkpoint is None else designing.Kept.of(settings.init_checkpoint)
        self._planning = Planning(directory, settings, Runtime(chosen, settings.batch_size), kept)

    @property
    def settings(self) -> RunSettings:
        """Of the run; the base stride may be decided on the way."""
        return self._planning.settings

    def everything(self) -> dict[str, Any]:
        """All steps; of a run that is finished, what it wrote."""
        written = self.directory / "result.json"
        if written.exists():
            finished = json.loads(written.read_text(encoding="utf-8"))
            if "learned" in finished:  # Else it is of an earlier version: its network is evaluated again.
                return self._placed(finished)
        self._choose_dtype()
        self._say(f"hardware: {self._planning.runtime}")
        dataset = self._timed("data", self.prepare_data)
        self._planning.check(dataset)
        if self._timetable is not None and self.settings.base_stride is None and self._planning.kept is None:
            self._planning = self._planning.with_base_stride(dataset, self._timetable, self._say)
        design = self.design(dataset)
        if len(self._chosen.gpus) > 1:
            private_names.end_workers()  # Training needs the memory that they hold of their GPUs.
        params = self._planning.experiment(dataset, Topology.parse(design.grown))
        if self._timetable is not None:
            choice = self._timetable.choice(functools.partial(self._planning.choose, dataset, design.family, self._say))
            if self._timetable.used + choice.seconds + timetable.END_SECONDS > _OVER * self._timetable.total:
                self._say(
                    f"warning: even the least training here takes longer than --hours {self.settings.hours:g} leaves; "
                    "fewer pixels by --image-size, or a larger --base-stride, make it shorter"
                )
            design = dataclasses.replace(design, family=design.family[: choice.member + 1])
            params = self._planning.experiment(dataset, Topology.parse(design.grown), choice.epochs)
            self._say(
                f"training will take about {timetable.span(choice.seconds)}, export and report "
                f"{timetable.span(timetable.END_SECONDS)}; {timetable.span(self._timetable.used)} are gone"
            )
        metrics = self._timed("train", self.train_model, params)
        params = trainings.with_changed_epochs(params, self._timetable)
        failed = baselines.is_failure(metrics)
        saved_model = None if failed else self._timed("export", self.export_model, params).name
        tested = self._timed("test", self.evaluate_test, params, dataset) if dataset.test_path else None
        asked = (self.directory, params, dataset, self._say, evidence.checkpoint_of(params, self.directory))
        held_out = self._timed("predictions", evidence.predict, *asked)
        serving = None if failed else self._timed("serving", evidence.serve, *asked)
        result = dict(
            topology=design.found,
            grown=design.grown,
            parameters=design.family[-1]["parameters"],
            accuracy=metrics["accuracy"],
            accuracy_interval=baselines.interval(metrics["accuracy"], dataset.validation_examples),
            majority_share=metrics["majority_share"],
            balanced_accuracy=metrics["balanced_accuracy"],
            learned=bool(metrics["learned"]),
            too_few_examples=bool(metrics.get("too_few_examples")),
            best_step=metrics.get("best_step"),
            diverged=metrics.get("diverged"),
            saved_model=saved_model,
            report=reporting.PAGE,
            test_accuracy=None if tested is None else tested["accuracy"],
            test_accuracy_interval=(
                None if tested is None else baselines.interval(tested["accuracy"], dataset.test_examples)
            ),
            test_balanced_accuracy=None if tested is None else tested["balanced_accuracy"],
            calibration_error=evidence.calibration_error(held_out),
            **dataset.all_skipped.as_dict(),
            duplicates=dataset.duplicates,
            failed_scores=design.failed,
            rollbacks=list(map(dataclasses.asdict, guard.read_rollbacks(self.directory / "train"))),
            seconds=self.seconds,
            hardware=self._chosen.name,
        )
        self._say("writing the report")
        self._timed("report", reporting.write, self.directory, params, dataset, result, held_out, serving, [])
        write_json(written, result)
        return self._placed(result)

    def _choose_dtype(self) -> None:
        """What training computes in, by the recipe; refuses fields of it before anything takes long."""
        dtype = plans.dtype(self._planning.plan(), self._chosen.dtype)
        self._chosen = dataclasses.replace(self._chosen, asked_dtype=dtype)
        runtime = Runtime(self._chosen, self.settings.batch_size)
        self._planning = dataclasses.replace(self._planning, runtime=runtime)

    def _placed(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result with paths; kept are names, because the directory may be moved."""
        names = {key: result[key] for key in ("saved_model", "report") if result[key] is not None}
        return {**result, **{key: str(self.directory / Path(name).name) for key, name in names.items()}}

    def _timed(self, name: str, step: Callable, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = step(*arguments)
        self.seconds[name] = time.perf_counter() - start
        if self._timetable is not None:
            self._timetable.keep()
        return result

    def prepare_data(self) -> data.Dataset:
        self._say("reading images")
        path, side = self.settings.data_path, photographs.stored_side(self.settings.size)
        return data.prepare(
            self.directory / "data",
            path,
            progress=True,
            without=[self.directory],
            stored_side=None if path is None else side,
        )

    def design(self, dataset: data.Dataset) -> _Design:
        """Searched and grown; or that of the network to start from."""
        settings, classes = self.settings, len(dataset.class_names)
        if self._planning.kept is not None:
            family = self._planning.kept.family(settings, classes)
            return _Design(str(self._planning.kept.topology), family, 0)
        with designing.scoring(self.directory, settings, dataset, self._workers) as scored:
            return self._searched_and_grown(dataset, scored)

    def _searched_and_grown(self, dataset: data.Dataset, scored: Scorer) -> _Design:
        settings, classes = self.settings, len(dataset.class_names)
        steps, stop = settings.search_steps, None
        if self._timetable is not None:
            steps = steps or self._timetable.search_steps(lambda: designing.seconds_of_a_score(settings, scored))
            rate = designing.GrowthRate(self.directory, self._workers.local_workers or self._workers.processes)
            stop = functools.partial(_ends_growth, self._timetable, rate)
        assert steps is not None  # Settings leave it open only where there is a timetable.
        self._say(f"searching a seed topology: {steps} steps")
        found = self._timed("search", designing.search, self.directory, settings, scored, classes, steps)
        topology = Topology.parse(found["topology"])
        took = designing.growth_seconds(self.directory, settings, topology, classes)
        aim = f"growing {topology} to at most {settings.budget:g} M parameters"
        if self._timetable is not None:
            aim, took = f"growing {topology}", min(took, max(0.0, self._timetable.growth_left))
        self._say(f"{aim}: about {timetable.span(took)}")
        grown = self._timed("grow", designing.grow, self.directory, settings, topology, scored, classes, stop)
        return _Design(found["topology"], grown["family"], found["failed"])

    def train_model(self, params: cfg.ExperimentConfig) -> dict[str, Any]:
        self._say(f"training {params.task.model.backbone.asvit.topology}: {plans.epochs_of(params)} epochs")
        timed = self._timetable if self.settings.epochs is None else None

        def trained(path: Path) -> dict[str, Any]:
            metrics = trainings.trained(path, params, timed, str(self.directory), self._say)
            write_json(path / "result.json", metrics)
            return metrics

        return designing.once(self.directory / "train", trained, "learned")

    def evaluate_test(self, params: cfg.ExperimentConfig, dataset: data.Dataset) -> dict[str, Any]:
        """Metrics on the test split, of which nothing before has seen an image."""
        self._say(f"evaluating {dataset.test_examples} images of the test split")
        params = copy.deepcopy(params)
        params.task.validation_data.input_path = dataset.test_path
        self._planning.runtime.evaluate(params, dataset.test_examples)

        def tested(path: Path) -> dict[str, Any]:
            # In a directory of its own: the training's holds the curve of the validation images.
            found = best.read(self.directory / "train")
            chosen = found.checkpoint if found else checkpoints.newest(str(self.directory / "train"))
            assert chosen is not None  # Training has ended.
            if found:
                params.trainer.optimizer_config.ema = None  # Its model has the averages.
            for file in checkpoints.files_of(chosen):
                shutil.copy(file, path)
            tf.compat.v1.train.update_checkpoint_state(str(path), str(path / Path(chosen).name))
            metrics = train.run(params, str(path), "eval", progress=True, root=str(self.directory))
            write_json(path / "result.json", metrics)
            return metrics

        return designing.once(self.directory / "test", tested)

    def export_model(self, params: cfg.ExperimentConfig) -> Path:
        saved_model = self.directory / "saved_model"
        if not saved_model.exists():
            self._say("exporting")
            found = best.read(self.directory / "train")
            checkpoint = found.checkpoint if found else None
            export.export(params, str(self.directory / "train"), str(saved_model), checkpoint=checkpoint)
        return saved_model


def _ends_growth(table: Timetable, rate: Callable[[], float], candidates: int) -> bool:
    """Whether there is no time to score so many candidates."""
    return table.growth_ends(candidates * rate())
