"""First and second derivatives of any callable along a curve, in forward mode.

For y(t) = f(x(t)), with x' and x'' given,

    y'  = J(x) x'
    y'' = J(x) x'' + D2f(x)[x', x']

whatever the number of inputs or outputs. One reverse pass would give one output channel's gradient instead. Three
engines compute the same:

    jet          a Taylor rule for each operation (`jets.py`); the cheapest, and the default
    accumulator  `tf.autodiff.ForwardAccumulator`, nested for y''; nested, it fails on some operations (`tf.where`)
    tape         `tf.GradientTape` alone: J(x)^T u is linear in u, so its own gradient with respect to u, for the output
                 gradient x', is J(x) x'; the dearest, takes any TensorFlow function, and shares no code with the others

docs/method.md says what each costs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import tensorflow as tf

from asvit_tf.choices import ENGINES
from asvit_tf.errors import UserError
from asvit_tf.measures import jets

Function = Callable[[tf.Tensor], tf.Tensor]


def derivatives(fn: Function, x: tf.Tensor, dxs: Sequence[tf.Tensor], engine: str = "jet") -> list[tf.Tensor]:
    """`[y, y']` or `[y, y', y'']`. Call it inside a `tf.function`.

    Args:
      fn: Map that can be differentiated as often as asked.
      x: Its input.
      dxs: x', or x' and x''; shape and dtype of `x`.
      engine: One of `ENGINES`. "jet" hands functions with an operation that has no Taylor rule to "accumulator" for y',
        to "tape" for y'', and logs that once for each operation.

    Raises:
      UserError: Unknown engine.
    """
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}; allowed are {', '.join(ENGINES)}")
    if engine == "jet":
        try:
            return jets.derivatives(fn, x, dxs)
        except jets.NoRuleError as error:
            engine = "accumulator" if len(dxs) == 1 else "tape"
            _note(str(error), engine)
    first = _accumulated if engine == "accumulator" else _taped
    if len(dxs) == 1:
        return list(first(fn, [x], list(dxs)))
    dx, ddx = dxs
    # Seen from outside, x moves by x' and x' moves by x'', so this differentiates J(x) x' along the curve.
    (y, dy), (_, ddy) = first(lambda x, dx: first(fn, [x], [dx]), [x, dx], [dx, ddx])
    return [y, dy, ddy]


def product(x: tf.Tensor, y: tf.Tensor, dx: tf.Tensor) -> tf.Tensor:
    """J dx, with J the Jacobian of y by x, two tensors of the graph that is being traced. Call it in a `tf.function`.

    Forward mode; where an operation between them has no Taylor rule, two reverse passes (see "tape" above).

    Args:
      x: Anywhere before `y`.
      y: Depends on `x`, or the result is 0.
      dx: Shape and dtype of `x`.
    """
    try:
        return jets.along(x, y, [dx])[0]
    except jets.NoRuleError as error:
        _note(str(error), "tape")
    u = tf.zeros_like(y)
    zero = tf.UnconnectedGradients.ZERO
    (pulled,) = tf.gradients(y, x, u, unconnected_gradients=zero)
    return tf.gradients(pulled, u, dx, unconnected_gradients=zero)[0]


@functools.cache
def _note(reason: str, engine: str) -> None:
    """Logs a slower engine once: a search traces hundreds of functions with the same operation."""
    logging.getLogger(__name__).warning("%s in the engine jet; the slower engine %s takes its place", reason, engine)


def _accumulated(fn: Callable, xs: list[tf.Tensor], dxs: list[tf.Tensor]) -> tuple:
    """`fn(*xs)`, a tensor or several, and its derivative when `xs` move by `dxs`."""
    with tf.autodiff.ForwardAccumulator(xs, dxs) as accumulator:
        y = fn(*xs)
    return y, accumulator.jvp(y, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def _taped(fn: Callable, xs: list[tf.Tensor], dxs: list[tf.Tensor]) -> tuple:
    """As `_accumulated`."""
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(xs)
            y = fn(*xs)
        u = tf.nest.map_structure(tf.zeros_like, y)
        outer.watch(u)
        zero = tf.UnconnectedGradients.ZERO
        pulled = inner.gradient(y, xs, output_gradients=u, unconnected_gradients=zero)
    return y, outer.gradient(pulled, u, output_gradients=dxs, unconnected_gradients=zero)
