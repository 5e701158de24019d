"""The page of a detector's run."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from asvit_tf.serving.found import SHOWN_SCORE, Judged
from search.report import dense_parts, fonts, held_out_figures, pages

_MEASURES = {
    "AP": "all objects, mean over IoU 0.5 to 0.95",
    "AP50": "at IoU 0.5",
    "AP75": "at IoU 0.75",
    "APs": "small objects, up to 32 x 32 pixels of the picture",
    "APm": "medium ones, up to 96 x 96",
    "APl": "large ones",
}


@dataclasses.dataclass(frozen=True)
class Beside:
    """A held-out picture with its truth, and with what was found.

    Attributes:
      name: Of the file.
      truth, found: Drawn.
      mistakes: Objects missed, mistaken or invented.
    """

    name: str
    truth: Image.Image
    found: Image.Image
    mistakes: int


def render(
    model: str,
    source: str,
    result: Mapping[str, Any],
    judged: Judged,
    choices: Sequence[str],
    shown: Sequence[Beside],
    worst: Sequence[Beside],
    blocks: Sequence[Mapping],
    evaluations: Mapping[str, Sequence[tuple[int, float]]],
) -> str:
    """The page, as text.

    Args:
      model: Its name.
      source: Folder of the data.
      result: Of the run.
      judged: How good what was found in the held-out images is.
      choices: Lines about what was chosen by the data.
      shown: Held-out pictures, evenly taken.
      worst: Those with most mistakes.
      blocks, evaluations: As `dense_parts.training_figure` takes them.
    """
    images = result["images"]
    sections = {
        "Average precision": [pages.table(("measure", "", "boxes", *_mask_head(judged)), _measures(judged))],
        "Classes": [_classes(judged), _curves(judged)],
        "Confusions": [
            pages.embedded(
                held_out_figures.confusion_figure(judged.confusion, [*fonts.shown(judged.class_names), "nothing"]),
                f"Objects and what was found at their place (IoU 0.5, score from {SHOWN_SCORE}), whatever its class. "
                "Last column: missed. Last row: found where no object is annotated.",
            )
        ],
        "Truth beside found": [_pictures(shown, "Held-out pictures, evenly taken; scores from 0.5.")],
        "Most mistakes": [_pictures(worst, "Pictures with most objects missed, mistaken or invented.")],
        **dense_parts.of_the_run(result, choices, blocks, evaluations),
    }
    parts = [
        f"<p>{html.escape(model)} with As-ViT <code>{html.escape(result['topology'])}</code>, "
        f"{result['parameters']:,} parameters, on {html.escape(source)}: {images['train']} images to train on. On "
        f"{images['validation']} held-out images <b>AP {_number(judged.summary['AP'])}, AP50 "
        f"{_number(judged.summary['AP50'])}</b>.</p>",
    ]
    return pages.sections_page(f"As-ViT: {model}", parts, sections)


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"


def _mask_head(judged: Judged) -> tuple[str, ...]:
    return ("masks",) if "mask_AP" in judged.summary else ()


def _measures(judged: Judged) -> list[list[str]]:
    rows = []
    for name, words in _MEASURES.items():
        masks = [_number(judged.summary[f"mask_{name}"])] if "mask_AP" in judged.summary else []
        rows.append([name, words, _number(judged.summary[name]), *masks])
    return rows


def _classes(judged: Judged) -> str:
    confusion = judged.confusion
    rows = []
    for i, name in enumerate(fonts.listed(judged.class_names)):
        objects, right = int(judged.objects[i]), int(confusion[i, i])
        found = int(confusion[:, i].sum())
        rows.append(
            (
                name,
                objects,
                *map(_number, judged.by_class[i]),
                f"{right / objects:.1%}" if objects else "none",
                f"{right / found:.1%}" if found else "none",
            )
        )
    return pages.table(("class", "objects", "AP", "AP50", "recall", "precision"), rows) + pages.paragraph(
        f"Recall and precision are those at a score of {SHOWN_SCORE} and IoU 0.5."
    )


def _curves(judged: Judged) -> str:
    order = np.argsort(-judged.objects, kind="stable")
    order = order[judged.objects[order] > 0]
    if not len(order):
        return pages.paragraph("No object is annotated in the held-out images.")
    names = fonts.shown(judged.class_names)
    figure = dense_parts.precision_figure(
        judged.precision[:, order], [names[i] for i in order], judged.by_class[order, 1]
    )
    return pages.embedded(figure, "Precision over recall at IoU 0.5, for the classes with most objects.")


def _pictures(shown: Sequence[Beside], caption: str) -> str:
    if not shown:
        return pages.paragraph("There are none.")
    pairs = [(each.truth, each.found) for each in shown]
    titles = [f"{held_out_figures.short(each.name, 20)}: {each.mistakes}" for each in shown]
    return pages.embedded(
        dense_parts.beside_figure(pairs, titles),
        f"{caption} Truth on the left, found on the right; behind the name, the number of mistakes.",
    )
