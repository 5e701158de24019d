"""A progress bar for work that mostly takes no time, so that it only appears, and only until its end, where it does."""

from __future__ import annotations

from collections.abc import Iterable

import tqdm

_DELAY = 2.0  # Seconds of work before it appears.


def brief_bar(
    items: Iterable | None, what: str, shown: bool, total: int | None = None, unit: str = "image"
) -> tqdm.tqdm:
    """A bar on standard error over `items`, or one to be updated.

    Args:
      items: What it counts when iterated; None for `update`.
      what: Stands before it.
      shown: Whether it may appear at all.
      total: Number of items; None for their length.
      unit: What one of them is.
    """
    return tqdm.tqdm(items, desc=what, total=total, unit=unit, disable=not shown, leave=False, delay=_DELAY)
