"""A segmenter from a user's images and label pictures, in order: records, choices, training, export, answers, page."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from official.core import config_definitions as cfg
from PIL import Image

from asvit_tf.dataloaders.imagefiles.skipped import Skipped
from asvit_tf.dataloaders.labels import pairs, prepare
from asvit_tf.dataloaders.labels.prepare import Prepared, SplitCount
from asvit_tf.hardware.choice import Chosen
from asvit_tf.serving import export, segment, segmentation_held_out
from asvit_tf.serving.held_out import fingerprint
from asvit_tf.serving.segment import Segmented
from asvit_tf.serving.segmentation_held_out import Confusion
from asvit_tf.storage import write_json
from asvit_tf.training import step_log
from search.dense import experiments, sizes
from search.dense.choices import SegmentationChoices
from search.dense.settings import SegmentationSettings
from search.dense.steps import MOST_SHOWN, DenseRun
from search.report import segmentation_page
from search.report.segmentation_page import Shown

_SHOWN, _WORST = 12, 4
_CURVES = ("mean_iou",)
_SPLITS = ("validation", "test")


def run(
    directory: Path, settings: SegmentationSettings, say: Callable[[str], None], chosen: Chosen = Chosen()
) -> dict[str, Any]:
    """Runs every step that is not done yet.

    Args:
      directory: For everything; owned by this process (`journals.workspace`).
      settings: What to run.
      say: Receives a line at the start of each step.
      chosen: Devices, as `doctor.devices.take` took them.

    Returns:
      `topology`, `parameters`; on held-out images, every pixel at the image's own size, `mean_iou` and
      `pixel_accuracy`, on a test split `test_mean_iou` and `test_pixel_accuracy` (None without one); `by_class` (IoU by
      name, on the test split if there is one; None for an absent class); `images` by split; `input_size`;
      `saved_model`, `report`, `seconds` (by step), `seed`, `init_checkpoint`.

    Raises:
      UserError: The data cannot be read.
    """
    return _Run(directory, settings, say, chosen).everything()


class _Run(DenseRun):
    metric, command, count_type = "mean_iou", "segment-run", SplitCount

    @property
    def model(self) -> str:
        return "segmentation"

    def prepare(self, folder: Path) -> Prepared:
        its = self.settings
        naming = pairs.Naming(its.image_suffix, its.mask_suffix, its.splits, its.skip_missing)
        pixels = sizes.stored_pixels(its.size, self.kind)
        return prepare.prepare(
            folder, its.images, its.masks, its.classes, its.ignored, naming, progress=True, stored_pixels=pixels
        )

    def restored(self, folder: Path, class_names: tuple[str, ...], counts: dict[str, SplitCount]) -> Prepared:
        return Prepared(str(folder), class_names, (), (), counts, 0, (), Skipped())

    def experiment(self, prepared: Prepared) -> tuple[cfg.ExperimentConfig, SegmentationChoices, list[str]]:
        choices = self.for_devices(SegmentationChoices.of(self.settings, prepared, self.kind, self.kept))
        return experiments.segmentation(self.settings, choices, prepared, self.kept), choices, choices.lines

    def answers(self, params: cfg.ExperimentConfig, prepared: Prepared) -> dict[str, Confusion]:
        checkpoint = fingerprint(export.checkpoint_of(params, str(self.training)))
        path = self.directory / "predictions.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if kept.get("checkpoint") != checkpoint:
            kept = dict(checkpoint=checkpoint, pixels={}, wrong={})
        saved_model, names = str(self.directory / "saved_model"), prepared.class_names
        found = {}
        for split in (split for split in _SPLITS if split in prepared.counts):
            number = prepared.counts[split].images
            if split in kept.get("wrong", ()):  # Earlier versions did not keep it.
                wrong = tuple(np.array(kept["wrong"][split], float).tolist())
                found[split] = Confusion(np.array(kept["pixels"][split], np.int64), names, number, wrong)
                continue
            self.say(f"asking about {number} images of the {split} split")
            found[split] = segmentation_held_out.iou(params, self.records(prepared, split), saved_model, True, number)
            kept["pixels"][split] = found[split].pixels.tolist()
            kept.setdefault("wrong", {})[split] = found[split].wrong
            write_json(path, kept)
        return found

    def numbers(self, answers: Mapping[str, Confusion]) -> dict[str, Any]:
        validation, tested = answers["validation"], answers.get("test")
        last = tested or validation
        return dict(
            mean_iou=validation.mean_iou,
            pixel_accuracy=validation.accuracy,
            test_mean_iou=None if tested is None else tested.mean_iou,
            test_pixel_accuracy=None if tested is None else tested.accuracy,
            by_class=dict(zip(last.class_names, map(float, last.iou))),
        )

    def page(
        self, result: Mapping[str, Any], lines: Sequence[str], answers: Mapping[str, Confusion], prepared: Prepared
    ) -> str:
        split = "test" if "test" in answers else "validation"
        shown = self._pictures(prepared, split, answers[split].wrong)
        for place, each in enumerate(shown[:_SHOWN]):
            _beside(each).save(self.directory / "pictures" / f"{place + 1}.png")
        return segmentation_page.render(
            source=self.settings.images,
            result=result,
            found=answers,
            pixels=prepared.counts["train"].pixels,
            choices=lines,
            shown=shown[:_SHOWN],
            worst=shown[_SHOWN:],
            blocks=step_log.read_blocks(self.training),
            evaluations=self.curves(_CURVES),
        )

    def _pictures(self, prepared: Prepared, split: str, wrong: Sequence[float]) -> list[Shown]:
        """Twelve pictures, evenly taken, then those of which most pixels are wrong; no other one is answered again."""
        serve = segment.load(str(self.directory / "saved_model"))
        even = np.unique(np.linspace(0, len(wrong) - 1, _SHOWN).astype(int)).tolist()
        worst = np.argsort(-np.nan_to_num(wrong, nan=-1.0), kind="stable")[:_WORST].tolist()
        drawn: dict[int, Shown] = {}
        for place, (encoded, truth) in enumerate(segmentation_held_out.rows(self.records(prepared, split))):
            if place not in {*even, *worst}:
                continue
            answered = segment.answer(serve, encoded)
            with Image.open(io.BytesIO(encoded)) as picture:
                left = segment.overlaid(picture, Segmented(truth.astype(np.int32), prepared.class_names))
                each = Shown(picture.convert("RGB"), left, segment.overlaid(picture, answered), wrong[place])
            for side in (each.picture, each.truth, each.found):
                side.thumbnail(MOST_SHOWN)
            drawn[place] = each
        return [drawn[place] for place in (*even, *(worst if len(even) == _SHOWN else ()))]


def _beside(shown: Shown) -> Image.Image:
    """Picture, truth and answer side by side."""
    sides = (shown.picture, shown.truth, shown.found)
    whole = Image.new("RGB", (sum(side.width for side in sides) + 8, shown.picture.height), "white")
    for place, side in enumerate(sides):
        whole.paste(side, (place * (side.width + 4), 0))
    return whole
