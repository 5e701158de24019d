"""Single values of annotation files, as many programs write them: what they mean, if that is clear. No TensorFlow."""

from __future__ import annotations

import math
import re
from typing import Any

Identifier = int | str
Box = tuple[float, float, float, float]  # x, y, width and height in pixels.

_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?")
_TRUTHS = {"true": 1, "yes": 1, "1": 1, "1.0": 1, "false": 0, "no": 0, "0": 0, "0.0": 0, "": 0}


class Unreadable(Exception):
    """A value without a clear meaning.

    Args:
      kind: What is wrong with it, the same words for all values of the kind; it follows "N annotations" in a message.
      example: The value.
    """

    def __init__(self, kind: str, example: Any = ""):
        super().__init__(kind, example)
        self.kind = kind
        self.example = example


def number(value: Any) -> float | None:
    """A finite number, also written as a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """A whole number, also as 60.0 or "60"; None for anything else."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def is_absent(value: Any) -> bool:
    """Whether a field is left out, in any of the ways of JSON and of tables turned into JSON."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def identifier(value: Any) -> Identifier | None:
    """An identifier such that 7, 7.0 and "7" are the same; None for what is none."""
    if isinstance(value, str):
        text = value.strip()
        if not _WHOLE.fullmatch(text):
            return text or None
        return int(text.split(".")[0])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    return value


def truth(value: Any) -> int | None:
    """1 or 0 of a flag in any usual form, 0 if it is absent; None for what is no flag."""
    if is_absent(value):
        return 0
    if isinstance(value, (bool, int, float)):
        return int(value) if value in (0, 1) else None
    return _TRUTHS.get(value.strip().lower()) if isinstance(value, str) else None


def box(value: Any) -> Box | None:
    """x, y, width and height; None for an absent box.

    Raises:
      Unreadable: It is something else than four finite numbers.
    """
    if is_absent(value) or (isinstance(value, list) and not value):
        return None
    numbers = [number(item) for item in value] if isinstance(value, list) and len(value) == 4 else []
    if not numbers or None in numbers:
        raise Unreadable("have a box that is not four finite numbers", value)
    return tuple(numbers)  # type: ignore[return-value]


def side(value: Any) -> int | None:
    """Width or height of an image in pixels; None if it is absent or 0, which programs write that do not know it.

    Raises:
      Unreadable: It is no whole number from 1.
    """
    if is_absent(value) or value in (0, "0"):
        return None
    found = whole(value)
    if found is None or found < 1:
        raise Unreadable("state a width or height that is no whole number from 1", value)
    return found
