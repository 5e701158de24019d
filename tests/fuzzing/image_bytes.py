"""Image files: cut, flipped, spliced, with other numbers and beginnings."""

from __future__ import annotations

import io
import shutil
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from PIL import ExifTags, Image

from asvit_tf.dataloaders import classification
from asvit_tf.dataloaders.imagefiles import door

WIDTH, HEIGHT = 24, 16


def _sound_files() -> dict[str, bytes]:
    """One file of each of many kinds, small and full of detail."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    kinds = dict(
        baseline=("JPEG", noise, {}),
        progressive=("JPEG", noise, dict(progressive=True)),
        restarts=("JPEG", noise, dict(restart_marker_blocks=1)),
        turned=("JPEG", noise, dict(exif=turned)),
        grey=("JPEG", noise.convert("L"), {}),
        ink=("JPEG", noise.convert("CMYK"), {}),
        png=("PNG", noise, {}),
        palette=("PNG", noise.convert("P"), dict(transparency=3)),
        sixteen=("PNG", Image.fromarray(np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 170), {}),
        alpha=("PNG", noise.convert("RGBA"), {}),
        gif=("GIF", noise.convert("P"), dict(save_all=True, append_images=[noise.convert("P")])),
        webp=("WEBP", noise, {}),
        lossless=("WEBP", noise.convert("RGBA"), dict(lossless=True)),
        tiff=("TIFF", noise, dict(compression="tiff_lzw")),
        real=("TIFF", Image.fromarray(np.random.default_rng(0).random((HEIGHT, WIDTH), np.float32)), {}),
        bmp=("BMP", noise, {}),
        ppm=("PPM", noise, {}),
        tga=("TGA", noise, dict(compression="tga_rle")),
        ico=("ICO", noise, dict(sizes=[(16, 16)])),
    )
    files = {}
    for name, (kind, image, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        files[name] = file.getvalue()
    return files


_FILES = _sound_files()


@st.composite
def image_files(draw) -> bytes:
    """Bytes of an image file, cut, flipped, spliced with another, under another's beginning, with other numbers.

    A PNG may get further chunks, and right checksums in the end, so that what they guard is found to be wrong.
    """
    content = bytearray(_FILES[draw(st.sampled_from(sorted(_FILES)))])
    for _ in range(draw(st.integers(0, 4))):
        length = len(content)
        place = draw(st.one_of(st.integers(0, min(length, 64)), st.integers(0, length)))
        other = _FILES[draw(st.sampled_from(sorted(_FILES)))]
        change = draw(
            st.sampled_from(["cut", "flip", "flip", "numbers", "numbers", "splice", "begin", "insert", "gone", "chunk"])
        )
        if change == "cut":
            del content[place:]
        elif change == "flip" and place < length:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "numbers":
            content[place : place + 4] = draw(
                st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\x30\0", b"\0\x30\0\0"])
            )
        elif change == "splice":
            content[place:] = other[draw(st.integers(0, len(other))) :]
        elif change == "begin":
            start = draw(st.integers(1, 40))
            content[:start] = other[:start]
        elif change == "chunk" and content.startswith(door.PNG):
            kind = draw(st.sampled_from([b"ABCD", b"PLTE", b"abCd", b"1234", b"IHDR", b"tRNS", b"IDAT", b"gAMA"]))
            inner = draw(st.binary(max_size=8))
            start = draw(st.sampled_from([8, 33, length - 12]))
            content[start:start] = len(inner).to_bytes(4, "big") + kind + inner + bytes(4)
        elif change == "insert":
            content[place:place] = draw(st.binary(max_size=8))
        else:
            del content[place : place + draw(st.integers(1, 16))]
    return bytes(_sealed(content) if draw(st.booleans()) else content)


def _sealed(content: bytearray) -> bytearray:
    """A PNG with right checksums; anything else as it is."""
    place = 8
    while content.startswith(door.PNG) and place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            break
        content[end : end + 4] = zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return content


def _pillow_reads(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=door.formats()) as image:
            image.load()
    except Exception:
        return False
    return True


def images_case(root: Path, content: bytes, name: str) -> str:
    """Prepares a folder that holds this file among sound ones: counted or written, and what is written is decoded.

    What Pillow alone cannot load is counted.
    """
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("a", "b"):
        (root / "data" / folder).mkdir(parents=True)
        for i, kind in enumerate(("baseline", "progressive")):  # All JPEG: what it is read as then depends on the file.
            (root / "data" / folder / f"{i}.png").write_bytes(_FILES[kind])
    (root / "data/a" / name).write_bytes(content)
    dataset = classification.prepare(root / "records", root / "data")
    records = [
        tf.train.Example.FromString(record.numpy()).features.feature
        for path in (dataset.train_path, dataset.validation_path)
        for record in tf.data.TFRecordDataset(path)
    ]
    assert dataset.train_examples + dataset.validation_examples == len(records)
    assert len(records) + sum(dataset.all_skipped.reasons.values()) == 5
    assert len(records) == 4 or _pillow_reads(content)
    for feature in records:
        encoded = feature["image/encoded"].bytes_list.value[0]
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
        assert tf.io.decode_image(encoded, 3, expand_animations=False).shape == (height, width, 3)
        if dataset.jpeg_only:  # Then training reads its size and decodes a part.
            assert tf.io.extract_jpeg_shape(encoded).numpy()[:2].tolist() == [height, width]
            crop = tf.io.decode_and_crop_jpeg(encoded, [0, 0, height, width], channels=3)
            assert crop.shape == (height, width, 3)
    return "read" if len(records) == 5 else "counted"
