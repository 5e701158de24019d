"""What a training takes from the data of its user, and words about it."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from asvit_tf.dataloaders import boxes as box_records
from asvit_tf.dataloaders.boxes import Boxes
from asvit_tf.dataloaders.labels.prepare import Prepared as Labelled
from asvit_tf.design.grids import ceil_div
from asvit_tf.errors import UserError
from search.dense import anchors, sizes
from search.dense.anchors import Anchors
from search.dense.settings import TOPOLOGY, DetectionSettings, SegmentationSettings
from search.runs.designing import Kept

_FOUND_AT_LEAST, _MOST_FOUND = 20, 1000
_COUNTED = 100  # Of an image, by COCO's evaluation.
_LEAST_RECALL = 0.8
_LEAST_SIDE = 8  # Pixels: a place of the finest level of a RetinaNet.


@dataclasses.dataclass(frozen=True)
class Choices:
    """What was chosen by the data.

    Attributes:
      size: Rows and columns of the input.
      anchors: Of the feature pyramid.
      batch_size, epochs: Of the training.
      learning_rate: Its peak.
      topology: Of the backbone.
      most_found: Objects that an answer may hold, twice those of the fullest image.
      small: Median of the boxes' shorter sides, in pixels of the input.
    """

    size: tuple[int, int]
    anchors: Anchors
    batch_size: int
    epochs: int
    learning_rate: float
    topology: str
    most_found: int
    small: float

    def lines(self, centres: Any, settings: DetectionSettings) -> list[str]:
        """In words."""
        given = "as given" if settings.image_size else "by the images"
        ratios = ", ".join(f"{ratio:g}" for ratio in self.anchors.aspect_ratios)
        boxes = ", ".join(f"{width:.0f} x {height:.0f} ({share:.0%})" for height, width, share in centres)
        return [
            f"input {self.size[0]} x {self.size[1]}, {given}",
            f"boxes there, width x height, by k-means: {boxes}",
            f"anchors: levels {self.anchors.min_level} to {self.anchors.max_level}, {self.anchors.num_scales} scales "
            f"from {self.anchors.anchor_size:g} places, width/height {ratios}: mean IoU with the boxes "
            f"{self.anchors.mean_iou:.2f}, {self.anchors.recall:.0%} at 0.5 or more",
            f"{self.epochs} epochs in batches of {self.batch_size}, learning rate {self.learning_rate:g}",
            *self.warnings,
        ]

    @property
    def warnings(self) -> list[str]:
        """What the data ask for and the choices do not give."""
        lines = []
        if self.small < _LEAST_SIDE:
            factor = _LEAST_SIDE / self.small
            rows, columns = (ceil_div(round(side * factor), 32) * 32 for side in self.size)
            lines.append(
                f"half of the boxes are narrower than {self.small:.1f} pixels of the input, and objects below "
                f"{_LEAST_SIDE} are hardly found: --image-size {rows}x{columns} shows them, and takes {factor**2:.0f} "
                "times as long"
            )
        elif self.anchors.recall < _LEAST_RECALL:
            lines.append(
                f"{1 - self.anchors.recall:.0%} of the boxes overlap no anchor by half, and will hardly be found: they "
                "differ much in shape, or are large for the coarsest level; another --image-size may fit them"
            )
        if self.most_found > _COUNTED:
            lines.append(
                f"up to {self.most_found} objects are found in an image, twice as many as there are in the fullest; AP "
                f"counts the {_COUNTED} with the highest scores, as COCO's does"
            )
        return lines


def choose(settings: DetectionSettings, boxes: Boxes, kind: str, kept: Kept | None) -> tuple[Choices, Any]:
    """What fits the data; and the clusters of boxes (`anchors.clusters`) in pixels of the input.

    Args:
      settings: Of the run; what is given there stays.
      boxes: Of the training split.
      kind: "cpu", "gpu" or "tpu".
      kept: The network to start from.

    Raises:
      UserError: There are no boxes.
    """
    if not len(boxes.sides):
        raise UserError("no image of the training split has a box; nothing can be learned")
    size = settings.size or sizes.input_size(boxes.images, sizes.MOST_PIXELS[kind])
    scaled = boxes.scaled(*size)
    is_two_stage = settings.model == "cascade"
    fitted = anchors.fit(
        scaled, sizes.levels(size, scaled, is_two_stage), settings.seed, (1,) if is_two_stage else (1, 2, 3)
    )
    images = len(boxes.images)
    batch = min(settings.batch_size or sizes.batch_size(size, kind, images), images)
    topology = settings.topology or (TOPOLOGY if kept is None else str(kept.topology))
    choices = Choices(
        size=size,
        anchors=fitted,
        batch_size=batch,
        epochs=settings.epochs or sizes.epochs(images, batch),
        learning_rate=sizes.learning_rate(batch),
        topology=topology,
        most_found=min(_MOST_FOUND, max(_FOUND_AT_LEAST, 2 * boxes.most_in_an_image)),
        small=float(np.median(scaled.min(axis=1))),
    )
    return choices, anchors.clusters(scaled, settings.seed)


@dataclasses.dataclass(frozen=True)
class SegmentationChoices:
    """What was chosen by the data; attributes as of `Choices`."""

    size: tuple[int, int]
    batch_size: int
    epochs: int
    learning_rate: float
    topology: str

    @classmethod
    def of(
        cls, settings: SegmentationSettings, prepared: Labelled, kind: str, kept: Kept | None
    ) -> SegmentationChoices:
        """What fits the data.

        Args:
          settings: Of the run; what is given there stays.
          prepared: The records.
          kind: "cpu", "gpu" or "tpu".
          kept: The network to start from.
        """
        train = prepared.counts["train"]
        records = os.path.join(prepared.directory, "train.tfrecord")
        size = settings.size or sizes.input_size(box_records.image_sizes(records), sizes.MOST_PIXELS[kind])
        batch = min(settings.batch_size or sizes.batch_size(size, kind, train.images), train.images)
        epochs = settings.epochs or sizes.epochs(train.images, batch)
        topology = settings.topology or (TOPOLOGY if kept is None else str(kept.topology))
        return cls(size, batch, epochs, sizes.learning_rate(batch), topology)

    @property
    def lines(self) -> list[str]:
        """In words."""
        return [
            f"input {self.size[0]} x {self.size[1]}",
            f"{self.epochs} epochs in batches of {self.batch_size}, learning rate {self.learning_rate:g}",
        ]
