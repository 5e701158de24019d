"""Gradient norm and SNIP: the size of the gradient of the loss, and what it says about the weights.

Source: "Zero-Cost Proxies for Lightweight NAS" (ICLR 2021), which takes them over from pruning; SNIP is that of "SNIP:
Single-shot network pruning based on connection sensitivity" (ICLR 2019).
"""

from __future__ import annotations

import tensorflow as tf

from asvit_tf.measures.passes import GRADIENTS, GradientStatistics
from asvit_tf.measures.registry import Run, measure

_SOURCE = "Zero-cost proxies, ICLR 2021"


@measure("gradient_norm", _SOURCE, passes=[GRADIENTS], labelled=True)
def gradient_norm(run: Run, statistics: list[GradientStatistics]) -> float:
    """Sum over the weights of linear maps, head included, of |dL/dW|_2; L is the mean cross-entropy of the images."""
    return sum(float(tf.norm(each.mean)) for each in statistics)


@measure("snip", _SOURCE, passes=[GRADIENTS], labelled=True)
def snip(run: Run, statistics: list[GradientStatistics]) -> float:
    """Sum over all weights w of linear maps, head included, of |w dL/dw|; L is the mean cross-entropy of the images."""
    pairs = zip(run.network.variables, statistics)
    return sum(float(tf.reduce_sum(tf.abs(variable * each.mean))) for variable, each in pairs)
