"""A drawn design holds the numbers of the released implementation, and its windows are those of the layers."""

import itertools
import re

import pytest
from helpers import COUNTS

from asvit_tf.design import grids
from asvit_tf.design.topology import Topology
from search.report import design_figure
from search.report.design_figure import Design


def drawn(topology, image_size=(224, 224), stride=4, **options):
    return design_figure.draw(Design(Topology.parse(topology), image_size, 1000, stride, stride, **options)).axes[0]


def texts(axis):
    """What is written, in plain letters."""
    return [text.get_text().replace("\u00d7", "x").replace("\u2192", "->") for text in axis.texts]


def patches(axis, gid):
    return [patch for patch in axis.patches if patch.get_gid() == gid]


def number(text):
    return int(text.replace(",", ""))


@pytest.mark.parametrize("row", COUNTS[:4], ids=lambda row: row["topology"])
def test_the_totals_are_the_released_counts(row):
    axis = drawn(row["topology"])
    (title,) = [text for text in texts(axis) if "multiply-accumulates" in text]
    parameters, macs = re.match(r"([\d,]+) parameters, ([\d,.]+) M multiply", title).groups()
    assert number(parameters) == row["params_with_position_embedding"]
    assert float(macs.replace(",", "")) == pytest.approx(row["macs_matmul_and_conv"] / 1e6, abs=0.05)
    # Stages and rest add up to it, in words and in the bar, whose parts lie side by side.
    found = texts(axis)
    stages = [number(found[i + 1]) for i, text in enumerate(found) if text == "params"]
    rest = number(next(text for text in found if text.startswith("grey:")).rpartition(", ")[2])
    assert len(stages) == 4
    assert sum(stages) + rest == number(parameters)
    widths = [patch.get_width() for patch in patches(axis, "size")]
    shares = [part / number(parameters) for part in (*stages, rest)]
    assert [width / sum(widths) for width in widths] == pytest.approx(shares)


def test_every_part_of_a_stage_is_named():
    """Of a topology written out: K,S,E,L for each stage, then heads and width."""
    found = texts(drawn("7,2,3,2|4,2,5|3,2,4,7|3,1,3|64,24", (32, 32)))
    for text in ("stem 7x7, stride 4", "merging 4x4, stride 2", "merging 3x3, stride 2", "32x32"):
        assert text in found
    values = {name: [after for text, after in itertools.pairwise(found) if text == name] for name in found}
    assert values["tokens"] == ["8x8", "4x4", "2x2", "1x1"]
    assert values["windows"] == [
        "2x2 of 4x4",
        "2x2 of 2x2",
        "2x2 of 1x1",
        "the whole grid",
    ]
    assert values["heads"] == [
        "8 x 3 channels",
        "16 x 3 channels",
        "32 x 3 channels",
        "64 x 3 channels",
    ]
    assert values["FFN"] == [
        "24 -> 72 -> 24",
        "48 -> 240 -> 48",
        "96 -> 384 -> 96",
        "192 -> 576 -> 192",
    ]
    assert values["blocks"] == ["2", "1", "7", "1"]


def test_a_stride_of_1_is_that_of_the_stem_alone():
    found = texts(drawn("4,2,2|2,2,2|2,1,2|2,1,2|8,8", (16, 16), stride=1))
    assert "stem 4x4, stride 1" in found
    assert found.count("merging 2x2, stride 2") == 3


@pytest.mark.parametrize("side", [224, 30, 33])
def test_windows_cover_the_grid_once(side):
    """Also where they do not divide it, and the last ones are cut off."""
    axis = drawn("4,4,2|2,2,2|2,2,2|2,1,2|8,8", (side, side), stride=2)
    for index, grid in enumerate(grids.token_grids((side, side), 2)):
        windows = patches(axis, f"window {index + 1}")
        assert len(windows) == grids.Windows.cut(grid, (4, 2, 2, 1)[index]).number
        area = sum(window.get_width() * window.get_height() for window in windows)
        left, right = (f([w.get_x() + s * w.get_width() for w in windows]) for f, s in ((min, 0), (max, 1)))
        assert area == pytest.approx((right - left) ** 2)


def test_it_fits_a_laptop():
    figure = design_figure.draw(Design(Topology.named("large"), (224, 224), 1000, 4, 4))
    assert figure.get_figwidth() <= 7
    assert min(text.get_fontsize() for text in figure.axes[0].texts) >= 6.5
    figure.canvas.draw()
    page = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1, text.get_text()
