"""What is wrong with an annotation file, by kind: how often, and the first example. No TensorFlow."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from asvit_tf.dataloaders.annotations.values import Unreadable
from asvit_tf.errors import UserError

_SHOWN = 70  # Characters of an example.


class Problems:
    """Entries of one annotation file that cannot be read.

    Args:
      source: Name of the file, for messages.

    Attributes:
      counts: By kind; a kind begins with "images" or "annotations".
    """

    def __init__(self, source: str):
        self.source = source
        self.counts: collections.Counter[str] = collections.Counter()
        self._first: dict[str, str] = {}

    def add(self, entries: str, row: Any, problem: Unreadable) -> str:
        """Counts an entry ("images" or "annotations") that has a problem; returns its kind."""
        kind = f"{entries} {problem.kind}"
        self.counts[kind] += 1
        if kind not in self._first:
            name = row.get("file_name" if entries == "images" else "id") if isinstance(row, dict) else None
            words = [] if name is None else [f"{entries[:-1]} {shown(name)}"]
            words += [] if problem.example == "" else [shown(problem.example)]
            self._first[kind] = ": ".join(words)
        return kind

    def line(self) -> str:
        """All of them in one line."""
        parts = []
        for kind, count in self.counts.items():
            entries, rest = kind.split(" ", 1)
            example = f" (the first: {self._first[kind]})" if self._first[kind] else ""
            parts.append(f"{count} {entries if count != 1 else entries[:-1] + '(s)'} {rest}{example}")
        return f"{self.source}: " + "; ".join(parts)


def shown(value: Any) -> str:
    """A value in ASCII, cut where it is long."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def refuse(found: Sequence[Problems]) -> None:
    """Ends the work where something was found.

    Raises:
      UserError: All of it in one line, and how to go on.
    """
    lines = [problems.line() for problems in found if problems.counts]
    if lines:
        raise UserError(f"{'; '.join(lines)}; repair them, or --skip-invalid leaves them out and counts them")
