"""A detector from a user's boxes, in order: records, choices, training, export, answers to held-out images, report.

Each step leaves one result, and a step whose result is there is not repeated; training continues where it was killed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from official.core import config_definitions as cfg
from PIL import Image

from asvit_tf.dataloaders import boxes as records
from asvit_tf.dataloaders import coco
from asvit_tf.dataloaders.annotations.splits import SplitCount
from asvit_tf.dataloaders.coco import Prepared
from asvit_tf.hardware.choice import Chosen
from asvit_tf.journals import Journal
from asvit_tf.serving import detect, export, found
from asvit_tf.serving.found import Judged
from asvit_tf.serving.held_out import fingerprint
from asvit_tf.training import step_log
from search.dense import experiments, sizes
from search.dense.choices import Choices, choose
from search.dense.settings import MODELS, DetectionSettings
from search.dense.steps import MOST_SHOWN, DenseRun
from search.report import detection_page, fonts
from search.report.detection_page import Beside

_SHOWN, _WORST = 12, 6
Answers = tuple[list[dict[str, Any]], Judged]  # Rows of COCO's results, and how good they are.
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


class _Run(DenseRun):
    metric, command, count_type = "AP", "detect-run", SplitCount

    @property
    def model(self) -> str:
        return self.settings.model

    def prepare(self, folder: Path) -> Prepared:
        its = self.settings
        names = dict(train=its.train_name, validation=its.validation_name)
        with_masks = None if its.model == "cascade" else False  # None: where the data have them.
        leniency = coco.Leniency(its.skip_missing, its.skip_invalid)
        pixels = sizes.stored_pixels(its.size, self.kind)
        return coco.prepare(folder, its.data_path, names, 1, with_masks, leniency, progress=True, stored_pixels=pixels)

    def restored(self, folder: Path, class_names: tuple[str, ...], counts: dict[str, SplitCount]) -> Prepared:
        return Prepared(str(folder), class_names, counts)

    def experiment(self, prepared: Prepared) -> tuple[cfg.ExperimentConfig, Choices, list[str]]:
        boxes = records.read(self.records(prepared, "train"), progress=True)
        chosen, centres = choose(self.settings, boxes, self.kind, self.kept)
        chosen = self.for_devices(chosen)
        params = experiments.experiment(self.settings, chosen, prepared, boxes, self.kept)
        return params, chosen, chosen.lines(centres, self.settings)

    def answers(self, params: cfg.ExperimentConfig, prepared: Prepared) -> Answers:
        path, number = self.directory / "predictions.json", prepared.counts["validation"].images
        checkpoint = fingerprint(export.checkpoint_of(params, str(self.training)))
        rows = found.load(path, checkpoint)
        if rows is None:
            self.say(f"looking for objects in {number} held-out images")
            saved_model, records = str(self.directory / "saved_model"), self.records(prepared, "validation")
            by_image = path.with_suffix(".jsonl")  # For who is killed meanwhile.
            rows = found.answer(saved_model, records, number, Journal(by_image), checkpoint, progress=True)
            found.save(path, rows, checkpoint)
            by_image.unlink(missing_ok=True)
        return rows, found.judge(Path(prepared.directory) / "annotations_validation.json", rows)

    def numbers(self, answers: Answers) -> dict[str, Any]:
        _, judged = answers
        averages = zip(judged.class_names, judged.objects.tolist(), judged.by_class.tolist())
        by_class = {name: dict(objects=objects, AP=both[0], AP50=both[1]) for name, objects, both in averages}
        return dict(model=self.settings.model, **judged.summary, by_class=by_class)

    def page(self, result: Mapping[str, Any], lines: Sequence[str], answers: Answers, prepared: Prepared) -> str:
        rows, judged = answers
        annotations = json.loads((Path(prepared.directory) / "annotations_validation.json").read_text("utf-8"))
        files = {row["id"]: row["file_name"] for row in annotations["images"]}
        order = sorted(files)
        shown = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, _SHOWN).astype(int))]
        worst = sorted(order, key=lambda image: -judged.mistakes[image])[:_WORST]
        categories = sorted(row["id"] for row in annotations["categories"])
        names = dict(zip(categories, fonts.shown(judged.class_names)))  # As the page has them.
        truth_in, found_in = found.by_image(annotations["annotations"]), found.by_image(rows)
        drawn: dict[int, Beside] = {}
        for image, encoded in found.pictures(self.records(prepared, "validation")):
            if image not in {*shown, *worst}:
                continue
            with Image.open(io.BytesIO(encoded)) as picture:
                sure = [row for row in found_in.get(image, []) if row["score"] >= found.SHOWN_SCORE]
                both = (truth_in.get(image, []), sure)
                left, right = (detect.drawn(picture, found.as_objects(each, names)) for each in both)
                left.thumbnail(MOST_SHOWN)
                right.thumbnail(MOST_SHOWN)
                drawn[image] = Beside(files[image], left, right, judged.mistakes[image])
        for image in shown:
            _beside(drawn[image]).save(self.directory / "pictures" / f"{image}.png")
        return detection_page.render(
            model=MODELS[self.settings.model],
            source=self.settings.data_path,
            result=result,
            judged=judged,
            choices=lines,
            shown=[drawn[image] for image in shown],
            worst=[drawn[image] for image in worst if judged.mistakes[image]],
            blocks=step_log.read_blocks(self.training),
            evaluations=self.curves(_CURVES),
        )


def _beside(pair: Beside) -> Image.Image:
    """Truth and found in one picture."""
    whole = Image.new("RGB", (2 * pair.truth.width + 4, pair.truth.height), "white")
    whole.paste(pair.truth, (0, 0))
    whole.paste(pair.found, (pair.truth.width + 4, 0))
    return whole
