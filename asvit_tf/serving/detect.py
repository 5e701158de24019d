"""Finds objects in an image file with an exported SavedModel, and draws them. Needs TensorFlow and Pillow only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw

from asvit_tf.serving import drawing
from asvit_tf.serving.predict import check_saved_model, load_serving, names_in, read_image

_MASK_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Detection:
    """One object.

    Attributes:
      label: Name of its category.
      category: Identifier of its category.
      score: Between 0 and 1; None for an object that somebody annotated.
      box: Left, top, right and bottom, in pixels of the image, upright by EXIF, inside of it.
      mask: [rows, columns] probabilities inside `mask_box`, or None where the network has no masks.
      mask_box: As `box`, but it may reach beyond the image; None where it does not.
    """

    label: str
    category: int
    score: float | None
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None
    mask_box: tuple[float, float, float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the mask."""
        return dict(label=self.label, category=self.category, score=self.score, box=list(self.box))

    def pixels(self, size: tuple[int, int]) -> Image.Image | None:
        """The mask on the whole image, of this width and height; None without one."""
        if self.mask is None:
            return None
        box = self.mask_box or self.box
        left, top = (int(np.floor(side)) for side in box[:2])
        right, bottom = (int(np.ceil(side)) for side in box[2:])
        small = Image.fromarray((self.mask * 255).astype(np.uint8))
        inside = small.resize((max(right - left, 1), max(bottom - top, 1)), Image.Resampling.BILINEAR)
        whole = Image.new("L", size)
        whole.paste(inside.point(lambda value: 255 * (value > _MASK_THRESHOLD * 255)), (left, top))
        return whole


class Detector:
    """An exported detector.

    Args:
      saved_model: Directory that `export` wrote for a detector with input type "image_bytes".

    Raises:
      UserError: There is no such SavedModel.
    """

    def __init__(self, saved_model: str):
        check_saved_model(saved_model)
        self._serve = load_serving(saved_model, {"detection_boxes", "class_names", "image_info"}, "detect objects in")

    def find(self, encoded: bytes, min_score: float) -> list[Detection]:
        """Objects in an encoded image, upright, surest first; what is less sure than `min_score` is left out."""
        given = self._serve(inputs=tf.constant([encoded]))
        answer, names = {name: value.numpy() for name, value in given.items()}, names_in(given)
        scale = np.tile(answer["image_info"][0, 2], 2)
        height, width = answer["image_info"][0, 0]
        limits = np.array([height, width, height, width])
        found = []
        for i in range(int(answer["num_detections"][0])):
            score, category = float(answer["detection_scores"][0, i]), int(answer["detection_classes"][0, i])
            if score < min_score:
                continue
            whole = answer["detection_boxes"][0, i] / scale
            top, left, bottom, right = np.clip(whole, 0, limits).tolist()
            mask = answer["detection_masks"][0, i] if "detection_masks" in answer else None
            label = names[category] if category < len(names) and names[category] else str(category)
            found.append(
                Detection(label, category, score, (left, top, right, bottom), mask, tuple(whole[[1, 0, 3, 2]]))
            )
        return sorted(found, key=lambda item: -(item.score or 0.0))


def detect(saved_model: str, path: str, min_score: float = 0.5) -> list[Detection]:
    """Objects in an image file, surest first.

    Args:
      saved_model: As of `Detector`.
      path: Image file.
      min_score: What is less sure is left out; between 0 and 1.

    Raises:
      UserError: No such SavedModel, or the file is not an image.
    """
    check_saved_model(saved_model)
    encoded = read_image(path)
    return Detector(saved_model).find(encoded, min_score)


def draw(path: str, found: Sequence[Detection], output: str) -> None:
    """Writes the image with boxes, masks, labels and scores drawn on it, whole.

    Args:
      path: Image file.
      found: What to draw; the surest first.
      output: PNG or JPEG file.

    Raises:
      UserError: The image cannot be read; the output is no PNG or JPEG, or cannot be written.
    """
    drawing.check_output(output)
    drawing.save(drawn(drawing.picture(path), found), output)


def drawn(image: Image.Image, found: Sequence[Detection]) -> Image.Image:
    """A copy of an image with boxes, masks, labels and scores on it; the surest, which come first, lie on top."""
    image = image.convert("RGB")
    thickness = max(1, round(min(image.size) / 200))
    for item in reversed(found):
        colour = drawing.colour(item.category)
        mask = item.pixels(image.size)
        if mask is not None:
            image = Image.composite(
                Image.blend(image, Image.new("RGB", image.size, colour), drawing.OPACITY), image, mask
            )
        pen = ImageDraw.Draw(image)
        left, top, right, bottom = item.box
        pen.rectangle([left, top, max(right - 1, left), max(bottom - 1, top)], outline=colour, width=thickness)
        score = "" if item.score is None else f" {item.score:.2f}"
        text, font = drawing.written(f"{item.label}{score}", f"#{item.category}{score}", image.size)
        place = (left, max(top - pen.textbbox((0, 0), text, font=font)[3] - 1, 0))
        pen.rectangle(pen.textbbox(place, text, font=font), fill=colour)
        pen.text(place, text, fill="black", font=font)
    return image
