"""What an exported detector finds in held-out images, and how good that is: COCO's measures, by class, by image."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm
from PIL import Image
from pycocotools import coco, cocoeval
from pycocotools import mask as mask_tools

from asvit_tf.dataloaders import inputs
from asvit_tf.journals import Journal
from asvit_tf.serving.detect import Detection, Detector
from asvit_tf.storage import write_json

LEAST_SCORE = 0.01  # What is less sure changes no average precision that is worth reading.
SHOWN_SCORE = 0.5  # From where a detection is shown, and counts in confusions.
_MATCHED = 0.5  # Intersection over union.
_SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def pictures(pattern: str) -> Iterator[tuple[int, bytes]]:
    """Identifier and encoded picture, upright, of every record of detection data."""
    features = {name: tf.io.FixedLenFeature((), tf.string) for name in ("image/source_id", "image/encoded")}
    for serialized in tf.data.TFRecordDataset(inputs.record_files("validation_data", pattern)):
        parsed = tf.io.parse_single_example(serialized, features)
        yield int(parsed["image/source_id"].numpy()), parsed["image/encoded"].numpy()


def answer(
    saved_model: str, pattern: str, number: int, kept: Journal, checkpoint: str, progress: bool = False
) -> list[dict[str, Any]]:
    """Rows of COCO's results for every object that is found in the images of a split.

    Args:
      saved_model: Of a detector.
      pattern: The split's records.
      number: Its images, for the progress bar.
      kept: Receives the answers, image by image; those that it holds of this checkpoint are not asked for again.
      checkpoint: That of the detector, as `held_out.fingerprint` names it.
      progress: Show a bar on standard error.

    Returns:
      `image_id`, `category_id`, `bbox` (left, top, width, height in pixels), `score`, and with masks `segmentation`, as
      compressed run lengths in text.

    Raises:
      UserError: There are no such records, or no such SavedModel.
    """
    detector, rows = Detector(saved_model), []
    before = {row["image"]: row["found"] for row in kept.rows if row["checkpoint"] == checkpoint}
    for identifier, encoded in tqdm.tqdm(pictures(pattern), total=number, unit="image", disable=not progress):
        if identifier not in before:
            found = _rows(identifier, encoded, detector.find(encoded, LEAST_SCORE))
            kept.append(dict(checkpoint=checkpoint, image=identifier, found=found))
            before[identifier] = found
        rows += before[identifier]
    return rows


def _rows(identifier: int, encoded: bytes, found: Sequence[Detection]) -> list[dict[str, Any]]:
    """What was found in an image, as rows."""
    rows = []
    size = _size(encoded) if any(item.mask is not None for item in found) else (0, 0)
    for item in found:
        left, top, right, bottom = item.box
        row: dict[str, Any] = dict(image_id=identifier, category_id=item.category, score=item.score)
        row["bbox"] = [left, top, right - left, bottom - top]
        pixels = item.pixels(size)
        if pixels is not None:
            lengths = mask_tools.encode(np.asfortranarray(np.asarray(pixels) > 0, np.uint8))
            row["segmentation"] = {**lengths, "counts": lengths["counts"].decode()}
        rows.append(row)
    return rows


def _size(encoded: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(encoded)) as image:
        return image.size


@dataclasses.dataclass(frozen=True)
class Judged:
    """How good what was found is.

    Attributes:
      class_names: By row of everything below.
      summary: AP, AP50, AP75, APs, APm, APl; with masks also as mask_AP and so on. NaN where there are no such objects.
      objects: [K], annotated, crowds left out.
      by_class: [K, 2], AP and AP50 of boxes.
      precision: [101, K], at IoU 0.5 for recalls of 0, 0.01, ... 1.
      confusion: [K + 1, K + 1] at a score of at least `SHOWN_SCORE`: truth by row, found by column; the last column
        holds what was missed, the last row what is nothing of that kind.
      mistakes: By image, how many objects were missed, mistaken for another class, or invented.
    """

    class_names: tuple[str, ...]
    summary: Mapping[str, float]
    objects: np.ndarray
    by_class: np.ndarray
    precision: np.ndarray
    confusion: np.ndarray
    mistakes: Mapping[int, int]


def judge(annotation_file: str | Path, rows: Sequence[Mapping[str, Any]]) -> Judged:
    """Compares with the annotations.

    Args:
      annotation_file: Of the split, in COCO's form.
      rows: What `answer` returned.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # It prints tables and times.
        truth = coco.COCO(str(annotation_file))
        results = truth.loadRes([dict(row) for row in rows or [_empty_box(truth)]])
    categories = sorted(truth.getCatIds())
    names = tuple(truth.loadCats(category)[0]["name"] for category in categories)
    annotated = [row for row in truth.dataset["annotations"] if not row["iscrowd"]]
    objects = np.array([sum(row["category_id"] == category for row in annotated) for category in categories])
    boxes = _evaluated(truth, results, "bbox")
    summary = dict(zip(_SUMMARY, map(_finite, boxes.stats[:6])))
    if any("segmentation" in row for row in rows[:1] or annotated):
        masks = _evaluated(truth, results, "segm")
        summary |= {f"mask_{name}": _finite(value) for name, value in zip(_SUMMARY, masks.stats[:6])}
    found = boxes.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]; -1 where there is no object.
    precision = np.where(found[0] < 0, np.nan, found[0])
    by_class = np.stack([_means(found), _means(found[:1])], axis=-1)
    confusion, mistakes = _confusion(truth, annotated, rows, categories)
    return Judged(names, summary, objects, by_class, precision, confusion, mistakes)


