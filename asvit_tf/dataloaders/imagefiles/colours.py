"""Pixels of every mode that Pillow has as 8-bit RGB; by strips of rows, because images are large."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageChops

from asvit_tf.dataloaders.imagefiles.plain import JPEGS
from asvit_tf.dataloaders.imagefiles.skipped import NOT_FINITE, UnreadableError

BACKGROUND = (128, 128, 128)
_BACKGROUND_16 = 128 * 257
_STRIP_PIXELS = 1 << 22
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # Tags of a TIFF.

Box = tuple[int, int, int, int]


def _strips(image: Image.Image) -> Iterator[Box]:
    """Left, upper, right and lower edge of strips of whole rows, downwards."""
    rows = max(1, _STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def settle_transparency(image: Image.Image, encoded: bytes) -> None:
    """Has the one transparent colour of a PNG, which it gives in its own bits, found in Pillow's pixels.

    Pillow compares pixels of 8 bits with it. So 2 and 4 bits are scaled, and pixels of 16 bits become mid-grey here.

    Args:
      image: A loaded PNG that is not turned yet; it is changed.
      encoded: Its file.
    """
    clear = image.info.get("transparency")
    bits = encoded[24]
    if image.mode == "L" and isinstance(clear, int) and bits in (2, 4):
        image.info["transparency"] = (clear & (1 << bits) - 1) * (255 // ((1 << bits) - 1))
    elif image.mode == "I;16" and isinstance(clear, int):
        for box in _strips(image):
            values = np.array(image.crop(box))
            values[values == clear] = _BACKGROUND_16
            image.paste(Image.fromarray(values), box)
        del image.info["transparency"]
    elif image.mode == "RGB" and isinstance(clear, tuple) and bits == 16:
        low = _lower_halves(encoded)
        for box in _strips(image):
            values = np.asarray(image.crop(box)) * np.uint16(256) + np.asarray(low.crop(box))
            mask = (values == np.array(clear, np.uint16)).all(-1)
            image.paste(BACKGROUND, box, Image.fromarray(mask.astype(np.uint8) * 255))
        del image.info["transparency"]


def _lower_halves(encoded: bytes) -> Image.Image:
    """The lower 8 of 16 bits of a PNG in RGB: Pillow keeps the upper ones, and takes these for them here."""
    image = Image.open(io.BytesIO(encoded), formats=("PNG",))
    image.tile = [type(tile)(*tile[:-1], "RGB;16L") for tile in image.tile]  # type: ignore[attr-defined]
    image.load()
    return image


def rgb(image: Image.Image, kind: str | None) -> Image.Image:
    """Any mode as RGB; the image itself where it is that.

    Args:
      image: Upright.
      kind: Pillow's name of the format that it had as a file.

    Raises:
      UnreadableError: A number is not finite.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    whole = Image.new("RGB", image.size)
    for box, strip in rgb_strips(image, kind):
        if strip.size == image.size:
            return strip
        whole.paste(strip, box)
    return whole


def rgb_strips(image: Image.Image, kind: str | None) -> Iterator[tuple[Box, Image.Image]]:
    """Likewise strip by strip, downwards, each with its place: left, upper, right and lower edge.

    Raises:
      UnreadableError: A number is not finite.
    """
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    for box in _strips(image):
        yield box, _strip_rgb(image.crop(box), kind)


def _strip_rgb(image: Image.Image, kind: str | None) -> Image.Image:
    """`rgb` of a strip with at most 8 bits."""
    if kind in JPEGS and image.mode == "CMYK" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for one of Adobe's, which are inverted.
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    whole = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    whole.alpha_composite(image)
    return whole.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits as grey of 8.

    Whole numbers from 0 to 65535 are divided by 257, from 0 to 4095 by 4095 / 255 in a TIFF of 12 bits. Real numbers
    from 0 to 1 are multiplied by 255, from 0 to 255 rounded. Others have no known black and white: the least and the
    largest become 0 and 255. A TIFF may say that 0 is white; Pillow heeds it for 8 bits, and not for more.

    Raises:
      UnreadableError: A number is not finite.
    """
    tags = getattr(image, "tag_v2", {})
    ranges = [(values.min(), values.max()) for values in _numbers(image)]
    least, most = float(min(low for low, _ in ranges)), float(max(high for _, high in ranges))
    if not all(np.isfinite(numbers).all() for numbers in ranges):
        raise UnreadableError(NOT_FINITE)
    low, high = 0.0, 65535.0
    if image.mode.startswith("F"):
        high = 1.0 if most <= 1 else 255.0
    elif tags.get(_BITS_PER_SAMPLE) == (12,):
        high = 4095.0
    if least < low or most > high:
        low, high = least, most if most > least else math.inf  # One number alone becomes black.
    scaled = np.empty((image.height, image.width), np.uint8)
    place = 0
    for values in _numbers(image):
        for whole in values:  # By rows: as real numbers they need much memory.
            scaled[place] = np.rint((whole.astype(np.float64) - low) * (255 / (high - low)))
            place += 1
    if tags.get(_PHOTOMETRIC) == 0:
        np.subtract(255, scaled, out=scaled)
    return Image.fromarray(scaled)


def _numbers(image: Image.Image) -> Iterator[np.ndarray]:
    """Strips of an image with one channel, [rows, width] each."""
    return (np.asarray(image.crop(box)) for box in _strips(image))
