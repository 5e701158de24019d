"""AZ-NAS: expressivity, progressivity and trainability of the blocks of a network.

Source: "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search" (CVPR 2024), and the released code
(cvlab-yonsei/AZ-NAS), which takes the outputs after the attention and after the FFN of every block of a ViT. Its fourth
measure counts operations; here that is a size.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from asvit_tf.measures.passes import PRODUCTS, TRACE, Products, named_outputs
from asvit_tf.measures.registry import Run, Trace, UndefinedError, measure

_SOURCE = "AZ-NAS, CVPR 2024"


def entropy(output: tf.Tensor, name: str) -> float:
    """Entropy of the eigenvalues of the covariance of a block's tokens, from 0 to log C nats.

    -sum_c p_c log p_c, with p the eigenvalues over their sum, and 0 log 0 = 0. The released code adds 1e-8 to p inside
    of the logarithm.

    Args:
      output: [B, ..., C].
      name: Of the block, for the message.

    Raises:
      UndefinedError: The tokens are all alike, or not finite.
    """
    tokens = tf.reshape(output, [-1, output.shape[-1]])
    centred = tokens - tf.reduce_mean(tokens, axis=0)
    covariance = (tf.matmul(centred, centred, transpose_a=True) / tokens.shape[0]).numpy().astype(np.float64)
    if not np.all(np.isfinite(covariance)):
        raise UndefinedError(f"the output of {name} is not finite")
    eigenvalues = np.maximum(np.linalg.eigvalsh(covariance), 0)
    if not eigenvalues.sum() > 0:
        raise UndefinedError(f"all tokens of {name} are alike")
    shares = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    return float(-np.sum(shares * np.log(shares)))


@measure("expressivity", _SOURCE, passes=[TRACE])
def expressivity(run: Run, trace: Trace) -> float:
    """Sum over the blocks of `entropy`, in nats; more directions that tokens differ in are better."""
    outputs = named_outputs(trace, "expressivity")
    return sum(entropy(output, name) for name, output in outputs.items())


@measure("progressivity", _SOURCE, passes=[TRACE])
def progressivity(run: Run, trace: Trace) -> float:
    """Least increase of `entropy` from one block to the next, in nats.

    The paper has it for convolutional networks only, because a plain ViT has one width; in one with stages widths grow.
    """
    outputs = named_outputs(trace, "progressivity", least=2)
    return float(np.min(np.diff([entropy(output, name) for name, output in outputs.items()])))


@measure("trainability", _SOURCE, passes=[PRODUCTS])
def trainability(run: Run, products: Products) -> float:
    """Mean over the blocks of -sigma - 1 / sigma + 2, with sigma the spectral norm of a block's mean Jacobian.

    At most 0, where sigma = 1: gradients neither grow nor vanish. The mean Jacobian is that of a token's output by its
    own input, [C, C], estimated from one product with random signs (`passes.PRODUCTS`).

    Differences: the released code multiplies from the left, in reverse mode; the expectation is the transpose, with the
    same norm, and forward mode costs less. It leaves the average of the identity in, which grows where there are few
    tokens for the channels; we do not. It adds 1e-6 to sigma in 1 / sigma. Only blocks that keep the shape count; it
    gathers the tokens of a cell where a block has fewer. A block that is exactly the identity has the best value here;
    its code for ViTs skips such a block.
    """
    named_outputs(products.trace, "trainability")
    if not products.jacobians:
        raise UndefinedError("no block has an output of the shape of its input")
    sigmas = [(name, _spectral_norm(matrix.numpy(), name)) for name, matrix in products.jacobians.items()]
    for name, sigma in sigmas:
        if not sigma > 0:
            raise UndefinedError(f"{name} does not depend on its input")
    return float(np.mean([-sigma - 1 / sigma + 2 for _, sigma in sigmas]))


def _spectral_norm(matrix: np.ndarray, name: str) -> float:
    if not np.all(np.isfinite(matrix)):
        raise UndefinedError(f"the derivative of {name} is not finite")
    return float(np.linalg.norm(matrix.astype(np.float64), 2))
