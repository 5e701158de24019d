"""A detector from a user's boxes, in order: records, choices, training, export, answers to held-out images, report.

Each step leaves one result, and a step whose result is there is not repeated; training continues where it was killed.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
from asvit_tf.training import step_log
from search.dense import experiments
from search.dense.settings import MODELS, DetectionSettings
from search.dense.steps import PAGE, Steps
from search.report import detection_page
from search.report.detection_page import Beside

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
        self._say = say
        self._steps = Steps(directory, say, chosen, settings.batch_size, settings.init_checkpoint)

    def everything(self) -> dict[str, Any]:
        """All steps; of a run that is finished, what it wrote."""
        steps = self._steps
        if steps.finished is not None:
            return steps.finished
        self._say(f"hardware: {steps.runtime}")
        prepared = steps.timed("data", self.prepare_data)
        boxes = steps.timed("boxes", records.read, self._records(prepared, "train"), True)
        choices, centres = experiments.choose(self.settings, boxes, steps.kind, steps.kept)
        lines = choices.lines(centres, self.settings)
        for line in lines:
            self._say(line)
        params = self.experiment(choices, prepared, boxes)
        steps.timed("train", steps.train, params, "AP")
        saved_model = steps.timed("export", steps.export, params)
        rows = steps.timed("predictions", self.answers, params, prepared)
        judged = found.judge(Path(prepared.directory) / "annotations_validation.json", rows)
        result = dict(
            model=self.settings.model,
            topology=choices.topology,
            parameters=steps.parameters,
            **judged.summary,
            by_class={
                name: dict(objects=int(objects), AP=average[0], AP50=average[1])
                for name, objects, average in zip(judged.class_names, judged.objects, judged.by_class.tolist())
            },
            images={split: count.images for split, count in prepared.counts.items()},
            input_size=list(choices.size),
            saved_model=saved_model.name,
            report=PAGE,
            seconds=steps.seconds,
            seed=self.settings.seed,
            init_checkpoint=self.settings.init_checkpoint,
        )
        self._say("writing the report")
        steps.timed("report", self.report, result, lines, judged, rows, prepared)
        return steps.finish(result)

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
        params = experiments.experiment(self.settings, choices, prepared, boxes, self._steps.kept)
        self._steps.write_recipe(params, experiments.registered(self.settings.model), "detect-run")
        self._steps.runtime.apply(params, prepared.counts["validation"].images)
        return params

    def answers(self, params: cfg.ExperimentConfig, prepared: Prepared) -> list[dict[str, Any]]:
        """What the exported detector finds in the held-out images."""
        path, number = self.directory / "predictions.json", prepared.counts["validation"].images
        checkpoint = fingerprint(export.checkpoint_of(params, str(self._steps.checkpoint)))
        rows = found.load(path, checkpoint)
        if rows is None:
            self._say(f"looking for objects in {number} held-out images")
            rows = found.answer(
                str(self.directory / "saved_model"), self._records(prepared, "validation"), number, True
            )
            found.save(path, rows, checkpoint)
        return rows

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
            blocks=step_log.read_blocks(self._steps.checkpoint),
            evaluations=self._steps.curves(_CURVES),
        )
        write_text(self.directory / PAGE, page)


def _beside(pair: Beside) -> Image.Image:
    """Truth and found in one picture."""
    whole = Image.new("RGB", (2 * pair.truth.width + 4, pair.truth.height), "white")
    whole.paste(pair.truth, (0, 0))
    whole.paste(pair.found, (pair.truth.width + 4, 0))
    return whole
