"""The whole path in order: images, search, growth, training, export, report. Each step continues where it was killed.

Every step leaves one result when it is done (a `result.json`, the SavedModel), and a step whose result is there is not
repeated. The same function serves the embedded digits and a user's own images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import importlib.resources
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from official.core import config_definitions as cfg
from official.core import exp_factory
from official.modeling import hyperparams

from asvit_tf import (
    baselines,
    block_log,
    configs,
    data,
    export,
    guard,
    images,
    registry_imports,  # noqa: F401
    rollback,
    savings,
    train,
)
from asvit_tf.errors import UserError
from asvit_tf.jsonfiles import write_json
from asvit_tf.topology import Topology
from search import grow, reinforce, report
from search.limits import Limits
from search.records import Journal
from search.scoring import Remembered, Scorer, Settings, TrainingFreeScorer
from search.settings import PROXY_DIVISOR, RunSettings

# Growth stops once a member has this share of the budget: one more step would rarely fit, and each one costs a minute.
_FULL_ENOUGH = 0.8


def run(directory: Path, settings: RunSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs every step that is not done yet.

    Args:
      directory: For everything; owned by this process (`records.workspace`).
      settings: What to run.
      say: Receives a line at the start of each step.

    Returns:
      `topology` (found by search), `grown` (trained), `parameters`; on held-out images, at all tokens, `accuracy`,
      `majority_share`, `balanced_accuracy` and `learned` (see `baselines.Verdict`); `saved_model`, None where nothing
      was learned; `report`, `seconds` (an object, by step: near 0 for what was done before), `skipped_images`,
      `failed_scores` (topologies that the search could not score), `rollbacks` (see `guard.Rollback`, an object each).

    Raises:
      UserError: The images are too few or cannot be read, or no network fits the budget.
    """
    return _Run(directory, settings, say).everything()


