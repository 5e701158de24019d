"""Names that matplotlib's own font cannot draw: by another font where one is installed, else as numbers."""

import warnings

import numpy as np
import pytest
from helpers import FONTS, OTHER_FONT, characters, only_its_fonts

from asvit_tf.serving import installed_fonts
from asvit_tf.serving.held_out import Predictions
from search.report import figures, fonts, held_out, held_out_figures

CAT = "\u732b"


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    with only_its_fonts(monkeypatch):
        yield


@pytest.fixture
def sign():
    """A character that the other font has, and matplotlib's own has not."""
    own, other = map(characters, FONTS)
    return chr(min(code for code in other - own if 0x2900 < code < 0xE000))


def test_names_that_no_font_has_are_numbers_and_tables_say_whose(sign):
    names = ["dog", CAT, f"{sign}{sign}", f"{CAT}{sign}", "M\u00e4use \u0439\u03b1"]
    assert fonts.shown(names) == ["dog", "#1", names[2], "#3", names[4]]
    assert fonts.listed(names) == ["dog", f"#1 {CAT}", names[2], f"#3 {CAT}{sign}", names[4]]
    assert fonts.legible(f"{CAT}/{sign}\n1.png") == f"?/{sign}\n1.png"


def test_a_font_that_has_a_box_for_everything_is_none(monkeypatch):
    monkeypatch.undo()
    assert not [name for name in installed_fonts._families() if "resort" in name.lower()]
    installed_fonts.fallbacks.cache_clear()
    assert fonts.shown(["\u0378"]) == ["#0"]  # No character at all.


def drawn(figure):
    """Draws it as a page does; every glyph is there, and every font is found."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return figures.png(figure)


def test_a_page_holds_no_boxes(sign, caplog):
    names = ["dog", CAT, f"{sign} and $1"]
    labels = np.array([0, 1, 2, 1])
    probabilities = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    sources = np.array(["1.png", "2.png", f"{sign}.png", f"{CAT}/4.png"])
    answers = Predictions(labels, probabilities, sources, np.array([3]), np.zeros((1, 4, 4, 3), np.uint8), "0" * 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = "".join(held_out.parts(answers, names, answers.accuracy))
    assert f"<td>#1 {CAT}</td>" in page
    assert f"<td>{sign} and $1</td>" in page
    assert not caplog.records
    figure = held_out_figures.confusion_figure(answers.confusion, fonts.shown(names))
    drawn(figure)
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["dog", "#1", f"{sign} and \\$1"]
    assert labels[0].get_fontfamily()[-1] == OTHER_FONT


def test_latin_names_are_drawn_as_ever():
    figure = held_out_figures.confusion_figure(np.eye(2, dtype=int), fonts.shown(["cat", "dog"]))
    drawn(figure)
    assert OTHER_FONT not in figure.axes[0].get_yticklabels()[0].get_fontfamily()
