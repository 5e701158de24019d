"""First and second derivatives along a curve, carried through a network operation by operation.

A jet is a value y with its derivatives y' and y'' along a curve. Each kind of operation has a rule that takes jets to
jets: one that is linear treats a derivative as it treats the value, a product follows Leibniz, a function f of single
numbers gives y' = f' x' and y'' = f'' x'^2 + f' x''. So y'' costs a third pass over the network and not, as nested
forward mode does, passes over passes.

Works on the graph of a function: the function is traced, and the derivatives are added to the graph beside the values,
which they share. The operations with a rule are those of this package's layers and the usual smooth functions;
`NoRuleError` names any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Derivatives = list[tf.Tensor]  # y', or y' and y''.
JetOf = Callable[[tf.Tensor], Any]  # `Derivatives`, or None for a tensor that does not move.
Rule = Callable[[tf.Operation, JetOf], Sequence[Derivatives]]  # One for each output.


class NoRuleError(LookupError):
    """The function uses an operation that has no rule."""


def derivatives(fn: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, dxs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """`[y, y']` or `[y, y', y'']` of y(t) = fn(x(t)).

    Call it inside a `tf.function`.

    Args:
      fn: Map whose operations have rules.
      x: Its input.
      dxs: x', or x' and x''; shape and dtype of `x`.

    Raises:
      NoRuleError: An operation between `x` and the result has no rule.
    """
    x = tf.identity(x)  # Marks where in the graph the function starts.
    y = fn(x)
    return [y, *along(x, y, dxs)]


def along(x: tf.Tensor, y: tf.Tensor, dxs: Sequence[tf.Tensor]) -> Derivatives:
    """`[y']` or `[y', y'']` of two tensors of the graph that is being traced, as `x` moves and nothing else does.

    Args:
      x: Anywhere before `y`.
      y: 0 derivatives where it does not depend on `x`.
      dxs: As of `derivatives`.

    Raises:
      NoRuleError: As of `derivatives`.
    """
    operations = x.graph.get_operations()  # In the order of their creation, so inputs come first.
    between = _leading_to(y, operations[operations.index(x.op) + 1 :])
    jets: dict[object, Derivatives] = {x.ref(): list(dxs)}

    def jet_of(tensor: tf.Tensor) -> Derivatives | None:
        return jets.get(tensor.ref())

    for operation in between:
        if operation.type in _CONSTANT or all(jet_of(tensor) is None for tensor in operation.inputs):
            continue
        if not any(tensor.dtype.is_floating for tensor in operation.outputs):
            continue  # An integer or a boolean is piecewise constant; its derivative is 0.
        if operation.type not in RULES:
            raise NoRuleError(f"no rule for the operation {operation.type}")
        for tensor, derived in zip(operation.outputs, RULES[operation.type](operation, jet_of)):
            jets[tensor.ref()] = derived
    return jets.get(y.ref(), [tf.zeros_like(y)] * len(dxs))


def _leading_to(y: tf.Tensor, operations: Sequence[tf.Operation]) -> list[tf.Operation]:
    """The operations that `y` depends on, in order."""
    needed = {y.op}
    kept = []
    for operation in reversed(operations):
        if operation in needed:
            kept.append(operation)
            needed.update(tensor.op for tensor in operation.inputs)
    return kept[::-1]


def _again(operation: tf.Operation, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The outputs of the same operation, attributes and all, for other inputs."""
    copy = operation.graph.create_op(
        operation.type, list(inputs), [tensor.dtype for tensor in operation.outputs], attrs=operation.node_def.attr
    )
    return list(copy.outputs)


def _linear(operation: tf.Operation, jet_of: JetOf) -> list[Derivatives]:
    """Linear in the one input that depends on t."""
    moving, *others = (i for i, tensor in enumerate(operation.inputs) if jet_of(tensor) is not None)
    if others:
        raise NoRuleError(f"no rule for the operation {operation.type} with {len(others) + 1} moving inputs")
    results = []
    for derivative in jet_of(operation.inputs[moving]):
        arguments = list(operation.inputs)
        arguments[moving] = derivative
        results.append(_again(operation, arguments))
    return [list(of_output) for of_output in zip(*results)]


def _each(operation: tf.Operation, jet_of: JetOf) -> list[Derivatives]:
    """Output i is input i. `tf.custom_gradient` puts this operation (IdentityN) at the end of a function."""
    jets = [jet_of(tensor) for tensor in operation.inputs]
    order = _order(jets)
    return [jet or [tf.zeros_like(tensor)] * order for tensor, jet in zip(operation.inputs, jets)]


