"""What the values of label pictures mean: a file of classes, or the numbers themselves. No TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from asvit_tf.dataloaders.masks import IGNORED
from asvit_tf.errors import OneClassError, UserError

Label = int | tuple[int, int, int]  # A number, or red, green and blue.

MOST_CLASSES = IGNORED  # A class is a number of 8 bits, and the largest means that there is none.
NO_CLASS = 256  # In a lookup: labels that the table does not have.
_LARGEST = 255  # In a file of classes.
_NUMBERS = 1 << 16  # That pictures may hold.
_COLOURS = 1 << 24

_COMMENT = re.compile(r"(^|\s)#.*")
_COLOUR = re.compile(r"([+-]?\d+)[\s,]+([+-]?\d+)[\s,]+([+-]?\d+)(?:[\s,]+(.*))?")
_NUMBER = re.compile(r"([+-]?\d+)[\s,]+(.+)")
_FORMS = ("NAME", "NUMBER NAME", "R G B NAME")


@dataclasses.dataclass(frozen=True)
class Table:
    """Which label of the pictures is which class.

    Attributes:
      names: By class.
      labels: Likewise; all numbers or all colours.
      ignored: Labels that are neither trained on nor evaluated.
      source: The file of classes; None where the classes are the numbers that are found.
    """

    names: tuple[str, ...]
    labels: tuple[Label, ...]
    ignored: frozenset[Label]
    source: str | None = None

    @property
    def in_colours(self) -> bool:
        """Whether the labels are colours."""
        return isinstance(self.labels[0], tuple)

    def lookup(self) -> np.ndarray:
        """Classes by `code` of the label, [2^16 or 2^24] uint16; `IGNORED`, and `NO_CLASS` where there is none."""
        found = np.full(_COLOURS if self.in_colours else _NUMBERS, NO_CLASS, np.uint16)
        found[[code(label) for label in self.labels]] = np.arange(len(self.labels))
        found[[code(label) for label in self.ignored]] = IGNORED
        return found

    def up_to(self, count: int) -> Table:
        """The first classes alone."""
        return dataclasses.replace(self, names=self.names[:count], labels=self.labels[:count])

    def words(self, number: int) -> str:
        """The label with this `code`, for a message."""
        if not self.in_colours:
            return f"the label {number}"
        return "the colour {} {} {}".format(*(number >> shift & 255 for shift in (16, 8, 0)))

    @property
    def allowed(self) -> str:
        """Which labels there may be, for a message."""
        if self.source is not None:
            return f"allowed are those that {self.source} lists, and --ignored"
        return f"at most {MOST_CLASSES} classes fit in; allowed are 0 to {self.labels[-1]}, 255 and --ignored"


def code(label: Label) -> int:
    """The label as one number; of a colour red * 65536 + green * 256 + blue."""
    return label if isinstance(label, int) else label[0] << 16 | label[1] << 8 | label[2]


def of_numbers(ignored: Sequence[str] = ()) -> Table:
    """The table without a file: every number that is not ignored is a class, as many as fit in.

    Args:
      ignored: Numbers; 255 is always ignored.

    Raises:
      UserError: They are no numbers.
    """
    left_out = _ignored(ignored, {}, None)
    labels = [number for number in range(MOST_CLASSES + len(left_out) + 1) if number not in left_out][:MOST_CLASSES]
    return Table(tuple(map(str, labels)), tuple(labels), left_out)


def read(path: str | os.PathLike, ignored: Sequence[str] = ()) -> Table:
    """The table of a file: a class a line, all as NAME (from 0), NUMBER NAME or R G B NAME.

    Separated by spaces, tabs or commas; what follows a # is a comment. Classes are counted through in the order of the
    numbers, or of the lines of colours, without those that are ignored.

    Args:
      path: The file, in UTF-8.
      ignored: Names of classes, or numbers; in a table of numbers 255 is always ignored.

    Raises:
      OneClassError: One class is left.
      UserError: It cannot be read, or contradicts itself; the message names the line.
    """
    path = os.fspath(path)
    rows: dict[Label, str] = {}
    lines: dict[Label | str, int] = {}
    form = None
    for number, line in _lines(path):
        place = f"line {number} of {path}"
        its_form, label, name = _row(line, place)
        form = form or its_form
        if its_form != form:
            raise UserError(f"{place} is {its_form}, but the lines before are {form}; all have to be alike")
        label = len(rows) if label is None else label
        if not all(0 <= part <= _LARGEST for part in (label if isinstance(label, tuple) else (label,))):
            raise UserError(f"{place} has a number that is not between 0 and {_LARGEST}: {line}")
        for value, what in ((label, "label"), (name, "name")):
            if value in lines:
                raise UserError(f"{place} has the {what} of line {lines[value]} again: {line}")
            lines[value] = number
        rows[label] = name
    if not rows:
        raise UserError(f"{path} names no classes; expected a class a line, as {', '.join(_FORMS)}")
    left_out = _ignored(ignored, {name: label for label, name in rows.items()}, path)
    labels = [label for label in rows if label not in left_out]
    if form != _FORMS[2]:
        labels.sort(key=code)
    if len(labels) < 2:
        raise OneClassError(f"{path} has {len(labels)} classes that are not ignored; expected at least two")
    return Table(tuple(rows[label] for label in labels), tuple(labels), left_out, path)


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without comments and empty ones."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the classes of {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8; expected a class a line") from error
    for number, line in enumerate(text.splitlines(), 1):
        if left := _COMMENT.sub("", line).strip(" \t,"):
            yield number, left


def _row(line: str, place: str) -> tuple[str, Label | None, str]:
    """Form, label and name of a line."""
    if found := _COLOUR.fullmatch(line):
        if not found[4]:
            raise UserError(f"{place} has a colour without a name: {line}")
        return _FORMS[2], (int(found[1]), int(found[2]), int(found[3])), found[4]
    if found := _NUMBER.fullmatch(line):
        return _FORMS[1], int(found[1]), found[2]
    return _FORMS[0], None, line


def _ignored(words: Sequence[str], by_name: dict[str, Label], path: str | None) -> frozenset[Label]:
    """The labels that are meant by numbers or names."""
    in_colours = any(isinstance(label, tuple) for label in by_name.values())
    found: set[Label] = set() if in_colours else {IGNORED}
    for word in words:
        if word in by_name:
            found.add(by_name[word])
        elif not in_colours and re.fullmatch(r"\d{1,5}", word, re.ASCII) and int(word) < _NUMBERS:
            found.add(int(word))
        else:
            names = f"names that {path} has" if path else "names where there is a file of classes"
            numbers = "" if in_colours else f"numbers from 0 to {_NUMBERS - 1} and "
            raise UserError(f"--ignored {word} is no class; allowed are {numbers}{names}")
    return frozenset(found)
