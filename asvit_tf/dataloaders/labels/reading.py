"""One pair of image and label picture as the records hold it: looked at, then decoded and joined. No TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from asvit_tf.dataloaders.annotations import pictures as images
from asvit_tf.dataloaders.annotations.pictures import Frame, Picture
from asvit_tf.dataloaders.imagefiles import parallel, reduced
from asvit_tf.dataloaders.imagefiles.skipped import UnreadableError
from asvit_tf.dataloaders.labels import pictures
from asvit_tf.dataloaders.labels.pairs import Pair
from asvit_tf.dataloaders.labels.table import NO_CLASS, Table
from asvit_tf.errors import UserError

Unread = tuple[str, str]  # Name of a file, and the reason why it cannot be read.


@dataclasses.dataclass(frozen=True)
class Read:
    """An image with the class of every pixel.

    Attributes:
      name: Path of the image below the folder of images.
      image: Upright, as the bytes of a JPEG or PNG.
      classes: The classes of its pixels, as the bytes of a grey PNG of 8 bits.
      height, width: In pixels.
      pixels: By class, and the ignored ones at 255; [256].
      own_size: Height and width before the image was reduced; None for an image that was not.
    """

    name: str
    image: bytes
    classes: bytes
    height: int
    width: int
    pixels: np.ndarray
    own_size: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        """Of both; few wait at a time (`parallel`)."""
        return len(self.image) + len(self.classes)


def looked_at(pairs: Sequence[Pair], threads: int | None = None) -> Iterator[tuple[Pair, Frame | Unread]]:
    """Pairs with what their label pictures are of, by the first bytes of the files; or what cannot be read.

    Raises:
      UserError: A label picture has another size than its image.
    """
    yield from zip(pairs, parallel.mapped(_look, pairs, threads))


def _look(pair: Pair) -> Frame | Unread:
    sizes: list[Picture] = []
    for path in (pair.image, pair.mask):
        try:
            sizes.append(pictures.glance(path))
        except UnreadableError as error:
            return str(path), str(error)
    return pictures.frame(pair.mask, sizes[1], pair.image, sizes[0])


def read(
    pairs: Iterable[Pair],
    table: Table,
    by_default: Frame,
    threads: int | None = None,
    stored_pixels: int | None = None,
) -> Iterator[Read | Unread]:
    """What the records hold of each pair, in their order; or what cannot be read.

    Args:
      pairs: Images and label pictures.
      table: The classes.
      by_default: What a label picture is of if it has the size of its image both upright and as stored.
      threads: That read; None for one a core.
      stored_pixels: Most pixels of an image; larger ones are reduced, with their classes. None leaves all.

    Raises:
      UserError: A label picture does not suit its image or the table.
    """
    reader = functools.partial(_read, table, table.lookup(), by_default, stored_pixels)
    return parallel.mapped(reader, pairs, threads)


def _read(table: Table, lookup: np.ndarray, by_default: Frame, stored_pixels: int | None, pair: Pair) -> Read | Unread:
    path = pair.mask
    try:
        codes, mask_size = pictures.read(path, table.in_colours)
        path = pair.image
        size, encoded = images.read(path)
    except UnreadableError as error:
        return str(path), str(error)
    frame = pictures.frame(pair.mask, mask_size, pair.image, size)
    found = lookup[codes]  # [H, W] uint16
    if found.max() >= NO_CLASS:
        _refuse(codes[found == NO_CLASS], table, pair)
    classes = found.astype(np.uint8)
    if (by_default if frame is Frame.EITHER else frame) is Frame.STORED:
        classes = images.turned_pixels(classes, size)
    own_size = None
    if stored_pixels is not None and classes.size > stored_pixels:
        own_size = classes.shape
        encoded = reduced.within(encoded, stored_pixels)
        classes = reduced.nearest(classes, reduced.size_within(own_size, stored_pixels))
    picture = Image.fromarray(np.ascontiguousarray(classes))
    file = io.BytesIO()
    picture.save(file, "PNG")
    pixels = np.array(picture.histogram(), np.int64)
    return Read(pair.name, encoded, file.getvalue(), picture.height, picture.width, pixels, own_size)


def _refuse(codes: np.ndarray, table: Table, pair: Pair) -> None:
    """Refuses labels that the table does not have; named is the most frequent one."""
    numbers, counts = np.unique(codes, return_counts=True)
    most = int(counts.argmax())
    others = f", and {len(numbers) - 1} other labels without a class" if len(numbers) > 1 else ""
    raise UserError(
        f"{pair.mask} has {table.words(int(numbers[most]))} in {counts[most]} pixels{others}; {table.allowed}"
    )