def _joined(operation: tf.Operation, jet_of: JetOf) -> list[Derivatives]:
    """Tensors side by side; those that do not move have derivative 0, and the axis, an integer, stays."""
    jets = [jet_of(tensor) for tensor in operation.inputs]
    results = []
    for k in range(_order(jets)):
        arguments = [
            jet[k] if jet is not None else tf.zeros_like(tensor) if tensor.dtype.is_floating else tensor
            for tensor, jet in zip(operation.inputs, jets)
        ]
        results += _again(operation, arguments)
    return [results]


def _order(jets: Sequence[Derivatives | None]) -> int:
    """How many derivatives are carried."""
    return max(len(jet) for jet in jets if jet is not None)


def _sum(operation: tf.Operation, jet_of: JetOf) -> list[Derivatives]:
    """y = a + b, y = a - b, or a sum of many, with broadcasting over the last axes."""
    if operation.type == "BiasAdd" and operation.get_attr("data_format") != b"NHWC":
        raise NoRuleError("no rule for the operation BiasAdd with channels first")
    jets = [jet_of(tensor) for tensor in operation.inputs]
    shape = operation.outputs[0].shape
    results = []
    for k in range(_order(jets)):
        terms = [
            -jet[k] if operation.type == "Sub" and index == 1 else jet[k]
            for index, jet in enumerate(jets)
            if jet is not None
        ]
        total = terms[0] if len(terms) == 1 else sum(terms[1:], start=terms[0])
        results.append(total if total.shape == shape else tf.broadcast_to(total, tf.shape(operation.outputs[0])))
    return [results]


def _product(operation: tf.Operation, jet_of: JetOf) -> list[Derivatives]:
    """Linear in each of two inputs: Leibniz's rule."""
    if len(operation.inputs) != 2:
        raise NoRuleError(f"no rule for the operation {operation.type} with {len(operation.inputs)} inputs")
    a, b = operation.inputs
    da, db = jet_of(a), jet_of(b)
    if da is None or db is None:
        return _linear(operation, jet_of)

    def times(left, right):
        return _again(operation, [left, right])[0]

    results = [times(da[0], b) + times(a, db[0])]
    if len(da) > 1:
        results.append(times(da[1], b) + 2 * times(da[0], db[0]) + times(a, db[1]))
    return [results]


def _matmul(operation: tf.Operation, jet_of: JetOf) -> list[Derivatives]:
    """Leibniz's rule for matrices, with as few passes over the large ones as possible."""
    a, b = operation.inputs
    da, db = jet_of(a), jet_of(b)
    transposed = [operation.get_attr(name) for name in ("adj_x", "adj_y")]
    if da is None or db is None:
        return _linear(operation, jet_of)
    if a.op.type == "Softmax" and not any(transposed):
        return _averaged(a, jet_of(a.op.inputs[0]), b, db, operation.outputs[0])
    axes = (-2 if transposed[0] else -1), (-1 if transposed[1] else -2)
    sides = [a.shape[axes[0]], *operation.outputs[0].shape[-2:]]
    if None in sides or sides[0] >= min(sides[1:]):
        return _product(operation, jet_of)

    # The products are larger than the factors: let one multiplication add them up, [a' a] [b b']^T = a' b^T + a b'^T.
    def added(left, right):
        return _again(operation, [tf.concat(left, axes[0]), tf.concat(right, axes[1])])[0]

    results = [added([da[0], a], [b, db[0]])]
    if len(da) > 1:
        results.append(added([da[1], 2 * da[0], a], [b, db[0], db[1]]))
    return [results]


def _averaged(p: tf.Tensor, ds: Derivatives, v: tf.Tensor, dv: Derivatives, y: tf.Tensor) -> list[Derivatives]:
    """y = p v with p = softmax(s), as in attention, without p' and p''.

    With <f> = sum_j p_j f_j: y = <v>, and because <f>' = <f'> + <s' f> - <s'> <f>,

        y'  = <v'> + <s' v> - <s'> y
        y'' = <v''> + 2 <s' v'> + <e v> - 2 <s'> (<v'> + <s' v>) + (2 <s'>^2 - <e>) y,   e = s'' + s'^2.

    What all scores of a row have in common cancels here, and costs digits where it is hundreds of times their spread.
    """
    one = tf.ones_like(v[..., :1])
    width = v.shape[-1]

    def averages(weights, *columns):
        sizes = [column.shape[-1] for column in columns]
        return tf.split(weights @ tf.concat(columns, -1), sizes, -1)

    moved = p * ds[0]  # [..., rows, columns]; two or three arrays of this size are all there is.
    if len(ds) == 1:
        s1v, s1 = averages(moved, v, one)
        return [[p @ dv[0] + s1v - s1 * y]]
    s1v, s1v1, s1 = averages(moved, v, dv[0], one)
    v1, v2 = tf.split(p @ tf.concat(dv, -1), [width, width], -1)
    # e in two parts: multiplying one more time is cheaper than adding the two large arrays up.
    ev, e = (sum(parts) for parts in zip(averages(p * ds[1], v, one), averages(moved * ds[0], v, one)))
    first = v1 + s1v
    return [[first - s1 * y, v2 + 2 * s1v1 + ev - 2 * s1 * first + (2 * tf.square(s1) - e) * y]]


