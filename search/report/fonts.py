"""Fonts of the figures: matplotlib's own, then whatever installed ones have the characters that it lacks.

matplotlib's has Latin, Greek and Cyrillic letters, not the Chinese ones. Where no font has them, figures would show
boxes: there, classes have numbers, which the tables of the page give beside their names.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

_BOXES = ("Last Resort", "LastResort", "Adobe Blank")  # Fonts with the same sign for every character.
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
    others, _ = _fallbacks(frozenset("".join(text.get_text() for text in texts)))
    for text in texts if others else ():
        text.set_fontfamily([*text.get_fontfamily(), *others])
    with _quiet():
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without matplotlib's remarks on families that have no normal weight."""
    logger = logging.getLogger("matplotlib.font_manager")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _lacking(text: str) -> frozenset[str]:
    return _fallbacks(frozenset(text))[1]


@functools.lru_cache(maxsize=4096)
def _fallbacks(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families that have, together, what matplotlib's own font lacks; and the characters that no font has."""
    missing = {each for each in characters if ord(each) >= ord(" ")} - _characters(findfont(FontProperties()))
    families: list[str] = []
    while missing:
        # Fonts without serifs look like the one that they stand in for.
        best = max(_families(), key=lambda name: (len(missing & _of_family(name)), "Sans" in name), default=None)
        if best is None or not missing & _of_family(best):
            break
        families.append(best)
        missing -= _of_family(best)
    return tuple(families), frozenset(missing)


@functools.cache
def _families() -> tuple[str, ...]:
    """Names of the installed families."""
    return tuple(sorted({font.name for font in fontManager.ttflist if not font.name.startswith(_BOXES)}))


@functools.cache
def _of_family(name: str) -> frozenset[str]:
    with _quiet():
        return _characters(findfont(FontProperties(family=name)))


@functools.cache
def _characters(file: str) -> frozenset[str]:
    """What a font has; nothing where it cannot be read, as those of coloured pictures."""
    try:
        return frozenset(map(chr, FT2Font(file).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