def _empty_box(truth: coco.COCO) -> dict[str, Any]:
    """What is nowhere right: pycocotools takes no results without a row."""
    return dict(image_id=truth.getImgIds()[0], category_id=truth.getCatIds()[0], bbox=[0, 0, 0, 0], score=0.0)


def _evaluated(truth: coco.COCO, results: coco.COCO, kind: str) -> cocoeval.COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = cocoeval.COCOeval(truth, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _finite(value: float) -> float:
    """COCO's -1 stands for nothing to judge."""
    return math.nan if value < 0 else float(value)


def _means(precision: np.ndarray) -> np.ndarray:
    """[IoU, recall, K] -> [K], NaN for classes without objects."""
    means = precision.mean(axis=(0, 1))
    return np.where(means < 0, np.nan, means)


def _confusion(
    truth: coco.COCO, annotated: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], categories: list[int]
) -> tuple[np.ndarray, dict[int, int]]:
    """Pairs objects with what was found, of whatever class: the surest first, each with the nearest object left."""
    kinds = len(categories)
    confusion = np.zeros((kinds + 1, kinds + 1), int)
    mistakes = {}
    annotated_in, found_in = by_image(annotated), by_image(rows)
    for image in truth.getImgIds():
        objects = annotated_in.get(image, [])
        crowds = [row["bbox"] for row in truth.loadAnns(truth.getAnnIds(image, iscrowd=True))]
        found = [row for row in found_in.get(image, []) if row["score"] >= SHOWN_SCORE]
        found.sort(key=lambda row: -row["score"])
        before = np.trace(confusion)
        total = confusion.sum()
        free = list(range(len(objects)))
        overlaps = _overlaps(found, [row["bbox"] for row in objects], 0)
        in_crowds = _overlaps(found, crowds, 1)
        for i, row in enumerate(found):
            column = categories.index(row["category_id"])
            nearest = free[int(overlaps[i, free].argmax())] if free else None
            if nearest is not None and overlaps[i, nearest] >= _MATCHED:
                free.remove(nearest)
                confusion[categories.index(objects[nearest]["category_id"]), column] += 1
            elif not (in_crowds[i] >= _MATCHED).any():
                confusion[kinds, column] += 1
        for j in free:
            confusion[categories.index(objects[j]["category_id"]), kinds] += 1
        mistakes[image] = int(confusion.sum() - total - (np.trace(confusion) - before))
    return confusion, mistakes


def _overlaps(found: Sequence[Mapping[str, Any]], boxes: Sequence[Sequence[float]], crowd: int) -> np.ndarray:
    """Intersection over union, [found, boxes]; with a crowd, over the found box alone."""
    if not found or not boxes:
        return np.zeros((len(found), len(boxes)))
    return np.asarray(mask_tools.iou([row["bbox"] for row in found], list(boxes), [crowd] * len(boxes)))


def by_image(rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Rows of annotations or results by the image that they are of, in their order."""
    grouped: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["image_id"], []).append(row)
    return grouped


def as_objects(rows: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> list[Detection]:
    """Rows of annotations or results as `detect.drawn` takes them, without masks."""
    objects = []
    for row in rows:
        left, top, width, height = row["bbox"]
        box = (left, top, left + width, top + height)
        objects.append(Detection(names[row["category_id"]], row["category_id"], row.get("score"), box))
    return objects


def save(path: Path, rows: Sequence[Mapping[str, Any]], checkpoint: str) -> None:
    """Writes what was found, and by which checkpoint."""
    write_json(path, dict(checkpoint=checkpoint, rows=list(rows)))


def load(path: Path, checkpoint: str) -> list[dict[str, Any]] | None:
    """What was found by this checkpoint; None where nothing is kept, or what another one found."""
    if not path.exists():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept["rows"] if kept.get("checkpoint") == checkpoint else None
