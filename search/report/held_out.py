"""What a report says of held-out images: confusions, classes one by one, calibration, the surest mistakes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asvit_tf.serving import by_class
from asvit_tf.serving.held_out import Predictions
from asvit_tf.tasks import calibration
from search.report import fonts, held_out_figures, pages

_WORST = 10  # Classes that are listed first where there are many.


def parts(predictions: Predictions, class_names: Sequence[str], reported: float) -> list[str]:
    """HTML, one below the other.

    Args:
      predictions: Answers to all images of a split.
      class_names: By label.
      reported: Accuracy that the evaluation of the split found.
    """
    counts = predictions.confusion
    shown, listed = fonts.shown(class_names), fonts.listed(class_names)
    right, images = int(np.trace(counts)), int(counts.sum())
    return [
        pages.paragraph(f"{right:,} of {images:,} images are recognized."),
        *_disagreement(predictions.accuracy, reported, images),
        pages.embedded(
            held_out_figures.confusion_figure(counts, shown),
            "Confusion matrix: each row holds the images of one class, by what they are taken for.",
        ),
        *_confused(counts, listed),
        *_classes(counts, listed),
        *_mistakes(predictions, shown),
        *_calibration(predictions),
    ]


def _disagreement(accuracy: float, reported: float, images: int) -> list[str]:
    """A warning where accuracies differ by more than the rounding of a float32."""
    if abs(accuracy - reported) * images < 0.5:
        return []
    return [
        pages.paragraph(
            f"Caution: by these answers the accuracy is {accuracy:.2%}, by the evaluation {reported:.2%}. They are of "
            "different weights or images, or rounded differently on different hardware."
        )
    ]


def _confused(counts: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """The pairs that are confused most, where a map of all cannot hold their numbers."""
    pairs = by_class.most_confused(counts)
    if len(class_names) <= held_out_figures.MOST_COUNTED or not pairs:
        return []
    rows = [(class_names[pair.truth], class_names[pair.predicted], pair.images, f"{pair.share:.1%}") for pair in pairs]
    return [
        pages.paragraph("The pairs of classes that are confused most:"),
        pages.table(("true class", "taken for", "images", "share of the true class"), rows),
    ]


def _classes(counts: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """A table of all classes; where they are many, of those with the least accuracy, and all of them folded."""
    results = by_class.results(counts)
    if len(results) <= held_out_figures.MOST_COUNTED:
        return [_class_table(results, class_names)]
    worst = sorted((row for row in results if row.images), key=lambda row: (row.recall, row.label))[:_WORST]
    return [
        pages.paragraph(f"The {len(worst)} classes with the least accuracy:"),
        _class_table(worst, class_names),
        pages.folded(f"All {len(results)} classes", _class_table(results, class_names)),
    ]


def _class_table(results: Sequence[by_class.ClassResult], class_names: Sequence[str]) -> str:
    rows = [
        (
            class_names[row.label],
            f"{row.images:,}",
            f"{row.recognized:,}",
            _percent(row.recall),
            "" if row.interval is None else f"{row.interval[0]:.1%} to {row.interval[1]:.1%}",
            _percent(row.precision),
            "" if row.taken_for is None else class_names[row.taken_for],
        )
        for row in results
    ]
    header = ("class", "images", "recognized", "accuracy", "95 % interval", "precision", "mostly taken for")
    return pages.table(header, rows)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _mistakes(predictions: Predictions, class_names: Sequence[str]) -> list[str]:
    """The surest mistakes as pictures."""
    places = predictions.mistakes
    if not len(places):
        return [pages.paragraph("There are no mistakes.")]
    figure = held_out_figures.mistakes_figure(
        predictions.pictures,
        [class_names[label] for label in predictions.labels[places]],
        [class_names[label] for label in predictions.predicted[places]],
        predictions.probabilities[places].max(axis=1).tolist(),
        predictions.sources[places].tolist(),
    )
    height, width = predictions.pictures.shape[1:3]
    caption = (
        f"The mistakes that the network is surest of, as it saw them, at {height} x {width} pixels. "
        "Look here for wrong labels."
    )
    return [pages.embedded(figure, caption)]


def _calibration(predictions: Predictions) -> list[str]:
    """How sure the network is against how often it is right."""
    found = calibration.reliability(predictions.labels, predictions.probabilities)
    confidence, accuracy = found.mean_confidence, predictions.accuracy
    judged = "too sure" if confidence > accuracy else "not sure enough"
    return [
        pages.paragraph(
            f"Calibration: on average the network is {confidence:.1%} sure and {accuracy:.1%} right, so it is {judged} "
            f"by {abs(confidence - accuracy):.1%}. Expected calibration error: {found.error:.2%} ({calibration.BINS} "
            "bins of equal width)."
        ),
        pages.embedded(
            held_out_figures.reliability_figure(found),
            "Accuracy by confidence; the lines are the distance between both. On the dashed line a network is as often "
            "right as it is sure; bins with few images leave it by chance.",
        ),
    ]
