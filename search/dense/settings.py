"""What one run of a detector or segmenter depends on. No TensorFlow, so that a bad value is refused at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError

MODELS = {"retinanet": "RetinaNet", "cascade": "Cascade Mask R-CNN"}
TOPOLOGY = "7,8,3,1|3,4,3,1|3,1,3,2|3,1,3,1|16,32"  # That of the recipes for synthetic scenes, too.
_LEAST = {"seed": 0, "epochs": 1, "batch_size": 1, "image_size": 64}
_STEP = 32  # Of the feature pyramid's coarsest level that comes from the backbone.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseSettings:
    """What both have.

    Attributes:
      topology: Of the backbone; None for `TOPOLOGY`, or that of the network to start from.
      image_size: Rows and columns of the input; None for what fits images and hardware.
      seed: Seed of weights and data.
      epochs, batch_size: None for what fits the data.
      params_override: Fields of the training, as `asvit train --params_override` takes them.
      init_checkpoint: Directory of a run or training whose backbone is trained further.

    Raises:
      UserError: A value is out of range.
    """

    topology: str | None = None
    image_size: int | tuple[int, int] | None = None
    seed: int = 8
    epochs: int | None = None
    batch_size: int | None = None
    params_override: tuple[str, ...] = ()
    init_checkpoint: str | None = None

    def __post_init__(self) -> None:
        if self.topology is not None:
            Topology.parse(self.topology)
            if self.init_checkpoint is not None:
                raise UserError("topology and init_checkpoint are given; what is trained further keeps its own")
        if self.seed >= 2**31:
            raise UserError(f"seed is {self.seed}; it must be below 2**31")
        for name, low in _LEAST.items():
            value = getattr(self, name)
            if value is not None and min(value if isinstance(value, tuple) else (value,)) < low:
                raise UserError(f"{name} is {value}; it must be at least {low}")
        if self.size is not None and any(side % _STEP for side in self.size):
            raise UserError(f"image_size is {' x '.join(map(str, self.size))}; allowed are multiples of {_STEP}")

    @property
    def size(self) -> tuple[int, int] | None:
        """Rows and columns, if they are given."""
        if self.image_size is None:
            return None
        rows, columns = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        return rows, columns

    def identity(self) -> dict[str, Any]:
        """What must not change between starts."""
        return dataclasses.asdict(self)

    @staticmethod
    def changeable(directory: Path) -> frozenset[str]:
        """Of a run's directory, what may still change: the training's settings, as long as it has no checkpoint."""
        has_checkpoint = (directory / "train" / "checkpoint").exists()
        return frozenset() if has_checkpoint else frozenset(field.name for field in dataclasses.fields(DenseSettings))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionSettings(DenseSettings):
    """A directory holds results of one of these.

    Attributes:
      data_path: Folder in COCO's layout (see `coco.prepare`).
      model: One of `MODELS`.
      train_name, validation_name: Splits; None finds them.
      skip_missing, skip_invalid: Leave out what is missing, or cannot be read, instead of refusing.

    Raises:
      UserError: A value is out of range.
    """

    data_path: str
    model: str = "retinanet"
    train_name: str | None = None
    validation_name: str | None = None
    skip_missing: bool = False
    skip_invalid: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model not in MODELS:
            raise UserError(f"unknown model {self.model!r}; allowed are {', '.join(MODELS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationSettings(DenseSettings):
    """A directory holds results of one of these.

    Attributes:
      images, masks: Folders of images and of their label pictures (see `labels.prepare`).
      classes: File of classes; None where label pictures hold numbers, and all are classes.
      ignored: Labels or names of classes that are neither trained on nor evaluated.
      splits, image_suffix, mask_suffix, skip_missing: As of `labels.pairs.Naming`.

    Raises:
      UserError: A value is out of range.
    """

    images: str
    masks: str
    classes: str | None = None
    ignored: tuple[str, ...] = ()
    splits: str | None = None
    image_suffix: str | None = None
    mask_suffix: str | None = None
    skip_missing: bool = False
