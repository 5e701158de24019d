"""Cluttered digits: handwritten digits at any place of a noisy image, among fragments of other digits.

The embedded digits are centred, upright, clean and nearly all recognized by any network. Here a network has to find the
digit first. Everything follows from constants below and a fixed seed: the data are the same everywhere.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SIDE = 32
EXAMPLES = {"train": 8000, "validation": 2000}
HELD_OUT_SHARE = 0.3  # Of the scans, for the validation images alone.
_SEED = 20
_DIGIT_SIDES = (16.0, 24.0)  # Pixels that the 8 x 8 scan is enlarged to.
_DEGREES = 15.0
_CONTRASTS = (0.7, 1.0)
_FRAGMENTS = 3
_FRAGMENT_PIXELS = 3  # Of the scan, per side; enlarged as digits are.
_NOISE = 0.1  # Deviation, in units of full ink.
_GREY = 128


class Split:
    """The examples of a split, [i] each a label and an image [32, 32, 3] uint8; any of them without those before.

    Each image shows one whole digit: enlarged, turned by at most 15 degrees, with random contrast, anywhere inside.
    Three fragments of other scans lie about, under it or beside it, and Gaussian noise lies over all. Ink is brighter
    than the mid-grey ground. The two splits share no scan, neither as digit nor as fragment; within a split a scan is
    used several times, each time at another place among other fragments.

    Args:
      name: "train" (8,000 images of 1,258 scans) or "validation" (2,000 images of the other 539); every class equally
        often.
    """

    def __init__(self, name: str):
        self._number = list(EXAMPLES).index(name)
        self._count = EXAMPLES[name]
        self._scans, labels = scans(name)
        self._by_label = [np.flatnonzero(labels == label) for label in range(10)]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[int, np.ndarray]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        label, turn = index % 10, index // 10
        members = self._by_label[label]
        generator = np.random.default_rng([_SEED, self._number, index])
        return label, _image(self._scans[members[turn % len(members)]], self._scans, generator)


def scans(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The scans that belong to a split, [n, 8, 8] from 0 to 1, and their labels; drawn within every class."""
    from sklearn import datasets

    digits = datasets.load_digits()
    generator = np.random.default_rng(_SEED)
    chosen: list[int] = []
    for label in range(10):
        members = generator.permutation(np.flatnonzero(digits.target == label))
        held_out = round(HELD_OUT_SHARE * len(members))
        chosen.extend(members[:held_out] if split == "validation" else members[held_out:])
    return digits.images[chosen] / 16, digits.target[chosen]


def _image(scan: np.ndarray, others: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    ink = np.zeros((SIDE, SIDE))
    for _ in range(_FRAGMENTS):
        other = others[generator.integers(len(others))]
        row, column = generator.integers(0, other.shape[0] - _FRAGMENT_PIXELS + 1, 2)
        fragment = other[row : row + _FRAGMENT_PIXELS, column : column + _FRAGMENT_PIXELS]
        ink = np.maximum(ink, _placed(fragment, generator, inside=False))
    ink = np.maximum(ink, _placed(scan, generator, inside=True))
    ink = np.clip(ink + _NOISE * generator.standard_normal(ink.shape), -1, 1)
    return np.repeat(np.round(_GREY + (255 - _GREY) * ink).astype(np.uint8)[..., None], 3, axis=-1)


def _placed(pixels: np.ndarray, generator: np.random.Generator, inside: bool) -> np.ndarray:
    """Ink [SIDE, SIDE] of a piece of a scan, enlarged, turned, and put anywhere; `inside`: whole."""
    enlargement = generator.uniform(*_DIGIT_SIDES) / 8
    angle = np.deg2rad(generator.uniform(-_DEGREES, _DEGREES))
    contrast = generator.uniform(*_CONTRASTS)
    reach = enlargement * pixels.shape[0] / 2 if inside else 0.0
    centre = generator.uniform(reach, SIDE - reach, 2)
    # Of a place in the image, the place in the piece: x_piece = R (x_image - centre) / enlargement + its own centre.
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / enlargement
    own_centre = (np.array(pixels.shape) - 1) / 2
    offset = own_centre - turn @ (centre - 0.5)
    return contrast * ndimage.affine_transform(pixels, turn, offset, (SIDE, SIDE), order=1, mode="constant")
