"""A run of a detector or of a segmenter, in order: each step leaves one result, and is not repeated then."""

from __future__ import annotations

import abc
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from asvit_tf.errors import UserError
from asvit_tf.hardware.choice import Chosen
from asvit_tf.modeling import checkpoints
from asvit_tf.serving import export
from asvit_tf.storage import jsonable, write_json, write_text
from asvit_tf.tasks import written_recipes
from asvit_tf.training import run as train
from asvit_tf.training.display.log_file import captured
from asvit_tf.training.runtimes import Runtime
from search.dense import experiments, sizes
from search.runs.designing import Kept, once

PAGE = "report.html"
MOST_SHOWN = (1000, 1000)  # Pixels of a picture on the page: dozens are in memory together.


class DenseRun(abc.ABC):
    """One run's directory and settings: the order of its steps, and what they share.

    Args:
      directory: For everything; owned by this process.
      settings: What to run.
      say: Receives a line at the start of each step.
      chosen: Devices.

    Attributes:
      seconds: By step.
      kept: The network to start from.
      kind: Of the hardware that the first start chose by.
      left_out: Lines about what the records do not hold.
      metric: That the training's evaluation reports.
      command: Of `asvit`.
      count_type: Of what is counted of a split.
    """

    metric: str
    command: str
    count_type: type

    def __init__(self, directory: Path, settings: Any, say: Callable[[str], None], chosen: Chosen):
        self.directory = directory
        self.settings = settings
        self.say = say
        self.kind = chosen.kind
        self.runtime = Runtime(chosen, settings.batch_size)
        self.kept = None if settings.init_checkpoint is None else Kept.of(settings.init_checkpoint)
        self.seconds: dict[str, float] = {}
        self.left_out: tuple[str, ...] = ()

    @property
    @abc.abstractmethod
    def model(self) -> str:
        """Of `experiments.EXPERIMENTS`."""

    @abc.abstractmethod
    def prepare(self, folder: Path) -> Any:
        """Writes the TFRecords into a folder that is not there; returns what there is of them."""

    @abc.abstractmethod
    def restored(self, folder: Path, class_names: tuple[str, ...], counts: dict[str, Any]) -> Any:
        """What `prepare` returned in an earlier start, as far as later steps need it."""

    @abc.abstractmethod
    def experiment(self, prepared: Any) -> tuple[cfg.ExperimentConfig, Any, list[str]]:
        """The experiment, what was chosen by the data (`Choices`), and lines about it."""

    @abc.abstractmethod
    def answers(self, params: cfg.ExperimentConfig, prepared: Any) -> Any:
        """What the exported network says to held-out images, judged."""

    @abc.abstractmethod
    def numbers(self, answers: Any) -> dict[str, Any]:
        """The part of the result that is of this kind of run alone."""

    @abc.abstractmethod
    def page(self, result: Mapping[str, Any], lines: Sequence[str], answers: Any, prepared: Any) -> str:
        """The report, as text; its pictures are written into `pictures`."""

    def everything(self) -> dict[str, Any]:
        """All steps that are not done yet; of a run that is finished, what it wrote."""
        if self.finished is not None:
            return self.finished
        experiments.check(self.model, self.settings)
        self.runtime.check_batch()
        self.say(f"hardware: {self.runtime}")
        prepared = self.timed("data", self.data)
        self.runtime.check_images(prepared.counts["validation"].images)
        params, choices = self.timed("choices", self.chosen, prepared)
        lines = [*choices["lines"], *self.of_the_start(params)]
        for line in lines:
            self.say(line)
        data = params.task.train_data
        chosen = data.global_batch_size
        self.runtime.apply(params, prepared.counts["validation"].images)
        if self.settings.batch_size is None and data.global_batch_size != chosen:  # Of other devices.
            self.say(f"batches of {data.global_batch_size} images, which the devices share, for {chosen}")
        self.timed("train", self.train, params)
        saved_model = self.timed("export", self.export, params)
        answers = self.timed("predictions", self.answers, params, prepared)
        result = dict(
            topology=choices["topology"],
            parameters=self.parameters,
            **self.numbers(answers),
            images={split: count.images for split, count in prepared.counts.items()},
            left_out=self.left_out,
            input_size=choices["input_size"],
            saved_model=saved_model.name,
            report=PAGE,
            seconds=self.seconds,
            seed=self.settings.seed,
            init_checkpoint=self.settings.init_checkpoint,
        )
        self.say("writing the report")
        (self.directory / "pictures").mkdir(exist_ok=True)
        page = self.timed("report", self.page, result, (*lines, *self.left_out), answers, prepared)
        write_text(self.directory / PAGE, page)
        return self.finish(result)

    def data(self) -> Any:
        """TFRecords; those of an earlier start, with the kind of hardware that it chose by.

        Raises:
          UserError: The images cannot be used, or there is something else at that place.
        """
        folder, kept, begun = (self.directory / name for name in ("data", "data.json", "data.begun"))
        if kept.exists() and folder.exists():
            begun.unlink(missing_ok=True)
            fields = json.loads(kept.read_text(encoding="utf-8"))
            counts = {split: self.count_type(**count) for split, count in fields["counts"].items()}
            self.kind = fields.get("kind", self.kind)
            self.left_out = tuple(fields.get("left_out", ()))
            pixels = sizes.stored_pixels(self.settings.size, self.kind)
            if fields.get("stored_pixels", pixels) == pixels:
                return self.restored(folder, tuple(fields["class_names"]), counts)
            self.say("the images were stored for another size of the input")
            begun.touch()
            kept.unlink()
        if folder.exists():
            if not begun.exists():
                raise UserError(
                    f"{folder} exists, but no data set was prepared there; move it or choose another directory"
                )
            shutil.rmtree(folder)  # Whole, but the counts were not written.
        self.say("reading images")
        shutil.rmtree(self.choices, ignore_errors=True)
        begun.touch()
        try:
            prepared = self.prepare(folder)
        except UserError:
            begun.unlink()  # The folder was not made: what is found there later is not of this run.
            raise
        self.left_out = prepared.left_out
        for line in self.left_out:
            self.say(line)
        written = {split: dataclasses.asdict(count) for split, count in prepared.counts.items()}
        fields = dict(class_names=prepared.class_names, counts=written, kind=self.kind, left_out=self.left_out)
        write_json(kept, {**fields, "stored_pixels": sizes.stored_pixels(self.settings.size, self.kind)})
        begun.unlink()
        return prepared

    def chosen(self, prepared: Any) -> tuple[cfg.ExperimentConfig, dict[str, Any]]:
        """`experiment`, and `lines`, `topology` and `input_size`; those of an earlier start with these settings.

        What is chosen anew is written down, to be read as a recipe and by later starts.
        Records that it refuses are not kept, or mended data would never be read.
        """
        written, settings = self.choices / "choices.json", jsonable(self.settings.identity())
        kept = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
        if kept.get("settings") == settings:
            return export.read_params(str(self.choices)), kept
        try:
            params, choices, lines = self.experiment(prepared)
        except UserError:
            if not self.training.exists():
                (self.directory / "data.json").unlink()
                shutil.rmtree(self.directory / "data")
            raise
        kept = dict(settings=settings, lines=lines, topology=choices.topology, input_size=list(choices.size))
        written.unlink(missing_ok=True)
        registered = type(params)(task=type(params.task)())
        text = written_recipes.differing_text(params, registered, f"How asvit {self.command} trained.")
        write_text(self.directory / "recipe.yaml", text)
        train.write_params(params, str(self.choices), str(self.directory))
        write_json(written, kept)  # Last: then all are there.
        return params, kept

    def for_devices(self, choices: Any) -> Any:
        """The choices with a batch that suits the devices, and its learning rate."""
        batch = self.runtime.batch(choices.batch_size)
        if batch == choices.batch_size:
            return choices
        return dataclasses.replace(choices, batch_size=batch, learning_rate=sizes.learning_rate(batch))

    def of_the_start(self, params: cfg.ExperimentConfig) -> list[str]:
        """A line about the network to start from, where its tokens are of another size."""
        own = getattr(params.task.model.backbone.get(), "base_stride", None)
        if self.kept is None or own in (None, self.kept.base_stride):
            return []
        return [
            f"the network of {self.settings.init_checkpoint} has tokens of {self.kept.base_stride} pixels (its base "
            f"stride), here of {own}: its weights are used at another stride than they were trained for"
        ]

    @staticmethod
    def records(prepared: Any, split: str) -> str:
        """The TFRecords of a split."""
        return str(Path(prepared.directory) / f"{split}.tfrecord")

    @property
    def finished(self) -> dict[str, Any] | None:
        """What a finished run wrote, with paths: kept are names, because the directory may be moved."""
        written = self.directory / "result.json"
        if not written.exists():
            return None
        result = json.loads(written.read_text(encoding="utf-8"))
        return {**result, **{key: str(self.directory / result[key]) for key in ("saved_model", "report")}}

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the result of the run, and returns it as `finished` does."""
        write_json(self.directory / "result.json", result)
        written = self.finished
        assert written is not None
        return written

    def timed(self, name: str, step: Callable, *arguments: Any) -> Any:
        """What a step returns; its seconds are kept."""
        start = time.perf_counter()
        result = step(*arguments)
        self.seconds[name] = time.perf_counter() - start
        return result

    def train(self, params: cfg.ExperimentConfig) -> dict[str, Any]:
        """The metrics of the last evaluation."""
        self.say(f"training: {params.trainer.train_steps} steps")

        def trained(path: Path) -> dict[str, Any]:
            metrics = train.run(params, str(path), "train_and_eval", progress=True, root=str(self.directory))
            write_json(path / "result.json", metrics)
            return metrics

        return once(self.training, trained, self.metric)

    def export(self, params: cfg.ExperimentConfig) -> Path:
        """The SavedModel."""
        saved_model = self.directory / "saved_model"
        if not saved_model.exists():
            self.say("exporting")
            with captured():
                export.export(params, str(self.training), str(saved_model))
        return saved_model

    @property
    def choices(self) -> Path:
        """Of what was chosen by the data."""
        return self.directory / "choices"

    @property
    def training(self) -> Path:
        """Model directory of the training."""
        return self.directory / "train"

    @property
    def parameters(self) -> int:
        """Of the exported network."""
        variables = self.directory / "saved_model" / "variables" / "variables"
        reader = tf.train.load_checkpoint(checkpoints.readable(str(variables)))
        shapes = reader.get_variable_to_shape_map()
        return sum(int(np.prod(shape)) for name, shape in shapes.items() if "VARIABLE_VALUE" in name)

    def curves(self, names: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
        """Measures of the training's evaluations, by step; those that there are."""
        found = {name: train.read_evaluations(self.training, name) for name in names}
        return {name: points for name, points in found.items() if points}