def _quotient(operation: tf.Operation, jet_of: JetOf) -> list[Derivatives]:
    """q = a / b, from a = q b by Leibniz's rule."""
    (a, b), q = operation.inputs, operation.outputs[0]
    da, db = jet_of(a), jet_of(b)
    if db is None:
        return _linear(operation, jet_of)
    da = da or [tf.zeros_like(a)] * len(db)
    results = [(da[0] - q * db[0]) / b]
    if len(da) > 1:
        results.append((da[1] - 2 * results[0] * db[0] - q * db[1]) / b)
    return [results]


def _softmax(operation: tf.Operation, jet_of: JetOf) -> list[Derivatives]:
    """p = softmax(s): p' = p (s' - <s'>), with <f> = sum_j p_j f_j; and once more."""
    p, ds = operation.outputs[0], jet_of(operation.inputs[0])
    first = ds[0] - tf.reduce_sum(p * ds[0], -1, keepdims=True)
    results = [p * first]
    if len(ds) > 1:
        # <s'>' = <s''> + <(s' - <s'>)^2>.
        second = tf.square(first) + ds[1]
        results.append(p * (second - tf.reduce_sum(p * second, -1, keepdims=True)))
    return [results]


def _pointwise(function: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]) -> Rule:
    """Rule of y = f(x), number by number; `function` gives f' and f'' from x and y."""

    def rule(operation: tf.Operation, jet_of: JetOf) -> list[Derivatives]:
        slope, bend = function(operation.inputs[0], operation.outputs[0])
        dx = jet_of(operation.inputs[0])
        results = [slope * dx[0]]
        if len(dx) > 1:
            results.append(bend * tf.square(dx[0]) + slope * dx[1])
        return [results]

    return rule


def _erf(x, _):
    slope = tf.cast(2 / math.sqrt(math.pi), x.dtype) * tf.exp(-tf.square(x))
    return slope, -2 * x * slope


def _erfc(x, y):
    slope, bend = _erf(x, y)
    return -slope, -bend


def _relu(x, _):
    return tf.cast(x > 0, x.dtype), tf.zeros_like(x)


def _tanh(_, y):
    slope = 1 - tf.square(y)
    return slope, -2 * y * slope


def _sigmoid(_, y):
    slope = y * (1 - y)
    return slope, slope * (1 - 2 * y)


# Their outputs are constant in t, whatever their inputs are.
_CONSTANT = frozenset({"StopGradient", "Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})
_LINEAR = (
    *("Identity", "Cast", "Neg", "Reshape", "Transpose", "ExpandDims", "Squeeze", "Unpack", "Split", "SplitV"),
    *("Slice", "StridedSlice", "GatherV2", "Pad", "BroadcastTo", "Tile", "Sum", "Mean", "AvgPool"),
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(_LINEAR, _linear),
    "IdentityN": _each,
    **dict.fromkeys(("ConcatV2", "Pack"), _joined),
    **dict.fromkeys(("Add", "AddV2", "AddN", "Sub", "BiasAdd"), _sum),
    **dict.fromkeys(("Mul", "MatMul", "Einsum", "Conv2D"), _product),
    "BatchMatMulV2": _matmul,
    "RealDiv": _quotient,
    "Softmax": _softmax,
    "Erf": _pointwise(_erf),
    "Erfc": _pointwise(_erfc),
    "Exp": _pointwise(lambda _, y: (y, y)),
    "Log": _pointwise(lambda x, _: (1 / x, -1 / tf.square(x))),
    "Relu": _pointwise(_relu),
    "Rsqrt": _pointwise(lambda x, y: (-0.5 * y / x, 0.75 * y / tf.square(x))),
    "Sigmoid": _pointwise(_sigmoid),
    "Sin": _pointwise(lambda x, y: (tf.cos(x), -y)),
    "Cos": _pointwise(lambda x, y: (-tf.sin(x), -y)),
    "Softplus": _pointwise(lambda x, _: (tf.sigmoid(x), tf.sigmoid(x) * tf.sigmoid(-x))),
    "Sqrt": _pointwise(lambda x, y: (0.5 / y, -0.25 / (x * y))),
    "Square": _pointwise(lambda x, _: (2 * x, 2 * tf.ones_like(x))),
    "Tanh": _pointwise(_tanh),
}
