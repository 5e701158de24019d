"""L-SWAG: gradients that are alike for all images, times the number of ways in which units tell images apart.

Source: "L-SWAG: Layer-Sample Wise Activation with Gradients information for Zero-Shot NAS on Vision Transformers" (CVPR
2025). No code was released, and its text was not at hand. Which definition this is: what its abstract and two summaries
of it say (the product of a statistic of gradients by layer, ZiCo's without the mean, and the number of activation
patterns), with the patterns of "SWAP-NAS: Sample-Wise Activation Patterns for Ultra-fast NAS" (ICLR 2024). The paper
sums over an interval of layers chosen for each benchmark; we sum over all.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from asvit_tf.measures.passes import GRADIENTS, TRACE, GradientStatistics, named_gates
from asvit_tf.measures.proxies.zico import log_sum
from asvit_tf.measures.registry import Run, Trace, measure


@measure("l_swag", "L-SWAG, CVPR 2025", passes=[TRACE, GRADIENTS], labelled=True, least_images=2)
def l_swag(run: Run, trace: Trace, statistics: list[GradientStatistics]) -> float:
    """(sum_l log sum_w 1 / std g_w) times the number of different activation patterns.

    Layers, weights and gradients as of `zico`. The pattern of a unit says for which images it is on: B bits. A unit is
    on where its GELU is given more than 0; all hidden units of all FFNs and tokens count together, so at most 2^B
    patterns differ.
    """
    gates = named_gates(trace, "l_swag")
    slopes = (log_sum(run, index, 1.0, each) for index, each in enumerate(statistics))
    return sum(slopes) * patterns(gates.values())


def patterns(gates: Iterable[tf.Tensor]) -> int:
    """How many different columns the signs of [B, units] have, over all gates together."""
    different: list[np.ndarray] = []
    for gate in gates:
        on = (gate > 0).numpy().reshape(gate.shape[0], -1)
        bits = np.packbits(on, axis=0)  # [B / 8, units]
        words = np.zeros((bits.shape[1], -(-len(bits) // 8) * 8), np.uint8)
        words[:, : len(bits)] = bits.T
        different.append(_unique(words.view(np.uint64)))
    return len(_unique(np.concatenate(different)))


def _unique(words: np.ndarray) -> np.ndarray:
    """The different rows of [units, words]; whole numbers are sorted ten times as fast as rows."""
    return np.unique(words)[:, None] if words.shape[1] == 1 else np.unique(words, axis=0)
