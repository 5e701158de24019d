"""The class of every pixel of an image file, by an exported SavedModel, and drawn. Needs TensorFlow and Pillow only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw

from asvit_tf.dataloaders.masks import IGNORED
from asvit_tf.modeling import own_size
from asvit_tf.serving import drawing
from asvit_tf.serving.predict import check_saved_model, load_serving, names_in, read_image

_OUTPUTS = {"logits", "image_info", "class_names"}
_PALETTE = 256

Serving = Callable[..., Mapping[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Segmented:
    """An answer.

    Attributes:
      classes: Of every pixel of the image, upright by EXIF, [H, W], int32.
      class_names: By class.
    """

    classes: np.ndarray
    class_names: tuple[str, ...]

    @property
    def shares(self) -> list[tuple[int, float]]:
        """The classes that occur, and their shares of the pixels; the largest first."""
        counts = np.bincount(self.classes.ravel())
        order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
        return [(label, float(counts[label] / self.classes.size)) for label in order]


def load(saved_model: str) -> Serving:
    """What answers encoded images.

    Raises:
      UserError: It is no SavedModel that `export` wrote for a segmentation network with input type "image_bytes".
    """
    check_saved_model(saved_model)
    return load_serving(saved_model, _OUTPUTS, "find the class of every pixel of")


def answer(serve: Serving, encoded: bytes) -> Segmented:
    """The classes of one image at its own size.

    Args:
      serve: What `load` gives.
      encoded: An upright JPEG or PNG.
    """
    found = serve(inputs=tf.constant([encoded]))
    part, own = own_size.part_of(found["image_info"][0])
    classes = own_size.likeliest(found["logits"][0], part, own, tuple(own.numpy().tolist()))
    return Segmented(classes.numpy(), tuple(names_in(found)))


def segment(saved_model: str, path: str) -> Segmented:
    """The classes of an image file.

    Args:
      saved_model: Directory of a SavedModel.
      path: Image file; it is read before the model is loaded.

    Raises:
      UserError: No such SavedModel, or the file is not an image.
    """
    check_saved_model(saved_model)
    encoded = read_image(path)
    return answer(load(saved_model), encoded)


def draw(path: str, found: Segmented, output: str) -> None:
    """Writes the image with its classes in colours over it, and to its right a legend of those that occur, whole.

    Args:
      path: Image file.
      found: Its classes.
      output: PNG or JPEG file.

    Raises:
      UserError: The image cannot be read; the output is no PNG or JPEG, or cannot be written.
    """
    drawing.check_output(output)
    image = overlaid(drawing.picture(path), found)
    legend = _legend(found, image.size)
    whole = Image.new("RGB", (image.width + legend.width, max(image.height, legend.height)), "white")
    whole.paste(image, (0, 0))
    whole.paste(legend, (image.width, 0))
    drawing.save(whole, output)


def overlaid(image: Image.Image, found: Segmented) -> Image.Image:
    """The image with its classes in colours over it; where a pixel is of none (`masks.IGNORED`), as it is."""
    image = image.convert("RGB")
    covered = Image.blend(image, _indexed(found).convert("RGB"), drawing.OPACITY)
    return Image.composite(covered, image, Image.fromarray(np.uint8(255 * (found.classes != IGNORED))))


def write_mask(found: Segmented, output: str) -> None:
    """Writes the numbers of the classes as a PNG of indices, with the colours of `draw` as its palette, whole.

    Raises:
      UserError: The output is no PNG, or cannot be written.
    """
    drawing.check_output(output, (".png",))
    drawing.save(_indexed(found), output)


def _indexed(found: Segmented) -> Image.Image:
    """The classes as the indices of a palette."""
    image = Image.fromarray(found.classes.astype(np.uint8))
    image.putpalette([part for label in range(_PALETTE) for part in drawing.colour(label)])
    return image


def _legend(found: Segmented, size: tuple[int, int]) -> Image.Image:
    """A square in its colour, the name and the share of every class that occurs, the largest first."""
    lines = [
        (label, *drawing.written(f"{found.class_names[label]} {share:.1%}", f"#{label} {share:.1%}", size))
        for label, share in found.shares
    ]
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    step = int(1.5 * max(pen.textbbox((0, 0), "Ag", font=font)[3] for _, _, font in lines))
    width = 2 * step + max(int(pen.textlength(text, font=font)) for _, text, font in lines)
    legend = Image.new("RGB", (width, step * len(lines)), "white")
    pen = ImageDraw.Draw(legend)
    for place, (label, text, font) in enumerate(lines):
        top = place * step
        pen.rectangle([step // 4, top + step // 4, step - step // 4, top + step - step // 4], drawing.colour(label))
        pen.text((step + step // 4, top + step // 8), text, fill="black", font=font)
    return legend
