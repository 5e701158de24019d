"""Synthetic scenes: filled shapes drawn over each other in clutter, with exact boxes and masks, in COCO's layout.

They are drawings, not photographs: what a detector reaches on them says that training, evaluation and export work, and
nothing about COCO. Everything follows from the seed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from PIL import Image, ImageDraw

from asvit_tf.dataloaders.masks import box_of, run_lengths
from asvit_tf.errors import UserError
from asvit_tf.storage import whole_directory

CLASSES = ("circle", "square", "triangle")  # Categories 1, 2 and 3; 0 is the background.
SIDE = 128
_OBJECTS = (2, 6)  # In a scene, at least and at most.
_DIAMETERS = (18, 56)  # Pixels.
_VISIBLE = 0.4  # Of an object at least; what is hidden further cannot be told apart even by eye.
_CONTRAST = 90  # Between the colours of a shape and of the background: sum of absolute differences.


@dataclasses.dataclass(frozen=True)
class Scene:
    """One drawing.

    Attributes:
      image: [H, W, 3] uint8.
      labels: Index in `CLASSES` of every object, from back to front.
      masks: [objects, H, W] bool, the visible part of each.
    """

    image: np.ndarray
    labels: tuple[int, ...]
    masks: np.ndarray


def _outline(label: int, centre: np.ndarray, diameter: float, angle: float) -> list[tuple[float, float]]:
    """Corners (x, y) of a shape inside a circle; the circle itself has many."""
    corners = (48, 4, 3)[label]
    turns = angle + 2 * math.pi * np.arange(corners) / corners
    points = centre + diameter / 2 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return [(float(x), float(y)) for x, y in points]


def _colour(generator: np.random.Generator, unlike: np.ndarray) -> tuple[int, int, int]:
    """A colour that differs visibly from another one."""
    while True:
        colour = generator.integers(256, size=3)
        if np.abs(colour - unlike).sum() > _CONTRAST:
            return tuple(map(int, colour))  # type: ignore[return-value]


def _background(generator: np.random.Generator, side: int) -> tuple[Image.Image, np.ndarray]:
    """A colour that changes across the image, with lines and specks; and the mean colour."""
    ends = generator.integers(40, 216, size=(2, 3))
    ramp = np.linspace(0, 1, side)[:, None, None]
    pixels = np.broadcast_to(ends[0] * (1 - ramp) + ends[1] * ramp, (side, side, 3))
    image = Image.fromarray(np.rot90(pixels, int(generator.integers(4))).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    pieces = side // 16
    for _ in range(generator.integers(pieces // 2, pieces + 1)):
        line = [float(value) for value in generator.uniform(0, side, 4)]
        draw.line(line, fill=_colour(generator, ends.mean(0)), width=1)
    for _ in range(generator.integers(pieces // 2, pieces + 1)):
        x, y = generator.uniform(0, side, 2)
        draw.rectangle([x, y, x + 2, y + 2], fill=_colour(generator, ends.mean(0)))
    return image, ends.mean(0)


def draw(generator: np.random.Generator, side: int, count: int, diameters: tuple[float, float]) -> Scene:
    """Draws shapes one over the other, each placed again until all drawn so far stay visible enough.

    Args:
      generator: Decides everything.
      side: Side of the image, in pixels.
      count: Shapes that are tried, >= 1; one that finds no place in fifty attempts is left out.
      diameters: Smallest and largest, in pixels, at most `side`.
    """
    image, mean = _background(generator, side)
    labels: list[int] = []
    masks: list[np.ndarray] = []
    areas: list[int] = []
    for _ in range(count):
        label = int(generator.integers(len(CLASSES)))
        for _ in range(50):
            diameter = generator.uniform(*diameters)
            centre = generator.uniform(diameter / 2, side - 1 - diameter / 2, 2)
            outline = _outline(label, centre, diameter, generator.uniform(0, 2 * math.pi))
            drawn = Image.new("1", (side, side))
            ImageDraw.Draw(drawn).polygon(outline, fill=1)
            mask = np.array(drawn)
            left = [below & ~mask for below in masks]
            if all(visible.sum() >= _VISIBLE * area for visible, area in zip(left, areas)):
                ImageDraw.Draw(image).polygon(outline, fill=_colour(generator, mean))
                labels, masks, areas = [*labels, label], [*left, mask], [*areas, int(mask.sum())]
                break
    noisy = np.asarray(image) + generator.normal(0, 6, (side, side, 3))
    return Scene(noisy.round().clip(0, 255).astype(np.uint8), tuple(labels), np.stack(masks))


def _annotations(scene: Scene, image_id: int) -> Iterator[dict[str, Any]]:
    for label, mask in zip(scene.labels, scene.masks):
        yield dict(
            image_id=image_id,
            category_id=label + 1,
            bbox=box_of(mask),
            area=int(mask.sum()),
            iscrowd=0,
            segmentation=run_lengths(mask),
        )


def write(
    directory: str | os.PathLike,
    train: int = 1000,
    validation: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Writes scenes as COCO does; complete or not at all.

    `train/` and `validation/` hold the images, 128 x 128 PNGs, `annotations/instances_*.json` what is in them.

    Args:
      directory: Must not exist.
      train, validation: Scenes, >= 1.
      seed: Every image follows from it, its split and its number alone.
      progress: Show a progress bar on standard error.

    Raises:
      UserError: The directory exists, or a number is too small.
      StoppedError: The disk is full.
    """
    if os.path.exists(directory):
        raise UserError(f"{directory} exists; choose another directory")
    if min(train, validation) < 1:
        raise UserError(f"scenes are {train} and {validation}; both must be at least 1")
    splits = {"train": train, "validation": validation}
    bar = tqdm.tqdm(total=train + validation, desc="scenes", unit="image", disable=not progress)
    with whole_directory(directory) as partial, bar:
        root = Path(partial)
        (root / "annotations").mkdir()
        for split, (name, scenes) in enumerate(splits.items()):
            (root / name).mkdir()
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for number in range(scenes):
                generator = np.random.default_rng((seed, split, number))
                scene = draw(generator, SIDE, int(generator.integers(_OBJECTS[0], _OBJECTS[1] + 1)), _DIAMETERS)
                file_name = f"{number:06d}.png"
                Image.fromarray(scene.image).save(root / name / file_name)
                images.append(dict(id=number + 1, file_name=file_name, height=SIDE, width=SIDE))
                annotations += _annotations(scene, number + 1)
                bar.update()
            contents = dict(
                info=dict(description="Synthetic scenes of shapes, drawn by asvit shapes", seed=seed),
                images=images,
                annotations=[dict(id=i, **annotation) for i, annotation in enumerate(annotations, start=1)],
                categories=[dict(id=label, name=name) for label, name in enumerate(CLASSES, start=1)],
            )
            (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(contents))
