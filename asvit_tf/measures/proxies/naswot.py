"""NASWOT: whether the activation functions tell the images apart.

Source: "Neural Architecture Search without Training" (ICML 2021).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from asvit_tf.measures.passes import TRACE, named_gates
from asvit_tf.measures.registry import Run, Trace, UndefinedError, measure

_CHUNK = 2**22  # Units whose agreement float32 counts exactly.


@measure("naswot", "NASWOT, ICML 2021", passes=[TRACE], least_images=2)
def naswot(run: Run, trace: Trace) -> float:
    """log |det K|, with K_ij the number of units that are on, or off, for both image i and image j.

    A unit is one number that is given to an activation function: a channel of the FFN's hidden layer at a token. The
    paper has ReLUs, which are on above 0. A GELU is nowhere quite off; we call it on above 0, where its output has the
    sign of a ReLU's, too. Integers are counted exactly, the determinant is in float64.
    """
    kernel = agreement(list(named_gates(trace, "naswot").values()))
    alike = kernel + np.diag(np.full(len(kernel), -1.0)) == kernel[0, 0]
    if alike.any():
        one, other = np.argwhere(alike)[0]
        raise UndefinedError(f"images {one} and {other} switch all units alike")
    eigenvalues = np.linalg.eigvalsh(kernel)
    if not eigenvalues[0] > len(kernel) * np.finfo(np.float64).eps * eigenvalues[-1]:
        raise UndefinedError("the kernel is singular")
    return float(np.sum(np.log(eigenvalues)))


def agreement(gates: list[tf.Tensor]) -> np.ndarray:
    """K, [B, B] float64, from [B, ...] each.

    Raises:
      UndefinedError: A number is not finite.
    """
    total = np.zeros([gates[0].shape[0]] * 2)
    for gate in gates:
        if not bool(tf.reduce_all(tf.math.is_finite(gate))):
            raise UndefinedError("what an activation function is given is not finite")
        signs = tf.where(gate > 0, 1.0, -1.0)
        signs = tf.reshape(signs, [signs.shape[0], -1])
        units = signs.shape[1]
        for start in range(0, units, _CHUNK):
            part = signs[:, start : start + _CHUNK]
            total += (part.shape[1] + tf.matmul(part, part, transpose_b=True).numpy().astype(np.float64)) / 2
    return total
