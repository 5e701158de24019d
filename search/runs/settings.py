"""What one run of the whole path depends on. No TensorFlow, so that a bad value is refused at once."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from asvit_tf.choices import RECIPES
from asvit_tf.design import grids
from asvit_tf.design.retokenization import PRESETS, fitting_phases
from asvit_tf.design.topology import STRIDE
from asvit_tf.errors import UserError
from search.runs import timetable

# Growth scores candidates at their width over this.
PROXY_DIVISOR = 2

_LEAST = {
    "image_size": 1,
    "seed": 0,
    "search_steps": 1,
    "repeats": 1,
    "score_batch": 2,
    "width": 16,  # The proxy needs a channel for each of the 8 heads that stage 1 may have.
    "epochs": 1,
    "batch_size": 1,
    "base_stride": 1,
}


def check_least(settings: Any, least: Mapping[str, int]) -> None:
    """Refuses settings of which one is below its least value.

    Raises:
      UserError: One is.
    """
    for name, low in least.items():
        value = getattr(settings, name)
        if value is not None and min(value if isinstance(value, tuple) else (value,)) < low:
            raise UserError(f"{name} is {value}; it must be at least {low}")


# What a network that is trained further has already.
OF_A_SEARCH = ("base_stride", "search_steps", "repeats", "score_batch", "width", "budget")

# As of `journals.workspace`.
EARLIER = dict(
    base_stride=STRIDE, recipe="digits", params_override=(), balanced=False, init_checkpoint=None, hours=None, files={}
)


def kept_design(init_checkpoint: str) -> dict[str, Any]:
    """Image size and base stride of a network that is trained further; empty where its configuration cannot be read.

    Args:
      init_checkpoint: Directory of a run, or of a training.
    """
    for path in (Path(init_checkpoint) / "train" / "params.yaml", Path(init_checkpoint) / "params.yaml"):
        try:
            model = yaml.safe_load(path.read_text(encoding="utf-8"))["task"]["model"]
            rows, columns = map(int, model["input_size"][:2])
            stride = int(model["backbone"]["asvit"]["base_stride"])
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            continue
        return dict(image_size=rows if rows == columns else (rows, columns), base_stride=stride)
    return {}


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """A directory holds results of one of these.

    Attributes:
      data_path: Folder with one subfolder of images for each class; None for the embedded digits.
      image_size: Pixels per side; or rows and columns.
      seed: Seed of search, weights and training.
      search_steps: Topologies that REINFORCE samples. None becomes 20; with `hours`, their time decides.
      repeats: Draws of weights that a score averages.
      score_batch: Images in an NTK.
      width: Channels of the first stage that search and growth start from.
      budget: Parameters, in millions, that the grown network may have. None becomes 1; with `hours`, 100.
      epochs: Epochs of training; None for as many as the recipe says.
      batch_size: Images in a training step; None likewise.
      retokenization: A preset schedule; None for what the recipe says.
      flip: Mirror training images at random; None likewise.
      base_stride: Pixels between tokens at the finest tokenization. None becomes what fits the image size
        (`grids.base_stride`), or 4 for the embedded digits, of which 4 pixels are one of the original; with `hours` it
        stays None until the speed of this machine is known (`speeds.base_stride`).
      recipe: One of `choices.RECIPES`, or a YAML. None becomes "photographs" for a folder, "digits" without one.
      params_override: Fields of the training, as `asvit train --params_override` takes them.
      hours: What the whole run may take; None for as long as it takes.
      balanced: Train for the balanced accuracy: uneven classes count alike.
      init_checkpoint: Directory of a training, or of a run, whose network is trained further: nothing is searched.

    Raises:
      UserError: A value is out of range.
    """

    data_path: str | None = None
    image_size: int | tuple[int, int] = 32
    seed: int = 8
    search_steps: int | None = None
    repeats: int = 3
    score_batch: int = 16
    width: int = 16
    budget: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    retokenization: str | None = None
    flip: bool | None = None
    base_stride: int | None = None
    recipe: str | None = None
    params_override: tuple[str, ...] = ()
    balanced: bool = False
    init_checkpoint: str | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        if self.seed >= 2**31:
            raise UserError(f"seed is {self.seed}; it must be below 2**31")
        if self.base_stride is None and self.hours is None:
            object.__setattr__(self, "base_stride", self.stride)
        if self.recipe is None:
            object.__setattr__(self, "recipe", "digits" if self.data_path is None else "photographs")
        if self.recipe not in RECIPES and not Path(str(self.recipe)).is_file():
            raise UserError(f"recipe {self.recipe!r} is neither {' nor '.join(RECIPES)} nor a file")
        if self.retokenization is None and self.recipe == "digits":
            object.__setattr__(self, "retokenization", "published")
        timetable.check(self.hours)
        if self.budget is None:
            object.__setattr__(self, "budget", 1.0 if self.hours is None else 100.0)
        if self.search_steps is None and self.hours is None:
            object.__setattr__(self, "search_steps", 20)
        check_least(self, _LEAST)
        if self.width % PROXY_DIVISOR:
            raise UserError(f"width is {self.width}; it must be even, because growth scores at half of it")
        if self.budget is None or not (self.budget > 0 and math.isfinite(self.budget)):
            raise UserError(f"budget is {self.budget}; it must be a number above 0 (millions of parameters)")
        if self.retokenization is None:
            return
        if self.retokenization not in PRESETS:
            raise UserError(f"unknown retokenization {self.retokenization!r}; allowed are {', '.join(PRESETS)}")
        phases = len(fitting_phases(self.retokenization, self.size, self.stride))
        if self.epochs is not None and self.epochs < phases:
            raise UserError(f"epochs is {self.epochs}; retokenization {self.retokenization!r} needs at least {phases}")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of an image, in pixels."""
        rows, columns = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return rows, columns

    @property
    def stride(self) -> int:
        """`base_stride`; where it is not decided yet, the one that fits the images."""
        if self.base_stride is not None:
            return self.base_stride
        return STRIDE if self.data_path is None else grids.base_stride(self.size)

    @property
    def most_parameters(self) -> int:
        """`budget` in parameters."""
        return round((self.budget or 1.0) * 1e6)

    def _files(self) -> dict[str, str]:
        """Hashes of the files that a recipe or fields come from: edited, they are other settings."""
        paths = filter(os.path.isfile, (str(self.recipe), *self.params_override))
        return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] for path in paths}

    def identity(self) -> dict[str, Any]:
        """What must not change between starts; of digits, as versions without recipes wrote it."""
        identity = {**dataclasses.asdict(self), "files": self._files()}
        before = dict(epochs=80, batch_size=32, flip=False)
        if self.recipe == "digits":
            identity |= {name: value for name, value in before.items() if identity[name] is None}
        return identity

    def changeable(self, directory: Path) -> tuple[str, ...]:
        """Of a run's directory, what may still change: the batch, as long as no training has a checkpoint or a plan."""
        is_free = self.hours is None and not (directory / "train" / "checkpoint").exists()
        return ("batch_size",) if is_free else ()
