"""What one operation of a compiled program moves to and from the chip's memory, and the products in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from asvit_tf.tpu.hlo import Computation, Module, Operation, Tensor


def hbm_bytes(module: Module, computation: Computation, operation: Operation) -> int:
    """Bytes that an operation reads from the chip's memory and writes to it, padding of the tiles included.

    A body of a loop takes one row of a tensor and writes one row of another, in place: of what a dynamic slice reads or
    an update replaces only that part counts, also inside a fusion. An operand that a fusion reads otherwise counts
    whole.
    """
    outputs = operation.tensors
    if operation.opcode == "copy-start":
        return _in_hbm(outputs[:2])  # To and from.
    if operation.opcode == "slice-start":
        source, slice_ = outputs[:2]  # Only the slice is read.
        return slice_.bytes * (source.in_hbm + slice_.in_hbm)
    if 'custom_call_target="AllocateBuffer"' in operation.attributes:
        return 0  # A place for the rows that a loop will write.
    return _written(module, computation, operation) + _read(module, computation, operation)


def _in_hbm(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.bytes for tensor in tensors if tensor.in_hbm)


def _read(module: Module, computation: Computation, operation: Operation) -> int:
    total = 0
    for number, name in enumerate(operation.operands):
        operand = computation.operations.get(name)
        parts = _parts(module, operation, number)
        if operand is None or not operand.tensors:
            continue
        if parts is None:
            total += _in_hbm(operand.tensors)
        elif operand.tensors[0].in_hbm:  # Inside a fusion a part is in no memory of its own.
            total += sum(part.bytes for part in parts)
    return total


def _written(module: Module, computation: Computation, operation: Operation) -> int:
    updates = [_update(computation, operation)]
    if operation.opcode == "fusion":
        inside = module[operation.called]
        updates = [_update(inside, root) for root in _roots(inside)]
    if len(updates) != len(operation.tensors):
        return _in_hbm(operation.tensors)
    return sum((update or whole).bytes for whole, update in zip(operation.tensors, updates) if whole.in_hbm)


def _parts(module: Module, operation: Operation, number: int) -> list[Tensor] | None:
    """Of one operand what an operation reads; None for all of it."""
    if operation.opcode == "dynamic-slice":
        return operation.tensors if number == 0 else None
    if operation.opcode == "dynamic-update-slice":
        return [] if number == 0 else None
    if operation.opcode != "fusion":
        return None
    inside = module[operation.called]
    parameter = inside.parameters.get(number)
    return _parts_of(module, inside, parameter.name) if parameter else None


def _parts_of(module: Module, computation: Computation, name: str) -> list[Tensor] | None:
    """Of a result inside a fusion what is read; None for all of it."""
    roots = _roots(computation)
    if any(root.name == name for root in roots):
        return None
    tensors: list[Tensor] = []
    for user in computation.users[name]:
        parts: list[Tensor] | None
        if user.opcode == "bitcast":
            parts = _parts_of(module, computation, user.name)
        elif user.opcode == "tuple" and user is computation.root:
            parts = []  # Its elements are among the roots.
        elif user.operands.count(name) > 1 or (user.opcode == "dynamic-update-slice" and user not in roots):
            parts = None  # What is updated and then read was a copy.
        else:
            parts = _parts(module, user, user.operands.index(name))
        if parts is None:
            return None
        tensors += parts
    return tensors


def _roots(computation: Computation) -> list[Operation]:
    """What computes the results of a fusion; other views of the same bytes are passed over."""
    root = computation.root
    if root is None:
        return []
    return [_behind_views(computation, name) for name in (root.operands if root.opcode == "tuple" else [root.name])]


def _behind_views(computation: Computation, name: str) -> Operation:
    operation = computation.operations[name]
    return _behind_views(computation, operation.operands[0]) if operation.opcode == "bitcast" else operation


def _update(computation: Computation, operation: Operation) -> Tensor | None:
    """What an update puts into a tensor; None for any other operation."""
    if operation.opcode != "dynamic-update-slice":
        return None
    update = computation.operations.get(operation.operands[1])
    return update.tensors[0] if update and update.tensors else None


def product_flops(module: Module, computation: Computation, operation: Operation) -> int:
    """Operations of the products in an operation; a TPU's compiler turns products of matrices into convolutions.

    Two for each element of the result and each element that is summed over, as the compiler counts them: where a
    window reaches into padding, or falls between the elements of a dilated operand, nothing is multiplied.
    """
    if operation.opcode == "fusion":
        inside = module[operation.called]
        return sum(product_flops(module, inside, each) for each in inside.operations.values())
    if operation.opcode != "convolution":
        return 0
    operands = [computation.operations[name].tensors for name in operation.operands[:2]]
    if not all((*operands, operation.tensors)):
        return 0  # Of a type whose size is not known here, as complex numbers.
    left, right, output = (tensors[0].sides for tensors in (*operands, operation.tensors))
    of_left, rest = (operation.attribute("dim_labels") or "").split("_")
    of_right, of_output = rest.split("->")
    channels = right[of_right.index("i")]
    images = output[of_output.index("b")]
    features = output[of_output.index("f")]
    window = re.search(r"window=\{([^}]*)\}", operation.attributes)
    positions = 1
    for axis in re.findall(r"\d", of_output):
        sides = (left[of_left.index(axis)], right[of_right.index(axis)], output[of_output.index(axis)])
        positions *= _positions(window[1] if window else "", int(axis), *sides)
    return 2 * channels * images * features * positions


def _positions(window: str, axis: int, size: int, extent: int, outputs: int) -> int:
    """How many pairs of an output and an element of the window along an axis meet an element of the input.

    Args:
      window: As the compiler writes it: "size=3x3 stride=2x2 pad=0_1x0_1".
      axis: Of the axes that the window has.
      size, extent, outputs: Elements of the input, the window and the output along it.
    """

    def setting(name: str, default: str) -> str:
        found = re.search(rf"(?:^|\s){name}=(\S+)", window)
        return found[1].split("x")[axis] if found else default

    stride, spread, dilation = (int(setting(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    before = int(setting("pad", "0_0").split("_")[0])
    met = np.arange(outputs)[:, None] * stride - before + np.arange(extent) * dilation
    return int(np.sum((met % spread == 0) & (met >= 0) & (met // spread < size)))
