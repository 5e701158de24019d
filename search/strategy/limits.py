"""Sizes a topology may have. No TensorFlow."""

from __future__ import annotations

import dataclasses

from asvit_tf.design import counting
from asvit_tf.design.topology import STRIDE, Topology
from asvit_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is allowed, and what is counted.

    Attributes:
      max_parameters: Most parameters of the classifier; None for any number.
      max_macs: Multiply-accumulates of one image; None for any number.
      image_size, num_classes, base_stride: Of the classifier that is counted.
    """

    max_parameters: int | None = None
    max_macs: int | None = None
    image_size: tuple[int, int] = (224, 224)
    num_classes: int = 1000
    base_stride: int = STRIDE

    def __post_init__(self) -> None:
        for name in ("max_parameters", "max_macs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")

    def count(self, topology: Topology) -> counting.Count:
        """Counts the classifier of a topology."""
        return counting.count(topology, self.image_size, self.num_classes, base_stride=self.base_stride)

    def allow(self, topology: Topology) -> bool:
        """Whether a topology is within all limits."""
        counted = self.count(topology)
        return (self.max_parameters is None or counted.parameters <= self.max_parameters) and (
            self.max_macs is None or counted.macs <= self.max_macs
        )
