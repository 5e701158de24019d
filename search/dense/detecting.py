"""A detector from a user's boxes, in order: records, choices, training, export, answers to held-out images, report.

Each step leaves one result, and a step whose result is there is not repeated; training continues where it was killed.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg
from PIL import Image

from asvit_tf.dataloaders import boxes as records
from asvit_tf.dataloaders import coco
from asvit_tf.dataloaders.annotations.splits import SplitCount
from asvit_tf.dataloaders.boxes import Boxes
from asvit_tf.dataloaders.coco import Prepared
from asvit_tf.hardware.choice import Chosen
from asvit_tf.serving import detect, export, found
from asvit_tf.serving.found import Judged
from asvit_tf.serving.held_out import fingerprint
from asvit_tf.storage import write_json, write_text
from asvit_tf.tasks import plans
from asvit_tf.training import run as train
from asvit_tf.training import step_log
from asvit_tf.training.display.log_file import captured
from asvit_tf.training.runtimes import Runtime
from search.dense import experiments
from search.dense.settings import MODELS, DetectionSettings
from search.report import detection_page
from search.report.detection_page import Beside
from search.runs.designing import Kept, once

PAGE = "report.html"
_SHOWN, _WORST = 12, 6
_CURVES = ("AP", "AP50", "mask_AP")


def run(
    directory: Path, settings: DetectionSettings, say: Callable[[str], None], chosen: Chosen = Chosen()
) -> dict[str, Any]:
    """Runs every step that is not done yet.

    Args:
      directory: For everything; owned by this process (`journals.workspace`).
      settings: What to run.
      say: Receives a line at the start of each step.
      chosen: Devices, as `doctor.devices.take` took them.

    Returns:
      `model`, `topology`, `parameters`; on held-out images the measures of `found.Judged.summary` (None where there is
      nothing to judge), `by_class` (objects, AP and AP50 by name); `images` by split; `input_size`; `saved_model`,
      `report`, `seconds` (by step), `seed`, `init_checkpoint`.

    Raises:
      UserError: The data cannot be read, or hold no boxes.
    """
    return _Run(directory, settings, say, chosen).everything()


class _Run:
    """One run's directory and settings; each method is one step."""

    def __init__(self, directory: Path, settings: DetectionSettings, say: Callable[[str], None], chosen: Chosen):
        self.directory = directory
        self.settings = settings
        self.seconds: dict[str, float] = {}
        self._say = say
        self._chosen = chosen
        self._runtime = Runtime(chosen, settings.batch_size)
        self._kept = None if settings.init_checkpoint is None else Kept.of(settings.init_checkpoint)

    def everything(self) -> dict[str, Any]:
        """All steps; of a run that is finished, what it wrote."""
        written = self.directory / "result.json"
        if written.exists():
            return self._placed(json.loads(written.read_text(encoding="utf-8")))
        self._say(f"hardware: {self._runtime}")
        prepared = self._timed("data", self.prepare_data)
        boxes = self._timed("boxes", records.read, self._records(prepared, "train"), True)
        choices, centres = experiments.choose(self.settings, boxes, self._chosen.kind, self._kept)
        lines = choices.lines(centres, self.settings)
        for line in lines:
            self._say(line)
        params = self.experiment(choices, prepared, boxes)
        self._timed("train", self.train_model, params)
        saved_model = self._timed("export", self.export_model, params)
        rows = self._timed("predictions", self.answers, params, prepared)
        judged = found.judge(Path(prepared.directory) / "annotations_validation.json", rows)
        result = dict(
            model=self.settings.model,
            topology=choices.topology,
            parameters=self.parameters(),
            **judged.summary,
            by_class={
                name: dict(objects=int(objects), AP=average[0], AP50=average[1])
                for name, objects, average in zip(judged.class_names, judged.objects, judged.by_class.tolist())
            },
            images={split: count.images for split, count in prepared.counts.items()},
            input_size=list(choices.size),
            saved_model=saved_model.name,
            report=PAGE,
            seconds=self.seconds,
            seed=self.settings.seed,
            init_checkpoint=self.settings.init_checkpoint,
        )
        self._say("writing the report")
        self._timed("report", self.report, result, lines, judged, rows, prepared)
        write_json(written, result)
        return self._placed(json.loads(written.read_text(encoding="utf-8")))

    def _placed(self, result: dict[str, Any]) -> dict[str, Any]:
        """The result with paths; kept are names, because the directory may be moved."""
        return {**result, **{key: str(self.directory / result[key]) for key in ("saved_model", "report")}}

    def _timed(self, name: str, step: Callable, *arguments: Any) -> Any:
        start = time.perf_counter()
        result = step(*arguments)
        self.seconds[name] = time.perf_counter() - start
        return result

    @staticmethod
    def _records(prepared: Prepared, split: str) -> str:
        return str(Path(prepared.directory) / f"{split}.tfrecord")

    def prepare_data(self) -> Prepared:
        """TFRecords; those of an earlier start."""
        folder, kept = self.directory / "data", self.directory / "data.json"
        if kept.exists() and folder.exists():
            fields = json.loads(kept.read_text(encoding="utf-8"))
            counts = {str(split): SplitCount(**count) for split, count in fields["counts"].items()}
            return Prepared(str(folder), tuple(fields["class_names"]), counts)
        self._say("reading images and annotations")
        names = dict(train=self.settings.train_name, validation=self.settings.validation_name)
        leniency = coco.Leniency(self.settings.skip_missing, self.settings.skip_invalid)
        if folder.exists():  # Whole, but the counts were not written.
            shutil.rmtree(folder)
        is_cascade = self.settings.model == "cascade"
        with_masks = is_cascade and coco.holds_masks(self.settings.data_path, names["train"])
        prepared = coco.prepare(folder, self.settings.data_path, names, 1, with_masks, leniency, progress=True)
        for note in prepared.notes:
            self._say(note)
        written = {split: dataclasses.asdict(count) for split, count in prepared.counts.items()}
        write_json(kept, dict(class_names=prepared.class_names, counts=written))
        return prepared

    def experiment(self, choices: experiments.Choices, prepared: Prepared, boxes: Boxes) -> cfg.ExperimentConfig:
        """What trains the detector; its recipe is written down."""
        params = experiments.experiment(self.settings, choices, prepared, boxes, self._kept)
        text = plans.differing_text(
            params, experiments.registered(self.settings.model), f"How asvit detect-run trained {self.settings.model}."
        )
        write_text(self.directory / "recipe.yaml", text)
        self._runtime.apply(params, prepared.counts["validation"].images)
        return params

    def train_model(self, params: cfg.ExperimentConfig) -> dict[str, Any]:
        epochs = params.trainer.train_steps // params.trainer.steps_per_loop
        self._say(f"training {MODELS[self.settings.model]}: {epochs} epochs of {params.trainer.steps_per_loop} steps")

        def trained(path: Path) -> dict[str, Any]:
            metrics = train.run(params, str(path), "train_and_eval", progress=True, root=str(self.directory))
            write_json(path / "result.json", metrics)
            return metrics

        return once(self.directory / "train", trained, "AP")

    def export_model(self, params: cfg.ExperimentConfig) -> Path:
        saved_model = self.directory / "saved_model"
        if not saved_model.exists():
            self._say("exporting")
            with captured():
                export.export(params, str(self.directory / "train"), str(saved_model))
        return saved_model

    def answers(self, params: cfg.ExperimentConfig, prepared: Prepared) -> list[dict[str, Any]]:
        """What the exported detector finds in the held-out images."""
        path, number = self.directory / "predictions.json", prepared.counts["validation"].images
        checkpoint = fingerprint(export.checkpoint_of(params, str(self.directory / "train")))
        rows = found.load(path, checkpoint)
        if rows is None:
            self._say(f"looking for objects in {number} held-out images")
            rows = found.answer(
                str(self.directory / "saved_model"), self._records(prepared, "validation"), number, True
            )
            found.save(path, rows, checkpoint)
        return rows

    def parameters(self) -> int:
        """Of the exported network."""
        reader = tf.train.load_checkpoint(str(self.directory / "saved_model" / "variables" / "variables"))
        shapes = reader.get_variable_to_shape_map()
        return sum(int(np.prod(shape)) for name, shape in shapes.items() if "VARIABLE_VALUE" in name)

    def report(
        self,
        result: Mapping[str, Any],
        lines: Sequence[str],
        judged: Judged,
        rows: Sequence[Mapping[str, Any]],
        prepared: Prepared,
    ) -> None:
        """Writes the page, and the pictures of it into `pictures`."""
        annotations = json.loads((Path(prepared.directory) / "annotations_validation.json").read_text("utf-8"))
        files = {row["id"]: row["file_name"] for row in annotations["images"]}
        order = sorted(files)
        shown = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, _SHOWN).astype(int))]
        worst = sorted(order, key=lambda image: -judged.mistakes[image])[:_WORST]
        names = dict(enumerate(prepared.class_names))
        drawn: dict[int, Beside] = {}
        for image, encoded in found.pictures(self._records(prepared, "validation")):
            if image not in {*shown, *worst}:
                continue
            with Image.open(io.BytesIO(encoded)) as picture:
                truth = [row for row in annotations["annotations"] if row["image_id"] == image]
                answers = [row for row in rows if row["image_id"] == image and row["score"] >= found.SHOWN_SCORE]
                left, right = (detect.drawn(picture, found.as_objects(each, names)) for each in (truth, answers))
                drawn[image] = Beside(files[image], left, right, judged.mistakes[image])
        pictures = self.directory / "pictures"
        pictures.mkdir(exist_ok=True)
        for image in shown:
            _beside(drawn[image]).save(pictures / f"{image}.png")
        page = detection_page.render(
            model=MODELS[self.settings.model],
            source=self.settings.data_path,
            result=result,
            judged=judged,
            choices=lines,
            shown=[drawn[image] for image in shown],
            worst=[drawn[image] for image in worst if judged.mistakes[image]],
            blocks=step_log.read_blocks(self.directory / "train"),
            evaluations=_curves(self.directory / "train"),
        )
        write_text(self.directory / PAGE, page)


def _beside(pair: Beside) -> Image.Image:
    """Truth and found in one picture."""
    whole = Image.new("RGB", (2 * pair.truth.width + 4, pair.truth.height), "white")
    whole.paste(pair.truth, (0, 0))
    whole.paste(pair.found, (pair.truth.width + 4, 0))
    return whole


def _curves(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Measures of the evaluations of a training, by step."""
    found = {name: train.read_evaluations(directory, name) for name in _CURVES}
    return {name: points for name, points in found.items() if points}
