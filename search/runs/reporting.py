"""The page of a run from what is in its directory, without training: the last step of a run, and `asvit report`."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from official.core import config_definitions as cfg

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.dataloaders import inputs
from asvit_tf.dataloaders.classification import Dataset
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.journals import Journal, workspace
from asvit_tf.serving import export
from asvit_tf.serving.held_out import Predictions
from asvit_tf.storage import write_text
from asvit_tf.tasks import schedules
from asvit_tf.training import run as train
from asvit_tf.training import step_log
from asvit_tf.training.saving import best
from search.report import run_page
from search.report.design_figure import Design
from search.runs import evidence
from search.runs.settings import OF_A_SEARCH, RunSettings

PAGE = "report.html"
# What each step leaves when it is done, in order.
_LEFT = {
    "the images are not read": "data/dataset.json",
    "the search is not done": "search/result.json",
    "growth is not done": "grow/result.json",
    "training is not done": "train/result.json",
}
_LAST = "what comes after training is not done"
_KEYS = {
    *("topology", "grown", "parameters", "accuracy", "majority_share", "balanced_accuracy", "learned", "saved_model"),
    *("failed_scores", "rollbacks", "seconds", "skipped_images"),
}


def report(directory: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Writes the page of a finished run again; what it needs and earlier versions did not keep is made first.

    Args:
      directory: Of `asvit run`.
      say: Receives a line where there is something to do.

    Returns:
      `report` (its path), `accuracy`, `calibration_error` (None where the network cannot be asked), `lacking` (why
      parts of the page are missing).

    Raises:
      UserError: It is no directory of a run, or of one that is not finished; something in it is damaged; or another
        process is working in it.
    """
    settings = _settings(directory)
    with workspace(directory, settings):
        result = _result(directory, settings)
        dataset, params = _dataset(directory), export.read_params(str(directory / "train"))
        checkpoint, lacking = _checkpoint(directory, params, dataset)
        held_out = evidence.predict(directory, params, dataset, say, checkpoint)
        serving = evidence.serve(directory, params, dataset, say, checkpoint) if result["saved_model"] else None
        write(directory, params, dataset, result, held_out, serving, lacking)
    return dict(
        report=str(directory / PAGE),
        accuracy=result["accuracy"],
        calibration_error=evidence.calibration_error(held_out),
        lacking=lacking,
    )


def write(
    directory: Path,
    params: cfg.ExperimentConfig,
    dataset: Dataset,
    result: Mapping[str, Any],
    held_out: Mapping[str, Predictions],
    serving: Mapping[str, Any] | None,
    lacking: list[str],
) -> None:
    """Writes the page.

    Args:
      directory: Of the run; search, growth and training are read from it.
      params: The experiment that was trained.
      dataset: Its images.
      result: Of the run.
      held_out, serving: What `evidence.predict` and `evidence.serve` returned.
      lacking: Why parts of the page are missing.
    """
    settings = _read(directory / "settings.json")
    model = params.task.model
    backbone = model.backbone.get()
    page = run_page.render(
        source=settings["data_path"] or "scikit-learn's handwritten digits (embedded)",
        result=result,
        search_trace=Journal(directory / "search" / "trace.jsonl").rows,
        family=_up_to(result["grown"], _kept(directory / "grow").get("family", [])),
        training=run_page.Training(
            schedule=schedules.schedule_of(params),
            planned=train.plan_of(params),
            blocks=step_log.read_blocks(directory / "train"),
            evaluations=train.read_evaluations(directory / "train"),
        ),
        evidence=run_page.Evidence(
            design=Design(
                topology=Topology.parse(backbone.topology),
                image_size=tuple(model.input_size[:2]),
                num_classes=model.num_classes,
                stride=backbone.stride,
                base_stride=backbone.base_stride,
                position_embedding=backbone.position_embedding,
                representation=backbone.representation,
                window=backbone.window,
            ),
            class_names=dataset.class_names,
            held_out=held_out,
            serving=serving,
            seed=settings["seed"],
            space_size=_kept(directory / "search").get("space_size"),
            quantizing=_quantizing(directory),
            lacking=lacking,
        ),
    )
    write_text(directory / PAGE, page)


def _quantizing(directory: Path) -> str:
    """The command that exports the reported network, the best where there is one, with TFLite of 8 bits."""
    training, words = directory / "train", ["asvit", "export", "--tflite=int8"]
    options = {"model-dir": training, "export-dir": directory / "quantized"}
    if best.read(training) is not None:
        options["checkpoint"] = training / best.SUBDIRECTORY
    return shlex.join([*words, *(f"--{name}={path}" for name, path in options.items())])


def _up_to(topology: str, family: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The family as far as the member that was trained: with little time that is not the largest."""
    last = next((i for i, member in enumerate(family) if member["topology"] == topology), len(family) - 1)
    return family[: last + 1]


def _settings(directory: Path) -> dict[str, Any]:
    """Those of the run in a directory."""
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory; expected one that asvit run wrote")
    path = directory / "settings.json"
    settings = _read(path) if path.exists() else {}
    if not {"search_steps", "epochs", "data_path", "seed"} <= settings.keys():
        raise UserError(f"{directory} is not a directory of asvit run; expected what its --output names")
    return settings


def _result(directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the finished run wrote."""
    written = directory / "result.json"
    if not written.exists():
        what = next((what for what, name in _LEFT.items() if not (directory / name).exists()), _LAST)
        raise UserError(f"the run in {directory} is unfinished: {what}; continue with: {_command(directory, settings)}")
    result = _read(written)
    if not result.keys() >= _KEYS:
        raise UserError(
            f"the run in {directory} is of an earlier version, which kept less; evaluate it again with: "
            f"{_command(directory, settings)}"
        )
    return result


def _command(directory: Path, settings: Mapping[str, Any]) -> str:
    """The command that continues a run."""
    words = ["asvit", "run", "--output", str(directory)]
    for field in dataclasses.fields(RunSettings):
        value = settings.get(field.name, field.default)
        searched = field.name in OF_A_SEARCH and settings.get("init_checkpoint") is not None
        if value is None or value == field.default or searched:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif field.name == "image_size":
            words += [flag, "x".join(map(str, value)) if isinstance(value, list) else str(value)]
        else:
            for each in value if isinstance(value, list) else [value]:
                words += [flag, str(each)]
    return shlex.join(words)


def _checkpoint(directory: Path, params: cfg.ExperimentConfig, dataset: Dataset) -> tuple[str | None, list[str]]:
    """The checkpoint to ask; or None, and why there is nobody or nothing to ask."""
    checkpoint = evidence.checkpoint_of(params, directory)
    if checkpoint is None:
        return None, ["The checkpoint is gone from train: the network was not asked anything new."]
    try:
        for path in filter(None, (dataset.validation_path, dataset.test_path)):
            inputs.record_files("data", path)
    except UserError:
        return None, ["The records are gone from data: the network was not asked anything new."]
    return checkpoint, []


def _dataset(directory: Path) -> Dataset:
    path = directory / "data" / "dataset.json"
    try:
        return Dataset.load(path.parent)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _kept(step: Path) -> dict[str, Any]:
    """The result of a step; {} where there was none."""
    path = step / "result.json"
    return _read(path) if path.exists() else {}


def _read(path: Path) -> dict[str, Any]:
    """A JSON object that a run wrote."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
