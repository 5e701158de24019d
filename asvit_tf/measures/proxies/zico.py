"""ZiCo: gradients that are large and alike for all images.

Source: "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients" (ICLR 2023), and the released code
(SLDGroup/ZiCo).
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from asvit_tf.measures.passes import GRADIENTS, GradientStatistics
from asvit_tf.measures.registry import Run, UndefinedError, measure


@measure("zico", "ZiCo, ICLR 2023", passes=[GRADIENTS], labelled=True, least_images=2)
def zico(run: Run, statistics: list[GradientStatistics]) -> float:
    """sum_l log sum_w mean |g_w| / std g_w, over layers l, head included, and their weights w.

    g is the gradient of the cross-entropy of one image; mean and std are over the images. Weights without deviation are
    left out, as in the code. Differences: we leave out those too whose deviation is at most the rounding of float32
    (its eps times the largest |g| of the layer): a g that is 0 but for rounding would count like any other. The code
    takes the gradients of whole batches, we those of single images; it adds nothing for a layer whose weights all have
    no deviation, we have no value then. The paper writes the deviation of |g|, the code has that of g, and so have we.
    """
    return sum(log_sum(run, index, each.size, each) for index, each in enumerate(statistics))


def log_sum(run: Run, index: int, size: tf.Tensor | float, statistics: GradientStatistics) -> float:
    """Logarithm of the sum of size / deviation, over the weights of a layer whose gradients deviate beyond rounding.

    Args:
      run: The run.
      index: Of the layer among `network.weights`.
      size: A number for each of its weights, or one for all.
      statistics: Of the gradients by its weights.

    Raises:
      UndefinedError: No weight's gradient deviates, or they are not finite.
    """
    deviation = statistics.deviation
    rounding = deviation <= statistics.largest * np.finfo(np.float32).eps  # False where one is not a number.
    total = float(tf.reduce_sum(tf.where(rounding, 0.0, size / deviation)))
    name = run.network.variables[index].name
    if not math.isfinite(total):
        raise UndefinedError(f"the gradients of {name} are not finite, or too small for float32")
    if not total > 0:
        raise UndefinedError(f"the gradients of {name} do not differ between the images")
    return math.log(total)
