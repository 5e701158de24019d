"""What a compiled TPU program does, instruction by instruction: cycles as its compiler estimates them, memory traffic.

The compiler's own total of "bytes accessed" counts what stays in the chip's fast memory as if it came from HBM, and an
operand that is fetched in four slices four times over. The scheduled program says where every tensor lives, so the
traffic can be read off it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8}
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*)")
_TENSOR = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# They name memory and move nothing; what an asynchronous copy moves is counted where it starts.
_FREE = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"})


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of the schedule.

    Attributes:
      kind: Its name without the number, and the element type and shape of its first result: "copy bf16[64,28,28,88]".
      cycles: As its compiler estimates them; 0 where it gives none, as for what runs beside the rest.
      hbm_bytes: Moved to and from the chip's memory, padding of the tiles included. An operand that a fusion reads in
        part counts whole.
    """

    kind: str
    cycles: int
    hbm_bytes: int


def instructions(program: str) -> list[Instruction]:
    """Those of a compiled program, in the order they run; the body of a loop as often as it is known to run.

    Args:
      program: The compiled module as text.
    """
    computations: dict[str, list[str]] = {}
    entry = ""
    for line in program.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("  ") and computations:
            current.append(line)
    return list(_of_computation(computations, entry))


def _of_computation(computations: dict[str, list[str]], name: str) -> Iterator[Instruction]:
    tensors: dict[str, list[_Tensor]] = {}
    for line in computations.get(name, ()):
        found = _INSTRUCTION.match(line)
        if not found:
            continue
        result, rest = _split_type(found[2])
        opcode, _, arguments = rest.partition("(")
        outputs = tensors[found[1]] = [_tensor(*parts) for parts in _TENSOR.findall(result) if parts[0] in _BYTES]
        if opcode in _FREE or opcode.endswith("-done"):
            continue
        called = re.search(r"(?:body|to_apply)=%?([\w.-]+)", rest)
        if called and opcode in ("while", "call"):
            trips = _TRIPS.search(rest)
            for _ in range(int(trips[1]) if trips else 1):
                yield from _of_computation(computations, called[1])
            continue
        if opcode == "copy-start":
            moved = outputs[:2]  # To and from.
        elif opcode == "slice-start":
            source, slice_ = outputs[:2]  # Only the slice is read.
            moved = [slice_, dataclasses.replace(slice_, in_hbm=source.in_hbm)]
        else:
            operands = re.findall(r"%([\w.-]+)", arguments.split("), ")[0])
            moved = outputs + [tensor for operand in operands for tensor in tensors.get(operand, ())]
        cycles = _CYCLES.search(rest)
        hbm_bytes = sum(tensor.bytes for tensor in moved if tensor.in_hbm)
        shape = _TENSOR.search(result)
        kind = re.sub(r"[.\d]+$", "", found[1]) + (f" {shape[1]}[{shape[2]}]" if shape else "")
        yield Instruction(kind, int(cycles[1]) if cycles else 0, hbm_bytes)


def _split_type(text: str) -> tuple[str, str]:
    """The type of an instruction's result, and the rest of its line; the type of a tuple has spaces and parentheses."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == " " and depth == 0:
            return text[:position], text[position + 1 :]
    return text, ""


@dataclasses.dataclass(frozen=True)
class _Tensor:
    bytes: int
    in_hbm: bool


def _tensor(element: str, sides: str, layout: str) -> _Tensor:
    """Size of a tensor as it is tiled, from its element type, sides "64,14,14,88" and layout "3,0,2,1:T(8,128)S(1)"."""
    extents = [int(side) for side in sides.split(",") if side]
    tile = re.search(r"T\((\d+(?:,\d+)*)\)", layout)
    order = [int(axis) for axis in layout.split(":")[0].split(",") if axis]  # Fastest axis first.
    if tile and order:
        for axis, edge in zip(order, reversed([int(edge) for edge in tile[1].split(",")])):
            extents[axis] = -(-extents[axis] // edge) * edge
    return _Tensor(_BYTES[element] * math.prod(extents), in_hbm="S(" not in layout)


@dataclasses.dataclass(frozen=True)
class Kind:
    """Instructions that do the same to tensors of one shape.

    Attributes:
      kind: As `Instruction.kind`.
      count: How many.
      cycles, hbm_bytes: Sums over all of them.
    """

    kind: str
    count: int
    cycles: int
    hbm_bytes: int


def by_kind(rows: Sequence[Instruction]) -> list[Kind]:
    """The instructions by kind, the slowest kind first."""
    groups: dict[str, list[Instruction]] = collections.defaultdict(list)
    for row in rows:
        groups[row.kind].append(row)
    kinds = [
        Kind(kind, len(group), sum(row.cycles for row in group), sum(row.hbm_bytes for row in group))
        for kind, group in groups.items()
    ]
    return sorted(kinds, key=lambda kind: (-kind.cycles, -kind.hbm_bytes, kind.kind))