def experiment(
    settings: RunSettings, dataset: data.Dataset, topology: Topology, recipe: str = "digits_asvit_i32_cpu.yaml"
) -> cfg.ExperimentConfig:
    """The shipped digits experiment with a topology in it; the rest changes only with the data.

    Args:
      settings: Of the run.
      dataset: To train on.
      topology: To train.
      recipe: A file of official_configs for the experiment `asvit_digits`.
    """
    path = importlib.resources.files("official_configs") / recipe
    params = hyperparams.override_params_dict(exp_factory.get_exp_config("asvit_digits"), str(path), is_strict=True)
    batch_size = min(settings.batch_size, dataset.train_examples)
    epoch_steps = dataset.train_examples // batch_size
    train_steps = epoch_steps * settings.epochs
    params.override(
        {
            "task": {
                "seed": settings.seed,
                "class_names": list(dataset.class_names),
                "model": {
                    "num_classes": len(dataset.class_names),
                    "input_size": [settings.image_size, settings.image_size, 3],
                    "backbone": {"asvit": {"topology": str(topology)}},
                },
                "retokenization": {"preset": settings.retokenization},
                "train_data": {
                    "input_path": dataset.train_path,
                    "global_batch_size": batch_size,
                    "aug_rand_hflip": settings.flip,
                    "seed": settings.seed,
                },
                "validation_data": {"input_path": dataset.validation_path},
                "evaluation": {"top_k": min(5, len(dataset.class_names))},
            },
            "trainer": {
                "train_steps": train_steps,
                "steps_per_loop": epoch_steps,
                "summary_interval": epoch_steps,
                "checkpoint_interval": epoch_steps * max(1, settings.epochs // 12),
                "validation_interval": epoch_steps * max(1, settings.epochs // 6),
                "optimizer_config": {
                    "learning_rate": {"cosine": {"decay_steps": train_steps}},
                    "warmup": {"linear": {"warmup_steps": max(1, train_steps // 20)}},
                },
            },
        },
        is_strict=True,
    )
    return params


class _Run:
    """One run's directory and settings; each method is one step."""

    def __init__(self, directory: Path, settings: RunSettings, say: Callable[[str], None]):
        self.directory = directory
        self.settings = settings
        self.seconds: dict[str, float] = {}
        self._say = say

    def everything(self) -> dict[str, Any]:
        """All steps; of a run that is finished, what it wrote."""
        written = self.directory / "result.json"
        if written.exists():
            finished = json.loads(written.read_text(encoding="utf-8"))
            if "learned" in finished:  # Else it is of an earlier version: its network is evaluated again.
                return finished
        dataset = self._timed("data", self.prepare_data)
        scorer = self._scorer(dataset)
        found = self._timed("search", self.search_seed, scorer)
        grown = self._timed("grow", self.grow_seed, Topology.parse(found["topology"]), scorer, len(dataset.class_names))
        params = experiment(self.settings, dataset, Topology.parse(grown["topology"]))
        metrics = self._timed("train", self.train_model, params)
        learned = bool(metrics["learned"])
        saved_model = str(self._timed("export", self.export_model, params)) if learned else None
        result = dict(
            topology=found["topology"],
            grown=grown["topology"],
            parameters=grown["family"][-1]["parameters"],
            accuracy=metrics["accuracy"],
            majority_share=metrics["majority_share"],
            balanced_accuracy=metrics["balanced_accuracy"],
            learned=learned,
            saved_model=saved_model,
            report=str(self.directory / "report.html"),
            skipped_images=len(dataset.skipped),
            failed_scores=found["failed"],
            rollbacks=list(map(dataclasses.asdict, rollback.read_rollbacks(self.directory / "train"))),
            seconds=self.seconds,
        )
        self._timed("report", self.write_report, params, grown["family"], result)
        write_json(written, result)
        return result

    def _timed(self, name: str, step: Callable, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = step(*arguments)
        self.seconds[name] = time.perf_counter() - start
        return result

    def prepare_data(self) -> data.Dataset:
        self._say("reading images")
        return data.prepare(self.directory / "data", self.settings.data_path)

    def _scorer(self, dataset: data.Dataset) -> Scorer:
        """Scores on this data set's images, each topology once."""
        settings = self.settings
        size = (settings.image_size, settings.image_size)
        if settings.score_batch > dataset.train_examples:
            raise UserError(
                f"score_batch is {settings.score_batch}, but there are {dataset.train_examples} training images"
            )
        source = images.Source(data_path=dataset.train_path)
        sample, _ = images.sample(source, settings.score_batch, size, settings.seed)
        scorer = TrainingFreeScorer(Settings(image_size=size, repeats=settings.repeats, seed=settings.seed), sample)
        return Remembered(scorer, self.directory / "scores.jsonl")

    def search_seed(self, scorer: Scorer) -> dict[str, Any]:
        self._say(f"searching a seed topology: {self.settings.search_steps} steps")
        limits = Limits(image_size=(self.settings.image_size, self.settings.image_size))
        options = reinforce.Options(total_steps=self.settings.search_steps, seed=self.settings.seed)
        return self._once("search", lambda path: reinforce.search(path, options, scorer, limits, progress=True))

    def grow_seed(self, topology: Topology, scorer: Scorer, num_classes: int) -> dict[str, Any]:
        self._say(f"growing {topology} to {self.settings.budget:g} M parameters")
        budget = round(self.settings.budget * 1e6)
        limits = Limits(
            max_parameters=budget,
            image_size=(self.settings.image_size, self.settings.image_size),
            num_classes=num_classes,
        )
        options = grow.Options(self.settings.width, PROXY_DIVISOR, stop_parameters=round(_FULL_ENOUGH * budget))
        smallest = limits.count(options.start(topology)).parameters
        if smallest > budget:
            raise UserError(
                f"the smallest network of this topology has {smallest / 1e6:.2f} M parameters, over the budget of "
                f"{self.settings.budget:g} M; start again in another directory with a larger budget"
            )
        return self._once("grow", lambda path: grow.grow(path, topology, options, scorer, limits, progress=True))

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
            # The Model Garden prints every block; beside a progress bar that belongs in a file.
            with open(path / "log.txt", "a") as log, contextlib.redirect_stdout(log):
                metrics = train.run(params, str(path), "train_and_eval", progress=True)
            write_json(path / "result.json", metrics)
            return metrics

        return self._once(directory.name, trained, "learned")

    def export_model(self, params: cfg.ExperimentConfig) -> Path:
        saved_model = self.directory / "saved_model"
        if not saved_model.exists():
            self._say("exporting")
            export.export(params, str(self.directory / "train"), str(saved_model))
        return saved_model

    def write_report(self, params: cfg.ExperimentConfig, family: list[dict[str, Any]], result: dict[str, Any]) -> None:
        self._say("writing the report")
        settings = self.settings
        schedule = configs.schedule_of(params)
        blocks = block_log.read_blocks(self.directory / "train")
        source = settings.data_path or "scikit-learn's handwritten digits (embedded)"
        verdict = html.escape(baselines.in_words(result))
        parts = [
            *([] if result["learned"] else [f"<p><b>Nothing was learned, and nothing exported: {verdict}.</b></p>"]),
            *(f"<p><b>Set back: {guard.Rollback(**row)}.</b></p>" for row in result["rollbacks"]),
            f"<p>Images: {html.escape(source)}. Found by search: <code>{result['topology']}</code>. "
            f"Grown and trained: <code>{result['grown']}</code>, {result['parameters']:,} parameters. "
            f"Accuracy on held-out images: <b>{result['accuracy']:.2%}</b>; the majority class's share of them is "
            f"{result['majority_share']:.2%}, the balanced accuracy {result['balanced_accuracy']:.2%}. "
            f"Image files skipped: {result['skipped_images']}; topologies that could not be scored: "
            f"{result['failed_scores']}.</p>",
            "<h2>Search</h2>",
            report.embedded(
                report.search_figure(Journal(self.directory / "search" / "trace.jsonl").rows),
                "REINFORCE over training-free measures; no candidate is trained.",
            ),
            "<h2>Growth</h2>",
            report.embedded(
                report.growth_figure(family), "Depth and width of the family, from the seed to the trained member."
            ),
            report.family_table(family),
            "<h2>Training</h2>",
            report.embedded(
                report.training_figure(blocks, train.read_evaluations(self.directory / "train"), schedule),
                "Training; dotted lines are changes of stride and dilation. Naming the majority class always would be "
                f"right for {result['majority_share']:.2%} of the held-out images.",
            ),
            report.phase_table(train.plan_of(params), savings.phase_times(blocks)),
        ]
        report.write_page(self.directory / "report.html", "As-ViT: searched, grown, trained", parts)
