"""Annotations in the layouts of YOLO and Pascal VOC, which are not read, recognized for a message. No TensorFlow."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

# A line is the class and the box, or the class and a polygon; the first bytes of a file tell.
_FORMS = (
    (".txt", re.compile(rb"\s*\d+([ \t]+[-+.\deE]+){4,}[ \t]*\r?(\n|$)"), "YOLO"),
    (".xml", re.compile(rb"(?s).*<annotation[\s>]"), "Pascal VOC"),
)
_BYTES = 1000
_FOLDERS = 200  # That are looked through.
_OPENED = 20  # Files of a form in each.


def found(data_path: Path) -> str | None:
    """The kind of annotations that a folder holds, with one of the files, as words; None if there are none."""
    for parent, _, names in itertools.islice(os.walk(data_path), _FOLDERS):
        for end, form, whose in _FORMS:
            for name in sorted(name for name in names if name.lower().endswith(end))[:_OPENED]:
                path = os.path.join(parent, name)
                if form.match(_beginning(path)):
                    return f"annotations of {whose}, as {os.path.relpath(path, data_path)}"
    return None


def _beginning(path: str) -> bytes:
    try:
        if not os.path.isfile(path):  # Reading a pipe would wait for ever.
            return b""
        with open(path, "rb") as file:
            return file.read(_BYTES)
    except OSError:
        return b""
