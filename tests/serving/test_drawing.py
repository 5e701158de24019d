"""What is written on pictures: in any script for which there is a font, else the number of the class."""

import sys

import numpy as np
import pytest
from helpers import OTHER_FONT, OWN_FONT, characters, only_its_fonts
from PIL import Image

from asvit_tf.serving import detect, drawing, segment

CAT = "\u732b"
SIZE = (320, 240)


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    with only_its_fonts(monkeypatch):
        yield


def is_drawn(text, font):
    """Every character has a sign of its own, not the box of those that the font lacks."""
    box = bytes(font.getmask("\uffff"))
    return all(bytes(font.getmask(character)) != box for character in text if character != " ")


@pytest.mark.parametrize("name", ["dog", "M\u00e4use", "\u0416\u0443\u043a", "\u03a9", "\u0639"])
def test_names_of_other_alphabets_are_drawn(name):
    text, font = drawing.written(f"{name} 0.93", "#3 0.93", SIZE)
    assert text == f"{name} 0.93"
    assert is_drawn(text, font)
    assert font.size == 9


def test_a_sign_that_only_another_font_has():
    sign = chr(min(code for code in characters(OTHER_FONT) - characters(OWN_FONT) if 0x2900 < code < 0xE000))
    text, font = drawing.written(f"{sign} 1.0%", "#3 1.0%", (2000, 1600))
    assert (text, font.getname()[0], font.size) == (f"{sign} 1.0%", OTHER_FONT, 50)
    assert is_drawn(text, font)


@pytest.mark.parametrize("has_matplotlib", [True, False])
def test_a_name_that_no_font_has_is_a_number(has_matplotlib, monkeypatch):
    if not has_matplotlib:
        monkeypatch.setitem(sys.modules, "asvit_tf.serving.installed_fonts", None)
        monkeypatch.delattr("asvit_tf.serving.installed_fonts")
    image = Image.new("RGB", SIZE)
    pictures = [
        detect.drawn(image, [detect.Detection(label, 3, 0.93, (50, 50, 200, 150))]) for label in (CAT, "#3", "#4")
    ]
    assert pictures[0] == pictures[1] != pictures[2]
    found = segment.Segmented(np.ones((32, 32), np.int32), ("dog", CAT))
    numbered = segment.Segmented(found.classes, ("dog", "#1"))
    assert segment._legend(found, SIZE) == segment._legend(numbered, SIZE)
