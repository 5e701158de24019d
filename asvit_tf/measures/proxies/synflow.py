"""SynFlow: how much the paths from the input to the output carry, by the absolute weights alone; no data.

Source: "Pruning neural networks without any data by iteratively conserving synaptic flow" (NeurIPS 2020), as a measure
of networks by "Zero-Cost Proxies for Lightweight NAS" (ICLR 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from asvit_tf.errors import UserError
from asvit_tf.measures.passes import replaced
from asvit_tf.measures.registry import Network, Run, UndefinedError, measure

# The flow grows exponentially with the depth, and so does what its gradient is made of. It is linear in the image and
# in the sum of the logits; both are taken this small, which the logarithm takes back.
_SMALL = 1e-15


def _flow(network: Network) -> Callable:
    variables, bare = network.variables, network.bare
    assert bare is not None

    @tf.function(autograph=False)
    def program(image: tf.Tensor) -> tf.Tensor:
        # Reverse mode twice: one image costs next to nothing, and forward mode takes three times as long to trace here.
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(variables)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(image)
                logits = network.logits(bare(image).features)
            total = _SMALL * tf.reduce_sum(inner.gradient(logits, image, _SMALL * tf.ones_like(logits)))
        gradients = outer.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.add_n([tf.reduce_sum(variable * gradient) for variable, gradient in zip(variables, gradients)])

    return program


@measure("synflow", "SynFlow, NeurIPS 2020")
def synflow(run: Run) -> float:
    """log sum_w |w| dR/d|w| over all weights, head included, with R = 1^T J 1 and J the Jacobian of the logits.

    J is that at a black image, with the norms left out, weights by their absolute values and everything else 0. So the
    network is linear: attention averages the tokens of a window, GELU halves, and query and key carry nothing. The
    original takes R from an image of ones through a network of ReLUs, which are linear there anyway. With norms kept
    nothing would flow: they cancel the scale of what they are given. The logarithm keeps the order.

    Raises:
      UserError: The network cannot be had without its norms, or has no head.
    """
    if run.network.bare is None:
        raise UserError("synflow is not defined for a network whose norms cannot be left out")
    with replaced(run.network, tf.abs, tf.zeros_like):
        total = float(run.traced(_flow)(tf.zeros_like(run.images[:1])))
    if not np.isfinite(total):
        raise UndefinedError("the flow is beyond float32")
    if not total > 0:
        raise UndefinedError("nothing flows from the image to the logits, to the precision of float32")
    return math.log(total) - 2 * math.log(_SMALL)
