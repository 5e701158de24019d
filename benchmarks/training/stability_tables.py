"""The trainings and recipes of benchmarks/training/stability.py, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

DATA = ("cells", "digits", "cluttered_digits", "cifar", "cifar10")
# Searched and grown by `asvit run` on the blood cells (seeds 8, 0, 1), the digits' recipe, and one with wide heads.
TOPOLOGIES = {
    "cells8": "6,2,5,1|3,4,3,2|4,1,4,2|3,1,2,1|32,24",
    "digits": "7,2,3,2|4,2,5,1|3,2,4,2|3,1,3,1|64,24",
    "wide": "4,2,3,1|3,1,4,1|3,1,4,2|3,1,4,1|8,32",
}

_OPTIMIZER = "trainer.optimizer_config.optimizer.adamw"
_CLIPPED = f"{_OPTIMIZER}.global_clipnorm"
_RATE = "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate"
_GRADUAL = "task.retokenization.transition"
# Overrides of the shipped recipe. "published" is the form before: gradients not clipped, tokens changed at once, a rate
# of 0.003 (the shipped one is 0.001).
_PUBLISHED = {_CLIPPED: None, _GRADUAL: 0, _RATE: 0.003}
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "published": _PUBLISHED,
    "clipped": {**_PUBLISHED, _CLIPPED: 1.0},
    "clipped at 0.3": {**_PUBLISHED, _CLIPPED: 0.3},
    "clipped at 0.1": {**_PUBLISHED, _CLIPPED: 0.1},
    "clipped, gradual": {_RATE: 0.003},
    "clipped, gradual, rate 0.0015": {_RATE: 0.0015},
    "clipped, rate 0.001": {_GRADUAL: 0},
    "clipped at 0.3, rate 0.0015": {_CLIPPED: 0.3, _GRADUAL: 0, _RATE: 0.0015},
    "rate 0.001": {_CLIPPED: None, _GRADUAL: 0},
    "beta_2 0.99": {**_PUBLISHED, f"{_OPTIMIZER}.beta_2": 0.99},
    "beta_2 0.95": {**_PUBLISHED, f"{_OPTIMIZER}.beta_2": 0.95},
    "epsilon 1e-5": {**_PUBLISHED, f"{_OPTIMIZER}.epsilon": 1e-5},
    "warm-up x 4": {**_PUBLISHED, "warmup": 4},
    "no decay": {**_PUBLISHED, f"{_OPTIMIZER}.weight_decay_rate": 0.0},
    "no augmentation": {**_PUBLISHED, "task.train_data.aug_type": None},
    "long gradual": {_GRADUAL: 0.15},
    "proportional dilation": {_GRADUAL: 0, "dilation": "proportional"},
    "proportional dilation, gradual": {"dilation": "proportional"},
    "no change": {"task.retokenization.preset": "none"},
}


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of a table.

    Attributes:
      data: One of `DATA`.
      topology: A name of `TOPOLOGIES`, or a topology.
      preset: Of the schedule; or "stride S": the stem has that stride from the first step to the last.
      epochs: That the learning rate is planned over.
      stop: Epochs trained.
      batch_size: Images.
      rate: Times the recipe's peak learning rate.
      warmup: Times the recipe's warm-up.
      seed: Of weights and data.
      image_size: Pixels a side that images are enlarged to.
    """

    data: str
    topology: str
    preset: str
    epochs: int
    stop: int
    batch_size: int = 32
    rate: float = 1.0
    warmup: float = 1.0
    seed: int = 0
    image_size: int = 32


def coarse() -> Iterator[Training]:
    """The first 15 of 80 epochs on blood cells, all at stride 16: where trainings were lost."""
    for seed in range(4):
        yield Training("cells", "cells8", "stride 16", 80, 15, seed=seed)


# Epochs of about 700 steps, and images in a batch.
_SHORT = {"cells": (16, 32), "digits": (16, 32), "cluttered_digits": (6, 64), "cifar": (9, 64)}


def wide() -> Iterator[Training]:
    """Every kind of data, topology and schedule at one, two and four times the learning rate, and short warm-ups."""
    seed = 0
    for data, (epochs, batch_size) in _SHORT.items():
        for topology in TOPOLOGIES:
            for preset in ("published", "thirds"):
                for rate, warmup in ((1, 1), (1, 0.2), (2, 1), (4, 1)):
                    seed += 1
                    yield Training(data, topology, preset, epochs, epochs, batch_size, rate, warmup, seed)
    for seed in range(8):
        for data in ("cells", "digits"):
            yield Training(data, "cells8", "thirds", 30, 30, seed=seed)


def switch() -> Iterator[Training]:
    """What a change of tokens costs, by how it is made."""
    for seed in range(2):
        for data, topology, preset in (("cells", "cells8", "thirds"), ("cifar", "wide", "thirds")):
            epochs, batch_size = _SHORT[data]
            yield Training(data, topology, preset, 2 * epochs, 2 * epochs, batch_size, seed=seed)


def harsh() -> Iterator[Training]:
    """Where clipping alone does not do."""
    for seed in range(4):
        yield Training("cells", "cells8", "stride 16", 32, 10, seed=seed)


def rates() -> Iterator[Training]:
    """What a lower peak of the learning rate does to the accuracy."""
    for seed in range(2):
        yield Training("digits", "digits", "published", 80, 80, seed=seed)
        yield Training("cells", "cells8", "thirds", 32, 32, seed=seed)
        yield Training("cifar", "wide", "thirds", 18, 18, 64, seed=seed)


def photographs() -> Iterator[Training]:
    """All of CIFAR-10: what re-tokenization costs and saves."""
    for epochs in (5, 15):
        for preset in ("none", "published", "thirds"):
            yield Training("cifar10", "wide", preset, epochs, epochs, batch_size=128)


def equal_seconds() -> Iterator[Training]:
    """As many epochs of `published` as take the seconds of 15 of `none` in `photographs`."""
    yield Training("cifar10", "wide", "published", 17, 17, batch_size=128)


def enlarged() -> Iterator[Training]:
    """The same, enlarged to 64 x 64: tokens as at half the strides, and room for all three phases."""
    for preset in ("none", "published"):
        yield Training("cifar10", "wide", preset, 15, 15, batch_size=128, image_size=64)


_ALONE = ["published", "clipped", "rate 0.001", "beta_2 0.99", "beta_2 0.95", "epsilon 1e-5", "warm-up x 4"]
_CLIPS = ["clipped", "clipped at 0.3", "clipped at 0.1", "clipped, rate 0.001", "clipped at 0.3, rate 0.0015"]
_RATES = ["clipped", "clipped, gradual", "clipped, gradual, rate 0.0015", "default", "clipped, rate 0.001"]
_CHANGES = ["clipped, rate 0.001", "default", "long gradual", "proportional dilation", "proportional dilation, gradual"]
TABLES = {
    "coarse": (coarse, [*_ALONE, "no decay", "no augmentation"]),
    "harsh": (harsh, _CLIPS),
    "rates": (rates, _RATES),
    "switch": (switch, [*_CHANGES, "no change"]),
    "wide": (wide, ["default", "published"]),
    "photographs": (photographs, ["default", "published"]),
    "equal_seconds": (equal_seconds, ["default"]),
    "enlarged": (enlarged, ["default"]),
}
