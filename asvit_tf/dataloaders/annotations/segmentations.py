"""Segmentations as programs write them: polygons in five spellings, run lengths in four; as masks of an image.

A mask is what pycocotools makes of it. In front of pycocotools, which trusts its input, stand the checks: run lengths
that do not add up leave whatever was in memory in the mask, and a polygon takes memory by the length of its outline.
"""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_tools

from asvit_tf.dataloaders.annotations import values
from asvit_tf.dataloaders.annotations.values import Unreadable

_LONGEST_OUTLINE = 2_000_000  # Pixels; pycocotools takes about 200 bytes for each.
_LARGEST_COORDINATE = 4e8  # Pixels; five times a coordinate has to fit into the 32 bits of pycocotools.
_NEAR = 1.0  # Pixels by which a segmentation that is a box may differ from the box.


@dataclasses.dataclass(frozen=True)
class Runs:
    """Run lengths.

    Attributes:
      counts: [n] int64, columns first, beginning with background.
      size: Height and width that are stated; None if none are.
    """

    counts: np.ndarray
    size: tuple[int, int] | None


Part = np.ndarray | Runs  # A polygon [corners, 2], x and y; or run lengths.


def read(value: Any, box: values.Box | None) -> list[Part]:
    """The parts of a segmentation; none if it is empty or absent.

    Args:
      value: Polygons as lists of numbers, of pairs or of {"x":, "y":}, one polygon without the outer list, a box, run
        lengths, or a list of these; also as a text of JSON.
      box: The box of the object. Four numbers are a segmentation only where they say the same as it does, as a box or
        as two corners; else they are a line, which has no pixels.

    Raises:
      Unreadable: It is none of these.
    """
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Unreadable("have a segmentation that is a text", value) from None
    if values.is_absent(value) or value in ([], {}):
        return []
    if isinstance(value, dict):
        return [_runs(value)]
    if not isinstance(value, list):
        raise Unreadable("have a segmentation of an unknown form", value)
    if not any(map(_is_nested, value)) or _is_points(value):
        value = [value]
    parts: list[Part] = []
    for item in value:
        if isinstance(item, dict):
            parts.append(_runs(item))
        elif isinstance(item, list):
            polygon = _polygon(item, box)
            parts += [] if polygon is None else [polygon]
        else:
            raise Unreadable("have a segmentation of an unknown form", value)
    return parts


def _is_nested(item: Any) -> bool:
    return isinstance(item, (list, dict))


def _is_points(value: Sequence[Any]) -> bool:
    """Whether a list is one polygon as pairs of numbers, or as {"x":, "y":}."""
    pairs = all(isinstance(item, list) and len(item) == 2 and not any(map(_is_nested, item)) for item in value)
    return pairs or all(isinstance(item, dict) and {"x", "y"} <= set(item) for item in value)


