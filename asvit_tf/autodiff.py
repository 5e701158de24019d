"""Forward-mode derivatives of any callable along a curve.

For y(t) = f(x(t)), with x' and x'' given, forward mode carries the derivatives beside the values in one pass over f:

    y'  = J(x) x'
    y'' = J(x) x'' + D2f(x)[x', x']

whatever the number of inputs or outputs. One reverse pass gives one output channel's gradient instead.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Function = Callable[[tf.Tensor], tf.Tensor]


def first_derivative(fn: Function, x: tf.Tensor, dx: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`f(x)` and `y'`.

    Args:
      fn: Differentiable map.
      x: Its input.
      dx: x', same shape and dtype as `x`.
    """
    with tf.autodiff.ForwardAccumulator(x, dx) as accumulator:
        y = fn(x)
    return y, accumulator.jvp(y, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def second_derivative(
    fn: Function, x: tf.Tensor, dx: tf.Tensor, ddx: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`f(x)`, `y'` and `y''`, by a forward pass over a forward pass.

    Args:
      fn: Map that can be differentiated twice.
      x: Its input.
      dx: x', same shape and dtype as `x`.
      ddx: x'', likewise.
    """
    # The outer accumulator sees x move by x' and x' move by x'', so it differentiates J(x) x' along the curve.
    with tf.autodiff.ForwardAccumulator([x, dx], [dx, ddx]) as outer:
        y, dy = first_derivative(fn, x, dx)
    return y, dy, outer.jvp(dy, unconnected_gradients=tf.UnconnectedGradients.ZERO)
