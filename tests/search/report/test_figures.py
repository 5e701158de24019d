"""Drawings hold the numbers they were given, and touch nothing global of matplotlib."""

import subprocess
import sys

import numpy as np
import pytest

from asvit_tf.design.retokenization import Schedule
from search.report import figures, pages
from search.study import figures as study_figures


def trace(length_distortions):
    return [
        dict(
            step=step,
            scores=dict(length_distortion=value, ntk_condition_number=10.0 * (step + 1)),
            reward=0.5 * step,
            baseline=0.25 * step,
            entropy=9.0 - step,
        )
        for step, value in enumerate(length_distortions)
    ]


def line(axis, number=0):
    return axis.lines[number].get_xdata(), axis.lines[number].get_ydata()


def test_a_search_is_drawn_as_it_went_and_breaks_where_a_measure_failed():
    length, condition, reward, entropy = figures.search_figure(trace([1.5, None, 2.5])).axes
    np.testing.assert_array_equal(line(length), [[0, 1, 2], [1.5, np.nan, 2.5]])
    np.testing.assert_array_equal(line(condition)[1], [10, 20, 30])
    assert (length.get_yscale(), condition.get_yscale()) == ("linear", "log")
    np.testing.assert_array_equal(line(reward)[1], [0, 0.5, 1])
    np.testing.assert_array_equal(line(reward, 1)[1], [0, 0.25, 0.5])
    np.testing.assert_array_equal(line(entropy)[1], [9, 8, 7])


def test_a_growth_is_drawn_by_widths_and_depths_added_up_over_the_stages():
    family = [
        dict(topology="4,2,2|2,1,2|2,1,2|2,1,2|16,16", parameters=1_000_000),
        dict(topology="4,2,2,2|2,1,2|2,1,2,3|2,1,2|16,20", parameters=2_500_000),
    ]
    path, parameters = figures.growth_figure(family).axes
    np.testing.assert_array_equal(line(path), [[16 + 32 + 64 + 128, 20 + 40 + 80 + 160], [4, 7]])
    np.testing.assert_array_equal(line(parameters)[1], [1.0, 2.5])
    assert [text.get_text().strip() for text in path.texts] == ["1.00 M", "2.50 M"]


def test_a_training_is_drawn_with_its_phases():
    schedule = Schedule.preset("published", 100, kernel_size=4)
    blocks = [dict(step=step, training_loss=2.0 / step, accuracy=step / 100) for step in (50, 100)]
    loss, accuracy = figures.training_figure(blocks, [(100, 0.9)], schedule).axes
    np.testing.assert_array_equal(line(loss), [[50, 100], [0.04, 0.02]])
    np.testing.assert_array_equal(line(accuracy, 1), [[100], [0.9]])
    assert [drawn.get_xdata()[0] for drawn in loss.lines[1:]] == list(schedule.boundaries)


def test_accuracies_of_a_study_are_drawn_in_percent_with_their_tau():
    names = ["curvature:released:identity", "length_distortion:released:identity"]
    names += ["length_distortion_with_curvature:released:identity", "parameters"]
    columns = {name: np.array([1.0, 2.0, 30.0]) * (i + 1) for i, name in enumerate(names)}
    measures = {name: dict(tau=None, reason="too few", interval=None) for name in names}
    measures["parameters"] = dict(tau=0.5, interval=(-0.25, 1.0))
    axes = study_figures.published(columns, np.array([0.1, 0.2, 0.4]), measures).axes
    np.testing.assert_allclose(axes[3].collections[0].get_offsets(), [[4, 10], [8, 20], [120, 40]])
    assert [axis.get_title() for axis in axes] == ["no τ: too few"] * 3 + ["τ = +0.50 [-0.25, +1.00]"]
    assert {axis.get_xscale() for axis in axes} == {"log"}


def test_a_page_is_text_that_holds_its_pictures_and_escapes_what_is_plain():
    figure = figures.search_figure(trace([1.0, 2.0]))
    text = pages.page("a < b", [pages.embedded(figure, "c & d"), pages.table(["<"], [["1 > 0"]])])
    assert "<h1>a &lt; b</h1>" in text
    assert "<figcaption>c &amp; d</figcaption>" in text
    assert "<th>&lt;</th>" in text
    assert "<td>1 &gt; 0</td>" in text
    assert text.count('src="data:image/png;base64,iVBORw0KGgo') == 1  # PNG's first bytes.


@pytest.mark.parametrize("module", ["search.report.pages", "search.study.figures"])
def test_pyplot_is_not_imported(module):
    """Its backend is the business of whoever imports these modules."""
    code = f"import sys, {module}; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
