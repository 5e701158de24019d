"""What a compiled TPU program does, instruction by instruction: cycles as its compiler estimates them, memory traffic.

The compiler's own total of "bytes accessed" counts what stays in the chip's fast memory as if it came from HBM, and an
operand that is fetched in four slices four times over. The scheduled program says where every tensor lives, so the
traffic can be read off it.

The compiler counts the body of a loop once. Here it counts as often as it runs, bodies inside bodies as often as both
together, and the condition once more. A loop that may also end by data counts as often as it can run at most, one that
nothing bounds counts once; `Schedule` says how many of these there are. Of a conditional the dearest branch counts.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Sequence

from asvit_tf.tpu import loops, traffic
from asvit_tf.tpu.hlo import Module, Operation

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# They name memory and move nothing; what an asynchronous copy moves is counted where it starts.
_FREE = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"})


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of the schedule.

    Attributes:
      kind: Its name without the number, and the element type and shape of its first result: "copy bf16[64,28,28,88]".
      cycles: Of one execution, as its compiler estimates them; 0 where it gives none, as for what runs beside the rest.
      hbm_bytes: Moved to and from the chip's memory in one execution (`traffic.hbm_bytes`).
      product_flops: Operations of the products in it, in one execution.
      times: How often it runs.
    """

    kind: str
    cycles: int
    hbm_bytes: int
    product_flops: int = 0
    times: int = 1


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A compiled program.

    Attributes:
      instructions: In the order they run; those of a loop follow those before it.
      bounded_loops: Loops that data may end early; they count as often as they can run.
      unknown_loops: Loops of unknown trip count; they count once.
    """

    instructions: tuple[Instruction, ...] = ()
    bounded_loops: int = 0
    unknown_loops: int = 0

    @property
    def cycles(self) -> int:
        """Of all instructions, one after another."""
        return sum(each.cycles * each.times for each in self.instructions)

    @property
    def hbm_bytes(self) -> int:
        """Moved to and from the chip's memory."""
        return sum(each.hbm_bytes * each.times for each in self.instructions)

    @property
    def repeated_flops(self) -> int:
        """Operations of products beyond the first execution, which are those that the compiler's count lacks."""
        return sum(each.product_flops * (each.times - 1) for each in self.instructions)

    def __add__(self, other: Schedule) -> Schedule:
        return Schedule(
            self.instructions + other.instructions,
            self.bounded_loops + other.bounded_loops,
            self.unknown_loops + other.unknown_loops,
        )


def read(program: str) -> Schedule:
    """The schedule of a compiled program.

    Args:
      program: The compiled module as text.
    """
    module = Module.parse(program)
    return _of_computation(module, module.entry, 1)


def _of_computation(module: Module, name: str, times: int) -> Schedule:
    rows: list[Instruction] = []
    others = Schedule()
    computation = module[name]
    for operation in computation.operations.values():
        if operation.opcode in _FREE or operation.opcode.endswith("-done"):
            continue
        inner = _inner(module, name, operation, times)
        if inner is not None:
            rows += inner.instructions
            others += dataclasses.replace(inner, instructions=())
            continue
        cycles = _CYCLES.search(operation.attributes)
        tensors = operation.tensors
        kind = re.sub(r"[.\d]+$", "", operation.name)
        if tensors:
            kind += f" {tensors[0].element}[{','.join(map(str, tensors[0].sides))}]"
        rows.append(
            Instruction(
                kind,
                int(cycles[1]) if cycles else 0,
                traffic.hbm_bytes(module, computation, operation),
                traffic.product_flops(module, computation, operation),
                times,
            )
        )
    return dataclasses.replace(others, instructions=tuple(rows))


def _inner(module: Module, name: str, operation: Operation, times: int) -> Schedule | None:
    """What an operation runs that is made of scheduled instructions itself; None for one that is an instruction."""
    if operation.opcode == "while":
        return _of_loop(module, name, operation, times)
    if operation.opcode == "conditional":
        branches = [_of_computation(module, branch, times) for branch in _branches(operation)]
        return max(branches, key=lambda branch: (branch.cycles, branch.hbm_bytes))
    if operation.opcode == "call":
        return _of_computation(module, operation.called, times)
    return None


def _of_loop(module: Module, name: str, loop: Operation, times: int) -> Schedule:
    trips = loops.trips(module, name, loop)
    count = 1 if trips.count is None else trips.count
    return (
        Schedule((), int(trips.count is not None and not trips.exact), int(trips.count is None))
        + _of_computation(module, loop.attribute("condition") or "", times * (count + 1))
        + _of_computation(module, loop.attribute("body") or "", times * count)
    )


def _branches(conditional: Operation) -> list[str]:
    found = re.search(r"branch_computations=\{([^}]*)\}", conditional.attributes)
    if found:
        return re.findall(r"[\w.-]+", found[1])
    return [conditional.attribute(f"{answer}_computation") or "" for answer in ("true", "false")]


@dataclasses.dataclass(frozen=True)
class Kind:
    """Instructions that do the same to tensors of one shape.

    Attributes:
      kind: As `Instruction.kind`.
      count: How many run; one in a loop counts as often as it does.
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
        Kind(
            kind,
            sum(row.times for row in group),
            sum(row.cycles * row.times for row in group),
            sum(row.hbm_bytes * row.times for row in group),
        )
        for kind, group in groups.items()
    ]
    return sorted(kinds, key=lambda kind: (-kind.cycles, -kind.hbm_bytes, kind.kind))
