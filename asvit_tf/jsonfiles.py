"""Files that are whole or absent, and JSON that holds no NaN. No TensorFlow."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def jsonable(value: Any) -> Any:
    """The value with every number that JSON cannot hold (NaN, infinity) replaced by None."""
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_text(path: Path, text: str) -> None:
    """Writes a file whole: under a temporary name first."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes `jsonable(value)`, whole."""
    write_text(path, json.dumps(jsonable(value), indent=1, allow_nan=False) + "\n")
