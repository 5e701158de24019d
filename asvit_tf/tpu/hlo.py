"""The compiler's text of a program: computations, their operations, and where the tensors lie."""

from __future__ import annotations

import dataclasses
import functools
import math
import re

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8}
_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_OPERATION = re.compile(r"\s*(ROOT )?%?([\w.-]+) = (.*)")
_TENSOR = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in the memory of the chip.

    Attributes:
      element: Type of its elements: "bf16".
      sides: Elements along each axis.
      layout: As the compiler writes it, the fastest axis first: "3,0,2,1:T(8,128)S(1)".
    """

    element: str
    sides: tuple[int, ...]
    layout: str

    @property
    def in_hbm(self) -> bool:
        """Whether it lies in the chip's large memory, not in one of the fast ones."""
        return "S(" not in self.layout

    @property
    def bytes(self) -> int:
        """Its size, padding of the tiles included."""
        extents = list(self.sides)
        tile = re.search(r"T\((\d+(?:,\d+)*)\)", self.layout)
        order = [int(axis) for axis in self.layout.split(":")[0].split(",") if axis]
        if tile and order:
            for axis, edge in zip(order, reversed([int(edge) for edge in tile[1].split(",")])):
                extents[axis] = -(-extents[axis] // edge) * edge
        return _BYTES[self.element] * math.prod(extents)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of a computation.

    Attributes:
      name: Unique in its computation.
      opcode: "fusion", "while", "get-tuple-element".
      result: Type of its result, as text; that of a tuple is in parentheses.
      arguments: What stands in the parentheses behind the opcode: names of operands, or the value of a constant.
      attributes: The rest of the line.
    """

    name: str
    opcode: str
    result: str
    arguments: str
    attributes: str

    @functools.cached_property
    def operands(self) -> list[str]:
        """Names of the operations whose results it takes."""
        return re.findall(r"%([\w.-]+)", self.arguments)

    @functools.cached_property
    def tensors(self) -> list[Tensor]:
        """Those of its result; more than one of a tuple."""
        return [
            Tensor(element, tuple(int(side) for side in sides.split(",") if side), layout)
            for element, sides, layout in _TENSOR.findall(self.result)
            if element in _BYTES
        ]

    def attribute(self, name: str) -> str | None:
        """The word that an attribute has as its value: of "body" the name of a computation; None without one."""
        found = re.search(rf"\b{name}=%?([\w.>-]+)", self.attributes)
        return found[1] if found else None

    @property
    def called(self) -> str:
        """Name of the computation of a fusion or a call."""
        return self.attribute("calls") or self.attribute("to_apply") or ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Operations in the order they run, by name.

    Attributes:
      operations: All of them.
      root: The one whose result is the computation's; None where none is marked.
    """

    operations: dict[str, Operation]
    root: Operation | None

    @functools.cached_property
    def parameters(self) -> dict[int, Operation]:
        """What stands for its operands, by number."""
        return {int(each.arguments): each for each in self.operations.values() if each.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Operation]]:
        """The operations that take the result of another, by the name of that."""
        users: dict[str, list[Operation]] = {name: [] for name in self.operations}
        for operation in self.operations.values():
            for operand in dict.fromkeys(operation.operands):
                users.setdefault(operand, []).append(operation)
        return users


_EMPTY = Computation({}, None)


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: All of them by name, fused ones and bodies of loops, too.
      entry: Name of the one that runs first.
    """

    computations: dict[str, Computation]
    entry: str

    @classmethod
    def parse(cls, text: str) -> Module:
        """That of a program as text."""
        lines: dict[str, list[str]] = {}
        entry = ""
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                current = lines.setdefault(header[2], [])
                entry = header[2] if header[1] else entry
            elif line.startswith("  ") and lines:
                current.append(line)
        return cls({name: _computation(body) for name, body in lines.items()}, entry)

    def __getitem__(self, name: str) -> Computation:
        return self.computations.get(name, _EMPTY)


def _computation(lines: list[str]) -> Computation:
    operations, root = {}, None
    for line in lines:
        found = _OPERATION.match(line)
        if not found:
            continue
        result, rest = _split_type(found[3])
        opcode, _, rest = rest.partition("(")
        arguments, _, attributes = rest.partition(")")
        operation = operations[found[2]] = Operation(found[2], opcode, result, arguments, attributes)
        root = operation if found[1] else root
    return Computation(operations, root)


def _split_type(text: str) -> tuple[str, str]:
    """The type of an operation's result, and the rest of its line; the type of a tuple has spaces and parentheses."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == " " and depth == 0:
            return text[:position], text[position + 1 :]
    return text, ""
