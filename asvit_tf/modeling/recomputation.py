"""Computing a part of a network again for its gradient, instead of keeping what is inside."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from asvit_tf import private_names


def recomputed(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """A function of which only the inputs are kept for the gradient; what is inside is computed again.

    A compiler that sees one computation twice does it once and keeps its results, as XLA for a TPU does with
    `tf.recompute_grad`, whose guard it sees through. Here the second one takes `input - zero`, where `zero` is computed
    from the incoming gradient: exactly the input, whatever the gradient is, and nobody can begin before that is there.

    Args:
      function: Of tensors of real numbers to one tensor, the same in each call; it may use variables.
    """

    @tf.custom_gradient
    def call(*inputs):
        with private_names.nothing_recorded():
            output = function(*inputs)

        def gradient(d_output, variables=None):
            zero = _zero(d_output)
            again = [each - tf.cast(zero, each.dtype) for each in inputs]
            sources = [*again, *(variables or ())]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                result = function(*again)
            found = tape.gradient(
                result, sources, output_gradients=d_output, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            of_inputs, of_variables = found[: len(inputs)], found[len(inputs) :]
            return of_inputs if variables is None else (of_inputs, of_variables)

        return output, gradient

    return call


def _zero(gradient: tf.Tensor) -> tf.Tensor:
    """0.0, computed from one number of a gradient, NaN or not: `n (n + 1)` is even for its bits n."""
    corner = tf.reduce_max(gradient[(slice(1),) * gradient.shape.rank])
    # Not in 32 bits: a GPU would wait for the host, which computes with those.
    number = tf.cast(tf.bitcast(tf.cast(corner, tf.float32), tf.int32), tf.int64)
    return tf.cast(tf.bitwise.bitwise_and(number * (number + 1), 1), tf.float32)
