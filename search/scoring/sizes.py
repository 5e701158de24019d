"""The sizes of a topology: what measures are judged against. No TensorFlow."""

from __future__ import annotations

import math

from asvit_tf.choices import SIZE_MEASURES
from asvit_tf.design import counting
from asvit_tf.design.topology import STRIDE, Topology


def sizes(
    image_size: tuple[int, int], topology: Topology, num_classes: int, base_stride: int = STRIDE
) -> dict[str, int]:
    """`SIZE_MEASURES` of a topology, which need no measuring."""
    counted = counting.count(topology, image_size, num_classes, base_stride=base_stride)
    product = math.prod(stage.kernel_size for stage in topology.stages)
    return dict(zip(SIZE_MEASURES, (counted.parameters, counted.macs, product), strict=True))
