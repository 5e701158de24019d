"""Installed fonts by the characters that they have: matplotlib's own, then those that have what it lacks.

matplotlib's has Latin, Greek and Cyrillic letters, not the Chinese ones. No TensorFlow.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator

from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

_BOXES = ("Last Resort", "LastResort", "Adobe Blank")  # Fonts with the same sign for every character.


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without matplotlib's remarks on families that have no normal weight."""
    logger = logging.getLogger("matplotlib.font_manager")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def file_for(text: str) -> str | None:
    """The file of one font that has all characters of a text; None where none has."""
    families, lacking = fallbacks(frozenset(text))
    if lacking:
        return None
    if not families:
        return findfont(FontProperties())
    found = [name for name in _families() if _printed(frozenset(text)) <= _of_family(name)]
    best = max(found, key=lambda name: "Sans" in name, default=None)
    return None if best is None else _file(best)


@functools.lru_cache(maxsize=4096)
def fallbacks(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families that have, together, what matplotlib's own font lacks; and the characters that no font has."""
    missing = _printed(characters) - _characters(findfont(FontProperties()))
    families: list[str] = []
    while missing:
        # Fonts without serifs look like the one that they stand in for.
        best = max(_families(), key=lambda name: (len(missing & _of_family(name)), "Sans" in name), default=None)
        if best is None or not missing & _of_family(best):
            break
        families.append(best)
        missing -= _of_family(best)
    return tuple(families), frozenset(missing)


def _printed(characters: frozenset[str]) -> frozenset[str]:
    return frozenset(each for each in characters if ord(each) >= ord(" "))


@functools.cache
def _families() -> tuple[str, ...]:
    """Names of the installed families."""
    return tuple(sorted({font.name for font in fontManager.ttflist if not font.name.startswith(_BOXES)}))


@functools.cache
def _of_family(name: str) -> frozenset[str]:
    return _characters(_file(name))


def _file(family: str) -> str:
    with quiet():
        return findfont(FontProperties(family=family))


@functools.cache
def _characters(file: str) -> frozenset[str]:
    """What a font has; nothing where it cannot be read, as those of coloured pictures."""
    try:
        return frozenset(map(chr, FT2Font(file).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
