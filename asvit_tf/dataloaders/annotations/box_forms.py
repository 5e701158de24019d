"""Boxes that are written in another form than COCO's, recognized by what all boxes of a file have in common."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from asvit_tf.dataloaders.annotations.matching import SLACK
from asvit_tf.dataloaders.annotations.problems import shown
from asvit_tf.dataloaders.annotations.schema import Entries
from asvit_tf.dataloaders.annotations.values import Identifier
from asvit_tf.errors import UserError

_NEARLY_ALL = 0.95
_MANY = 0.2


def check(entries: Entries, sizes: Mapping[Identifier, tuple[int | None, int | None]]) -> None:
    """Refuses boxes as two corners, and as shares of the image.

    Args:
      entries: What an annotation file says.
      sizes: Width and height of the images, by their identifier; None where they are not known.

    Raises:
      UserError: Nearly all numbers are at most 1; or many boxes stick out of their image as x, y, width and height, but
        nearly all are inside as corners.
    """
    rows = [entry for entry in entries.objects if entry.box is not None and min(entry.box[2:]) > 0]
    if not rows:
        return
    boxes = np.array([entry.box for entry in rows])  # [n, 4]
    source = entries.place.file
    is_share = ((boxes >= 0) & (boxes <= 1)).all(1)
    if is_share.mean() >= _NEARLY_ALL:
        first = rows[int(is_share.argmax())].row
        raise UserError(
            f"{source}: {is_share.sum()} of {len(rows)} boxes have no number above 1 (the first: "
            f"{shown(first['bbox'])}), as shares of the image; bbox must be x, y, width, height in pixels"
        )
    images = np.array([sizes.get(entry.key, (None, None)) for entry in rows], float)  # [n, 2]; NaN: not known.
    is_known = ~np.isnan(images).any(1)
    if not is_known.any():
        return
    start, end, images = boxes[is_known, :2], boxes[is_known, 2:], images[is_known] + SLACK
    with np.errstate(over="ignore"):
        sticks_out = (start + end > images).any(1)
    fits_as_corners = ((start >= -SLACK) & (end > start) & (end <= images)).all(1)
    if fits_as_corners.mean() >= _NEARLY_ALL and sticks_out.mean() >= _MANY:
        first = rows[int(np.flatnonzero(is_known)[sticks_out.argmax()])].row
        raise UserError(
            f"{source}: {sticks_out.sum()} of {len(start)} boxes stick out of their image (the first: "
            f"{shown(first['bbox'])}), but as corners they fit; bbox must be x, y, width, height in pixels"
        )
