"""TF-TAS: the DSS indicator, diversity of the weights of attention and saliency of those of the FFN.

Source: "Training-free Transformer Architecture Search" (CVPR 2022), and its code as AZ-NAS released it again
(cvlab-yonsei/AZ-NAS, indicators/dss.py).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from asvit_tf.errors import UserError
from asvit_tf.measures.passes import gradients_of_sum, replaced
from asvit_tf.measures.registry import ATTENTION, FFN, HEAD, Run, UndefinedError, measure


@measure("dss", "TF-TAS, CVPR 2022")
def dss(run: Run) -> float:
    """Sum over attention's weights of |G|_nuc |W|_nuc, plus the sum over those of the FFN and the head of |G * W|.

    W is the absolute value of a weight and G the gradient, by it, of the sum of the logits of an image of ones; all
    other variables are taken by their absolute value too. |.|_nuc is the sum of the singular values; for attention W is
    the map to query, key and value together, and the map behind. As in the code, norms stay; stem and merging do not
    count. The paper writes G for the gradient of a loss.

    Raises:
      UserError: The network has no attention, no FFN or no head.
    """
    roles = {kernel.role for kernel in run.network.weights}
    for role, words in ((ATTENTION, "attention"), (FFN, "FFN"), (HEAD, "head")):
        if role not in roles:
            raise UserError(f"dss is not defined for a network without {words}")
    total = 0.0
    with replaced(run.network, tf.abs, tf.abs):
        for (variable, role), gradient in zip(run.network.weights, gradients_of_sum(run, tf.ones_like(run.images[0]))):
            if not np.all(np.isfinite(gradient)):
                raise UndefinedError(f"the gradient of {variable.name} is not finite")
            if role == ATTENTION:
                total += _nuclear_norm(gradient) * _nuclear_norm(variable)
            elif role in (FFN, HEAD):
                total += float(tf.reduce_sum(tf.abs(gradient * variable)))
    return total


def _nuclear_norm(matrix: tf.Tensor) -> float:
    """Sum of the singular values, as roots of the eigenvalues of the smaller Gram matrix, which are cheaper."""
    wide = matrix.numpy().astype(np.float64)
    wide = wide if wide.shape[0] <= wide.shape[1] else wide.T
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(wide @ wide.T), 0)).sum())
