"""Pictures with answers drawn on them: colours of classes, and files that are whole or absent. No TensorFlow."""

from __future__ import annotations

import colorsys
import io
import os
from pathlib import Path
from typing import Any

from PIL import Image, ImageFont

from asvit_tf.errors import UserError
from asvit_tf.serving.predict import read_image

OPACITY = 0.45  # Of what is drawn over pixels.
FORMATS = (".png", ".jpg", ".jpeg")
_HUE = 0.618  # Of a turn: neighbouring classes are far apart,
_TONES = ((0.9, 1.0), (0.9, 0.6), (0.45, 1.0))  # and after eight, when a hue comes back, it is darker, then paler.


def colour(label: int) -> tuple[int, int, int]:
    """Red, green and blue of a class or category, 0 to 255."""
    tone = _TONES[label // 8 % len(_TONES)]
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(label * _HUE % 1, *tone))
    return red, green, blue


def written(text: str, instead: str, size: tuple[int, int]) -> tuple[str, Any]:
    """A text and a font that has its characters, of a size that can be read on a picture.

    Pillow's own font has those of ASCII; others are looked for in matplotlib's and in installed ones.

    Args:
      text: As "Maus 0.93".
      instead: In ASCII, where no font has the characters, as "#3 0.93".
      size: Width and height of the picture.
    """
    points = max(9, min(size) / 32)
    if not text.isascii():
        try:
            from asvit_tf.serving import installed_fonts  # Only here: it takes a second.

            file = installed_fonts.file_for(text)
            if file is not None:
                return text, ImageFont.truetype(file, points)
        except (ImportError, OSError):
            pass  # Without matplotlib, or a font of coloured pictures.
        text = instead
    return text, ImageFont.load_default(size=points)


def picture(path: str) -> Image.Image:
    """The image upright, in RGB.

    Raises:
      UserError: It cannot be read.
    """
    with Image.open(io.BytesIO(read_image(path))) as opened:
        return opened.convert("RGB")


def check_output(output: str, formats: tuple[str, ...] = FORMATS) -> None:
    """Refuses an output file that could not be written, before long work.

    Raises:
      UserError: It does not end as one of the formats, or its directory does not exist.
    """
    if not output.lower().endswith(formats):
        raise UserError(f"the output is {output}; allowed are files that end in {', '.join(formats)}")
    parent = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(parent):
        raise UserError(f"cannot write {output}: there is no directory {parent}")


def save(image: Image.Image, output: str) -> None:
    """Writes a PNG or JPEG, whole or not at all.

    Raises:
      UserError: It cannot be written.
    """
    partial = Path(output).with_name("." + Path(output).name + ".partial")
    try:
        image.save(partial, format="PNG" if output.lower().endswith(".png") else "JPEG")
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {output}: {error.strerror or error}") from error