def _polygon(item: list[Any], box: values.Box | None) -> np.ndarray | None:
    """Corners [n, 2] of one polygon; None if it has fewer than three and is no box."""
    if item and all(isinstance(point, dict) for point in item):
        item = [[point.get("x"), point.get("y")] for point in item]
    try:
        numbers = np.array(item, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise Unreadable("have a polygon that is not of numbers", item) from None
    if not np.isfinite(numbers).all():
        raise Unreadable("have a polygon that is not of finite numbers", item)
    if numbers.ndim > 2 or (numbers.ndim == 2 and numbers.shape[1] != 2) or numbers.size % 2:
        raise Unreadable("have a polygon that is not of pairs of numbers", item)
    corners = numbers.reshape(-1, 2)
    if len(corners) == 2 and box is not None:
        x, y, width, height = box
        same = (
            np.abs(corners.ravel() - [x, y, *end]).max() <= _NEAR for end in ((width, height), (x + width, y + height))
        )
        if any(same):
            return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    return corners if len(corners) > 2 else None


def _runs(item: dict[str, Any]) -> Runs:
    """Run lengths of a dict with `counts` and, as a rule, `size`."""
    if "counts" not in item:
        raise Unreadable("have a segmentation of an unknown form", item)
    size = item.get("size")
    if size is not None:
        sides = [values.whole(side) for side in size] if isinstance(size, list) and len(size) == 2 else [None]
        if None in sides:
            raise Unreadable("have run lengths whose size is not height and width", size)
        size = tuple(sides)
    counts = item["counts"]
    if isinstance(counts, list):
        try:
            found = np.array(counts, np.float64)
        except (ValueError, TypeError, OverflowError):
            found = np.array([np.nan])
        # Whole up to here: a float64 holds every whole number that an image has pixels.
        if found.ndim != 1 or not (
            np.isfinite(found).all() and (found >= 0).all() and (found == np.floor(found)).all()
        ):
            raise Unreadable("have run lengths that are not whole numbers from 0", counts)
        return Runs(np.minimum(found, 2.0**52).astype(np.int64), size)
    return Runs(_decompressed(counts), size)


def _decompressed(counts: Any) -> np.ndarray:
    """Run lengths [n] int64 of COCO's compressed form: six bits a character, differences from the third on."""
    if isinstance(counts, str) and counts.startswith(("b'", 'b"')):  # Bytes that were made a text by Python.
        try:
            counts = ast.literal_eval(counts)
        except (ValueError, SyntaxError):
            raise Unreadable("have compressed run lengths that are damaged", counts) from None
    try:
        encoded = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        raise Unreadable("have compressed run lengths that are damaged", counts) from None
    if not isinstance(encoded, bytes):
        raise Unreadable("have run lengths of an unknown form", counts)
    characters = np.frombuffer(encoded, np.uint8).astype(np.int64) - 48
    if not len(characters):
        return characters
    ends = (characters & 32) == 0
    if characters.min() < 0 or characters.max() > 63 or not ends[-1]:
        raise Unreadable("have compressed run lengths that are damaged", counts)
    starts = np.flatnonzero(np.concatenate([[True], ends[:-1]]))
    place = np.arange(len(characters)) - np.repeat(starts, np.diff(np.append(starts, len(characters))))
    if place.max() > 9:  # Fifty bits.
        raise Unreadable("have compressed run lengths that are damaged", counts)
    found = np.add.reduceat((characters & 31) << (5 * place), starts)
    is_negative = (characters[ends] & 16) != 0
    found[is_negative] -= np.int64(1) << (5 * (place[ends][is_negative] + 1))
    found[1::2] = np.cumsum(found[1::2])
    found[2::2] = np.cumsum(found[2::2])
    if (found < 0).any() or found.max() > 2**52:
        raise Unreadable("have compressed run lengths that are damaged", counts)
    return found


def mask_of(parts: Sequence[Part], height: int, width: int) -> tuple[dict[str, Any] | None, bool]:
    """The union of the parts as compressed run lengths (`counts` a text), None if no pixel is in it.

    Args:
      parts: From `read`.
      height, width: Size of the image.

    Returns:
      The mask; and whether run lengths ended with an object, so that the background behind it was added.

    Raises:
      Unreadable: Run lengths are of another size, or do not add up to the image; an outline is too long.
    """
    masks, is_filled = [], False
    for part in parts:
        if isinstance(part, Runs):
            counts, added = _whole_image(part, height, width)
            is_filled |= added
            masks.append(mask_tools.frPyObjects(dict(size=[height, width], counts=counts.tolist()), height, width))
        else:
            corners = _near(part, height, width)
            if len(corners) > 2:
                masks += mask_tools.frPyObjects([corners.ravel().tolist()], height, width)
    whole = mask_tools.merge(masks) if masks else None
    if whole is None or not mask_tools.area(whole):
        return None, is_filled
    return dict(size=[height, width], counts=whole["counts"].decode()), is_filled


def _whole_image(runs: Runs, height: int, width: int) -> tuple[np.ndarray, bool]:
    """Run lengths that add up to the image; and whether the last one had to be added."""
    if runs.size is not None and runs.size != (height, width):
        raise Unreadable(
            "have run lengths of another size than their image",
            f"height and width {list(runs.size)} instead of {[height, width]}",
        )
    pixels = height * width
    total = int(np.minimum(runs.counts, pixels + 1).sum())
    if total == pixels:
        return runs.counts, False
    # What ends with an object lacks the background behind it; what ends elsewhere was cut off, nobody knows where.
    if total < pixels and len(runs.counts) % 2 == 0:
        return np.append(runs.counts, pixels - total), total > 0
    raise Unreadable("have run lengths that do not add up to their image", f"{total} pixels instead of {pixels}")


def _near(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """The polygon itself if pycocotools can draw it; else cut around the image, far from it.

    Where a slanted edge was cut pycocotools begins to step elsewhere, so pixels on the edge may change.
    """
    if np.abs(corners).max() > _LARGEST_COORDINATE or _outline(corners) > _LONGEST_OUTLINE:
        reach = 4 * max(height, width) + 64
        for axis, length in ((0, width), (1, height)):
            corners = _cut(corners, axis, -reach, 1)
            corners = _cut(corners, axis, length + reach, -1)
        if (outline := _outline(corners)) > _LONGEST_OUTLINE:
            raise Unreadable(f"have an outline longer than {_LONGEST_OUTLINE} pixels", f"{outline:.3g} pixels")
    return corners


def _outline(corners: np.ndarray) -> float:
    """Steps around a polygon [n, 2], in pixels."""
    return float(np.abs(np.diff(corners, axis=0, append=corners[:1])).max(1).sum())


def _cut(corners: np.ndarray, axis: int, limit: float, sign: int) -> np.ndarray:
    """The part of a polygon [n, 2] with sign * (coordinate - limit) >= 0, by Sutherland and Hodgman's rule."""
    if not len(corners):
        return corners
    # Half of each number: the difference of the two largest numbers is one, too.
    distance = sign * (corners[:, axis] / 2 - limit / 2)
    ahead, next_distance = np.roll(corners, -1, axis=0), np.roll(distance, -1)
    inside, next_inside = distance >= 0, next_distance >= 0
    crosses = inside != next_inside
    share = np.where(crosses, distance / np.where(crosses, distance - next_distance, 1), 0)[:, None]
    crossing = corners * (1 - share) + ahead * share
    crossing[:, axis] = limit
    # Each corner that is inside, then where the edge behind it crosses.
    pairs = np.stack([corners, crossing], axis=1).reshape(-1, 2)
    return pairs[np.stack([inside, crosses], axis=1).ravel()]
