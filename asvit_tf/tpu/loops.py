"""How often the body of a compiled loop runs.

The compiler writes it beside some loops. For the others what a loop's condition depends on is computed here, iteration
after iteration, as far as it follows from constants: counters, bounds and flags, never tensors.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable

from asvit_tf.tpu.hlo import Module, Operation

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LONGEST = 1 << 14  # Iterations that are followed, in half a second; a training step has no loop of more.

# A number or a truth value; None where it depends on data; a tuple of such.
Value = int | tuple["Value", ...] | None

_RESULTS: dict[str, Callable[..., int]] = {
    "convert": int,
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "minimum": min,
    "maximum": max,
}
_COMPARISONS: dict[str | None, Callable[[int, int], bool]] = {
    direction.upper(): getattr(operator, direction) for direction in ("eq", "ne", "lt", "le", "gt", "ge")
}
_TRUTHS = {"true": 1, "false": 0}
_UNCHANGED = frozenset({"copy", "bitcast", "reshape"})


@dataclasses.dataclass(frozen=True)
class Trips:
    """How often a loop's body runs.

    Attributes:
      count: How often; at most so often where the loop may also end by data; None where nothing bounds it.
      exact: Whether it is `count` whatever the data are.
    """

    count: int | None
    exact: bool


def trips(module: Module, computation: str, loop: Operation) -> Trips:
    """Those of a loop, for each time that it is reached.

    Args:
      module: The program.
      computation: Name of the computation that the loop is in.
      loop: An operation "while".
    """
    known = _KNOWN.search(loop.attributes)
    if known:
        return Trips(int(known[1]), True)
    condition, body = loop.attribute("condition") or "", loop.attribute("body") or ""
    # The computation around may be the body of another loop: what it is given is taken as unknown.
    carried = _Evaluation(module, computation, []).of(loop.operands[0])
    exact = True
    for count in range(_LONGEST + 1):
        goes_on = _Evaluation(module, condition, [carried]).result
        if goes_on is not None and not goes_on:
            return Trips(count, exact)
        exact = exact and goes_on is not None
        following = _Evaluation(module, body, [carried]).result
        if following == carried:  # So are all that follow.
            break
        carried = following
    return Trips(None, False)


class _Evaluation:
    """Whole numbers and truth values of one run of a computation.

    Args:
      module: The program.
      computation: Name of the computation.
      arguments: What it is given; what is missing is unknown.
    """

    def __init__(self, module: Module, computation: str, arguments: list[Value]):
        self._module = module
        self._computation = module[computation]
        self._arguments = arguments
        self._values: dict[str, Value] = {}

    @property
    def result(self) -> Value:
        """That of the computation."""
        root = self._computation.root
        return self.of(root.name) if root else None

    def of(self, name: str) -> Value:
        """The result of an operation."""
        if name not in self._values:
            operation = self._computation.operations.get(name)
            self._values[name] = self._compute(operation) if operation else None
        return self._values[name]

    def _compute(self, operation: Operation) -> Value:
        opcode = operation.opcode
        if opcode == "parameter":
            number = int(operation.arguments)
            return self._arguments[number] if number < len(self._arguments) else None
        if opcode == "get-tuple-element":
            whole = self.of(operation.operands[0])
            return whole[int(operation.attribute("index") or 0)] if isinstance(whole, tuple) else None
        if opcode != "tuple" and not re.match(r"\(|(pred|[su]\d+)\[\]", operation.result):
            return None  # A tensor, or a number that is not whole: its operands need not be looked at.
        if opcode == "constant":
            return _TRUTHS[operation.arguments] if operation.arguments in _TRUTHS else int(operation.arguments)
        operands = [self.of(operand) for operand in operation.operands]
        if opcode == "tuple":
            return tuple(operands)
        if opcode in ("fusion", "call"):
            return _Evaluation(self._module, operation.called, operands).result
        if opcode in _UNCHANGED:
            return operands[0]
        return _of_numbers(operation, operands)


def _of_numbers(operation: Operation, operands: list[Value]) -> int | None:
    """What follows for a result from its operands, some of them unknown; None where that is nothing."""
    opcode, is_truth = operation.opcode, operation.result.startswith("pred")
    known = [operand for operand in operands if isinstance(operand, int)]
    if is_truth and opcode in ("and", "or"):
        decisive = int(opcode == "or")
        if decisive in known:
            return decisive
        return 1 - decisive if len(known) == len(operands) else None
    if len(known) < len(operands):
        return None
    if opcode == "select":
        return known[1] if known[0] else known[2]
    if opcode == "compare":
        compare = _COMPARISONS.get(operation.attribute("direction"))
        return int(compare(*known)) if compare else None
    if is_truth:
        return 1 - known[0] if opcode == "not" else None
    compute = _RESULTS.get(opcode)
    number = compute(*known) if compute else None
    # One that its type does not hold would come out as another number.
    return number if number is not None and _fits(number, operation.result) else None


def _fits(number: int, type_: str) -> bool:
    signed, bits = type_[0] == "s", int(re.findall(r"\d+", type_)[0])
    least = -(1 << (bits - 1)) if signed else 0
    return least <= number < least + (1 << bits)
