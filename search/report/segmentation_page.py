"""The page of a segmenter's run."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from asvit_tf.serving import drawing
from asvit_tf.serving.segmentation_held_out import Confusion
from search.report import dense_parts, fonts, held_out_figures, pages
from search.report.figures import COLOURS, WIDTH


@dataclasses.dataclass(frozen=True)
class Shown:
    """A held-out picture.

    Attributes:
      picture: As it is.
      truth, found: With classes over it.
      wrong: Share of its pixels whose class is another one; NaN where none counts.
    """

    picture: Image.Image
    truth: Image.Image
    found: Image.Image
    wrong: float


def render(
    source: str,
    result: Mapping[str, Any],
    found: Mapping[str, Confusion],
    pixels: Sequence[int],
    choices: Sequence[str],
    shown: Sequence[Shown],
    worst: Sequence[Shown],
    blocks: Sequence[Mapping],
    evaluations: Mapping[str, Sequence[tuple[int, float]]],
) -> str:
    """The page, as text.

    Args:
      source: Folder of the images.
      result: Of the run.
      found: Pixels by truth and answer, by split.
      pixels: Of the training images, by class.
      choices: Lines about what was chosen by the data.
      shown: Held-out pictures, evenly taken.
      worst: Those with most wrong pixels.
      blocks, evaluations: As `dense_parts.training_figure` takes them.
    """
    last = found.get("test", found["validation"])
    sections = {
        "Classes": [_classes(found, pixels), _legend(last.class_names)],
        "Confusions": [
            pages.embedded(
                held_out_figures.confusion_figure(last.pixels, fonts.shown(last.class_names)),
                "Pixels of each true class by what they are taken for.",
            )
        ],
        "Truth beside found": [_pictures(shown, "Held-out pictures, evenly taken.")],
        **({"Most mistakes": [_pictures(worst, "Pictures with most wrong pixels.")]} if worst else {}),
        **dense_parts.of_the_run(result, choices, blocks, evaluations),
    }
    images = result["images"]
    tested = result["test_mean_iou"]
    test = "" if tested is None else f"; on {images['test']} of the test split <b>{tested:.3f}</b>"
    parts = [
        f"<p>Semantic segmentation with As-ViT <code>{html.escape(result['topology'])}</code>, "
        f"{result['parameters']:,} parameters, on {html.escape(source)}: {images['train']} images to train on. Mean "
        f"IoU on {images['validation']} held-out images <b>{_number(result['mean_iou'])}</b>{test}. Every pixel is "
        "judged at the size of its image; a class that neither occurs nor is answered is left out of the mean.</p>",
    ]
    return pages.sections_page("As-ViT: segmentation", parts, sections)


def _number(value: float) -> str:
    return "none" if value is None or math.isnan(value) else f"{value:.3f}"


def _classes(found: Mapping[str, Confusion], pixels: Sequence[int]) -> str:
    total = max(1, sum(pixels))
    names = fonts.listed(found["validation"].class_names)
    rows = [
        (name, f"{pixels[i] / total:.2%}", *(_number(float(each.iou[i])) for each in found.values()))
        for i, name in enumerate(names)
    ]
    rows.append(("mean", "", *(_number(each.mean_iou) for each in found.values())))
    return pages.table(("class", "share of training pixels", *(f"IoU, {split}" for split in found)), rows)


def _legend(names: Sequence[str]) -> str:
    """The colours of the pictures below."""
    squares = (
        f'<span style="background: rgb{drawing.colour(label)}">&nbsp;&nbsp;&nbsp;</span> {html.escape(name)}'
        for label, name in enumerate(names)
    )
    return f"<p>{' &nbsp; '.join(squares)}</p>"


def _pictures(shown: Sequence[Shown], caption: str) -> str:
    tallest = max(each.picture.height / each.picture.width for each in shown)
    figure = Figure(figsize=(WIDTH, len(shown) * (WIDTH / 3 * tallest + 0.2)), layout="constrained")
    axes = figure.subplots(len(shown), 3, squeeze=False)
    for row, each in zip(axes, shown):
        wrong = "" if math.isnan(each.wrong) else f", {each.wrong:.1%} wrong"
        titles = ("picture", "truth", f"found{wrong}")
        for axis, picture, title in zip(row, (each.picture, each.truth, each.found), titles):
            axis.imshow(picture)
            axis.set_title(title, fontsize=7, color=COLOURS["text"])
            axis.axis("off")
    return pages.embedded(figure, f"{caption} Pixels of no class keep the picture's colour in the truth.")
