"""What a page says of held-out images, of cost and of what was not done: its numbers are those it was given."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sklearn import metrics

from asvit_tf.serving import by_class
from asvit_tf.serving.held_out import Predictions
from asvit_tf.tasks import calibration
from search.report import costs, held_out, held_out_figures, not_done


def predictions(classes, images=400, right=0.7):
    """Answers that are right that often; the pictures of mistakes are all of one grey each."""
    generator = np.random.default_rng(classes)
    labels = generator.integers(0, classes, images)
    named = np.where(generator.random(images) < right, labels, generator.integers(0, classes, images))
    probabilities = generator.dirichlet(np.ones(classes), images)
    probabilities[np.arange(images), named] += 1.0
    probabilities = (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)
    mistakes = by_class.most_confident_mistakes(labels, probabilities, 6)
    pictures = np.broadcast_to(mistakes[:, None, None, None] % 256, (len(mistakes), 8, 8, 3)).astype(np.uint8)
    sources = np.array([f"folder/{i}.png" for i in range(images)])
    return Predictions(labels, probabilities, sources, mistakes, pictures, "0" * 16)


def cells(page, row):
    """Plain texts of a table's row that begins with a text."""
    (found,) = [text for text in re.findall(r"<tr>(.*?)</tr>", page) if text.startswith(f"<td>{row}</td>")]
    return re.findall(r"<td>(.*?)</td>", found)


def test_a_class_is_reported_as_scikit_learn_counts_it():
    answers = predictions(3)
    names = ["one & two", "b", "c"]
    page = "".join(held_out.parts(answers, names, answers.accuracy))
    precision, recall, _, support = metrics.precision_recall_fscore_support(answers.labels, answers.predicted)
    for label, name in enumerate(("one &amp; two", "b", "c")):
        _, images, recognized, accuracy, interval, precise, _ = cells(page, name)
        assert (int(images), int(recognized)) == (support[label], round(recall[label] * support[label]))
        assert (accuracy, precise) == (f"{recall[label]:.1%}", f"{precision[label]:.1%}")
        low, high = (float(share) for share in interval.replace("%", "").split(" to "))
        assert low < 100 * recall[label] < high
    assert page.count("<img") == 3
    assert "most" not in page.partition("mostly")[0]  # No table of pairs: the map holds all numbers.
    assert "Caution" not in page


def test_many_classes_have_a_table_of_the_most_confused_pairs_and_one_of_the_worst_classes():
    answers = predictions(40, images=2000)
    names = [f"class {i}" for i in range(40)]
    page = "".join(held_out.parts(answers, names, answers.accuracy))
    counts = metrics.confusion_matrix(answers.labels, answers.predicted)
    np.fill_diagonal(counts, 0)
    truth, predicted = np.unravel_index(counts.argmax(), counts.shape)
    pairs = page[page.index("confused most") :]
    assert re.search(r"<td>class (\d+)</td><td>class (\d+)</td><td>(\d+)</td>", pairs).group(3) == str(
        counts[truth, predicted]
    )
    worst, _, everything = page.partition("<details>")
    assert everything.count("<tr><td>class") == 40
    listed = [int(label) for label in re.findall(r"<tr><td>class (\d+)", worst[worst.index("least accuracy") :])]
    recall = metrics.recall_score(answers.labels, answers.predicted, average=None)
    assert listed == np.argsort(recall, kind="stable")[:10].tolist()


@pytest.mark.parametrize("classes", [2, 10, 20, 50, 100])
def test_a_confusion_is_drawn_by_shares_and_can_be_read(classes):
    answers = predictions(classes, images=40 * classes)
    figure = held_out_figures.confusion_figure(answers.confusion, [f"class {i}" for i in range(classes)])
    axis = figure.axes[0]
    expected = metrics.confusion_matrix(answers.labels, answers.predicted, normalize="true")
    np.testing.assert_allclose(axis.images[0].get_array(), expected)
    assert figure.get_figwidth() <= 7
    numbers = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axis.texts}
    if classes <= 20:
        assert numbers == {(i, j): str(answers.confusion[i, j]) for i, j in np.argwhere(answers.confusion)}
        assert [label.get_text() for label in axis.get_yticklabels()] == [f"class {i}" for i in range(classes)]
    else:
        assert not numbers
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert all(above.y0 >= below.y1 - 1 for above, below in itertools.pairwise(boxes))  # None lies over another.


def test_a_reliability_is_drawn_as_it_is():
    answers = predictions(5)
    found = calibration.reliability(answers.labels, answers.probabilities)
    axis, counts = held_out_figures.reliability_figure(found).axes
    filled = found.counts > 0
    bars = axis.patches[: filled.sum()]
    np.testing.assert_allclose([bar.get_height() for bar in bars], found.accuracy[filled])
    np.testing.assert_allclose([bar.get_x() for bar in bars], found.edges[:-1][filled])
    ends = [segment[:, 1] for segment in axis.collections[0].get_segments()]
    np.testing.assert_allclose(ends, np.stack([found.accuracy[filled], found.confidence[filled]], 1))
    np.testing.assert_array_equal([bar.get_height() for bar in counts.patches], found.counts)


