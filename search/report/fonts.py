"""Fonts of the figures: matplotlib's own, then whatever installed ones have the characters that it lacks.

Where no font has them, figures would show boxes: there, classes have numbers, which the tables of the page give beside
their names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure
from matplotlib.text import Text

from asvit_tf.serving import installed_fonts

_MISSING = "?"


def shown(names: Sequence[str]) -> list[str]:
    """Class names by label as figures hold them: of those that no font can draw the numbers, as #3."""
    return [f"#{label}" if _lacking(name) else name for label, name in enumerate(names)]


def listed(names: Sequence[str]) -> list[str]:
    """Class names by label as tables hold them: with the number where the figures have that."""
    return [name if name == in_figures else f"{in_figures} {name}" for name, in_figures in zip(names, shown(names))]


def legible(text: str) -> str:
    """A text with ? for each character that no font has."""
    lacking = _lacking(text)
    return "".join(_MISSING if character in lacking else character for character in text)


@contextlib.contextmanager
def complete(figure: Figure) -> Iterator[None]:
    """Has all texts of a figure fall back to fonts that have their characters; it is drawn inside the `with` block."""
    texts = [artist for artist in figure.findobj(Text) if isinstance(artist, Text)]
    others, _ = installed_fonts.fallbacks(frozenset("".join(text.get_text() for text in texts)))
    for text in texts if others else ():
        text.set_fontfamily([*text.get_fontfamily(), *others])
    with installed_fonts.quiet():
        yield


def _lacking(text: str) -> frozenset[str]:
    return installed_fonts.fallbacks(frozenset(text))[1]