def test_pictures_of_mistakes_stand_upright_under_their_names():
    """Matplotlib draws row 0 at the top; a map of counts is drawn the other way by some."""
    picture = np.zeros((6, 4, 3), np.uint8)
    picture[0] = 255
    figure = held_out_figures.mistakes_figure(picture[None], ["cat"], ["a $dog$"], [0.876], ["cats/1.png"])
    axis = figure.axes[0]
    assert axis.get_title() == "88% sure: a \\$dog\\$\ntrue: cat"
    assert [text.get_text() for text in axis.texts] == ["cats/1.png"]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    box = axis.get_window_extent()
    column, top, bottom = int((box.x0 + box.x1) / 2), figure.bbox.height - box.y1, figure.bbox.height - box.y0
    assert pixels[int(top) + 3, column, 0] == 255
    assert pixels[int(bottom) - 3, column, 0] == 0
    nine = held_out_figures.mistakes_figure(np.repeat(picture[None], 9, 0), "x" * 9, "y" * 9, [1.0] * 9, [""] * 9)
    assert [len(axis.images) for axis in nine.axes] == [1] * 9 + [0] * 3


def test_other_accuracies_than_the_evaluation_found_are_not_hidden():
    answers = predictions(3)
    page = "".join(held_out.parts(answers, list("abc"), answers.accuracy + 0.01))
    assert f"Caution: by these answers the accuracy is {answers.accuracy:.2%}" in page


def test_a_network_without_mistakes():
    answers = predictions(3, right=2.0)
    assert answers.accuracy == 1
    page = "".join(held_out.parts(answers, list("abc"), 1.0))
    assert "There are no mistakes." in page
    assert page.count("<img") == 2


SERVING = dict(
    cores=2,
    system="Linux x86_64",
    saved_model=dict(bytes=5_250_000, seconds={"1": 0.0123, "32": 0.25}),
    tflite=dict(
        bytes=2_100_000,
        seconds={"1": 0.004, "32": None},
        problem="32 images in a call: cannot reshape",
        largest_difference=2e-6,
    ),
    conversion_problem=None,
)


def test_size_and_latency_in_words():
    page = "".join(costs.serving_parts(SERVING, 12345, 67890))
    assert cells(page, "SavedModel")[1:] == ["saved_model", "5.25 MB", "12.3 ms", "250.0 ms"]
    assert cells(page, "TFLite, 32-bit floats")[1:] == ["serving/model.tflite", "2.10 MB", "4.0 ms", "not possible"]
    for text in ("12,345 parameters, 67,890 multiply", "2 cores", "2.0e-06", "not answer 32 images in a call: cannot"):
        assert text in page
    page = "".join(costs.serving_parts({**SERVING, "tflite": None, "conversion_problem": "no such op"}, 1, 1))
    assert "TFLite, 32" not in page
    assert "does not take this network: no such op." in page


def test_shares_of_time_add_up():
    page = "".join(costs.seconds_parts({"data": 1.0, "search": 2.0, "train": 5.0}))
    assert cells(page, "reading images")[1:] == ["1.0 s", "12.5%"]
    assert cells(page, "search")[1:] == ["2.0 s", "25.0%"]
    assert cells(page, "training")[1:] == ["5.0 s", "62.5%"]
    assert cells(page, "all")[1] == "8.0 s"
    assert "<td>0.0 s</td>" in "".join(costs.seconds_parts({"data": 0.0}))


def test_what_was_not_done():
    result = dict(test_accuracy=None, skipped_images=1, failed_scores=2, saved_model=None, too_few_examples=True)
    text = "\n".join(not_done.sentences(result, 8, 20, 4_556_250, ["The checkpoint is gone."], "a command"))
    for words in (
        *("there is no test split", "1 image file could not", "20 topologies of the 4,556,250", "2 topologies could"),
        *("One seed (8)", "Nothing was exported", "too few to show", "The checkpoint is gone."),
    ):
        assert words in text
    assert "a command" not in text
    result = dict(test_accuracy=0.9, skipped_images=0, failed_scores=0, saved_model="saved_model")
    text = "\n".join(not_done.sentences(result, 8, 1, None, [], "a command"))
    assert "sampled 1 topology, and trained" in text
    assert "TFLite was not quantized; this does it, likewise with fp16: a command" in text
    for words in ("test split", "could not", "Nothing was exported", "too few"):
        assert words not in text
    assert "Nothing was searched" in not_done.sentences(result, 8, 0, None, [], "")[0]
