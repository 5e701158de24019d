"""The TPU compiler, on a machine without a TPU: compiles a StableHLO program for a named chip and says what it costs.

The compiler is the one that TPUs use; it comes as the package libtpu and is reached through JAX's ahead-of-time
topologies. Both belong to the extra `tpu-check`; nothing else here imports them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import re
import time
from pathlib import Path

import numpy as np

from asvit_tf import private_names
from asvit_tf.errors import UserError
from asvit_tf.hardware.machine import examine
from asvit_tf.storage import write_json
from asvit_tf.tpu import schedule as tpu_schedule

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip has.

    Attributes:
      hbm_bytes: Memory.
      flops: bfloat16 operations a second, at peak.
      bytes_per_second: From its memory, at peak.
      clock: Cycles a second.

    Source: the system pages of Google Cloud TPU; the clock is what the peak implies for the number of matrix units. How
    many multiplications a cycle they do is the least power of two above what the compiler's own cycles say of a product
    of 4096 x 4096 matrices: 63,449 of 65,536 on a v5e, 227,838 of 262,144 on a v6e.
    """

    hbm_bytes: int
    flops: float
    bytes_per_second: float
    clock: float


CHIPS = {
    "v4": Chip(32 * _GIB, 275e12, 1228e9, 1.05e9),
    "v5e": Chip(16 * _GIB, 197e12, 819e9, 1.5e9),
    "v5p": Chip(95 * _GIB, 459e12, 2765e9, 1.75e9),
    "v6e": Chip(32 * _GIB, 918e12, 1640e9, 1.75e9),
}
_PROFILE_KINDS = 20
# Part of every key of the cache. Raise it when the same compiled program would give another `Program`: its fields or
# those of `tpu_schedule.Kind` change, or what `_compile` and `tpu_schedule` read. Results kept before are then compiled
# again, minutes each; other edits keep them.
_READING = 2
# A chip of several cores that are compiled for as one; without the name the compiler takes each for a device.
_ARRANGEMENTS = {"v4": {"chip_config_name": "megacore"}}
_JAXLIB = "0.10.2"  # Of the keys that name none.
_LASTING = ("RESOURCE_EXHAUSTED", "UNIMPLEMENTED")  # Failures of the program, not of the machine or the moment.


def chip_of(topology_name: str) -> Chip:
    """The chip of a TPU topology such as "v5e:2x2".

    Raises:
      UserError: It is not one of `CHIPS`, or has no shape.
    """
    name, _, shape = topology_name.partition(":")
    if name not in CHIPS or not re.fullmatch(r"\d+(x\d+)+", shape):
        raise UserError(
            f"unknown TPU topology {topology_name!r}; expected a chip and its arrangement as in v5e:2x2, chips are "
            f"{', '.join(CHIPS)}"
        )
    return CHIPS[name]


def chips_in(topology_name: str) -> int:
    """How many chips a TPU topology such as "v5e:2x2" has.

    Raises:
      UserError: As `chip_of`.
    """
    chip_of(topology_name)
    return math.prod(int(side) for side in topology_name.partition(":")[2].split("x"))


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of one program on one chip.

    Attributes:
      compiles: Whether it does.
      message: Message of the compiler, where it does not.
      argument_bytes, output_bytes, aliased_bytes, temporary_bytes, code_bytes: In the chip's memory; aliased ones are
        outputs that take the place of arguments, as the weights do.
      flops: As the compiler counts them, but those of products in a loop as often as it runs, not once; what pads a
        matrix unit is not in it.
      bytes_accessed: As the compiler counts them, whatever memory they are in, loops once (see `tpu_schedule`).
      hbm_bytes_moved: To and from the chip's memory, in the compiled schedule.
      cycles: That its instructions take one after another, as the compiler estimates them.
      bounded_loops: Loops that data may end early; in flops, bytes moved and cycles as often as they can run.
      unknown_loops: Loops of unknown trip count; in these once.
      profile: The kinds of instruction that take most of the cycles.
      compile_seconds: Wall time of the compilation.
    """

    compiles: bool
    message: str | None = None
    argument_bytes: int = 0
    output_bytes: int = 0
    aliased_bytes: int = 0
    temporary_bytes: int = 0
    code_bytes: int = 0
    flops: float = 0.0
    bytes_accessed: float = 0.0
    hbm_bytes_moved: int = 0
    cycles: int = 0
    bounded_loops: int = 0
    unknown_loops: int = 0
    profile: tuple[tpu_schedule.Kind, ...] = ()
    compile_seconds: float = 0.0

    @property
    def lasts(self) -> bool:
        """Whether compiling it again would give the same."""
        return self.compiles or (self.message or "").startswith(_LASTING)

    @property
    def hbm_bytes(self) -> int:
        """Memory that the program needs at once."""
        resident = self.argument_bytes + self.output_bytes - self.aliased_bytes
        return resident + self.temporary_bytes + self.code_bytes

    def roofline_seconds(self, chip: Chip) -> float:
        """The least time that the chip's peaks allow: `max(flops / peak flops, bytes moved / peak bandwidth)`."""
        return max(self.flops / chip.flops, self.hbm_bytes_moved / chip.bytes_per_second)

    def compiler_seconds(self, chip: Chip) -> float | None:
        """The compiler's own estimate: cycles over clock. None without cycles."""
        return self.cycles / chip.clock if self.cycles else None


def version() -> str:
    """Version of the compiler.

    Raises:
      UserError: It is not installed, or this TensorFlow cannot lower programs for it.
    """
    if examine().purpose == "tpu":
        # It has no XLA for the host, which lowering goes through.
        raise UserError(
            "tensorflow-tpu cannot lower programs; use the environment of requirements.lock: make .venv/done && "
            ".venv/bin/asvit tpu-check"
        )
    try:
        importlib.metadata.version("jax")
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"the TPU compiler is not installed ({error.name} is missing): pip install 'asvit-tf[tpu-check]'"
        ) from error


def cleaned(stablehlo: str) -> str:
    """The program as the compiler takes it: TensorFlow's `mhlo.copy` replaced by what it copies, large constants of
    booleans written out.

    Locations are dropped, functions and the module numbered, so that the same program, lowered again, is the same text.
    Other names, such as the targets of custom calls, stay.
    """
    text = re.sub(r"^#loc.*\n", "", stablehlo, flags=re.MULTILINE)
    text = re.sub(r" loc\((?:[^()\"]|\"[^\"]*\"|\([^()]*\))*\)", "", text)
    copies: dict[str, str] = {}

    def note(match: re.Match) -> str:
        copies[match[1]] = copies.get(match[2], match[2])
        return ""

    text = re.sub(r"^\s*(%\w+) = mhlo\.copy (%[\w#]+) :.*\n", note, text, flags=re.MULTILINE)
    text = re.sub(r"%[\w#]+", lambda match: copies.get(match[0], match[0]), text)
    text = re.sub(r'"0x([0-9A-F]+)"(> : tensor<([\dx]+)xi1>)', lambda match: _written_out(*match.groups()), text)
    defined = set(re.findall(r"(?:\bfunc\.func (?:\w+ )?|^module )(@[\w.$-]+)", text, flags=re.MULTILINE))
    names: dict[str, str] = {"@main": "@main"}

    def number(match: re.Match) -> str:
        return names.setdefault(match[0], f"@f{len(names)}") if match[0] in defined else match[0]

    return re.sub(r"@[\w.$-]+", number, text)


def _written_out(digits: str, rest: str, shape: str) -> str:
    """A constant of booleans as nested lists, from eight in a byte, the first in its lowest bit, as TensorFlow has it.

    The compiler's parser expects a byte for each. Lists mean the same to both.
    """
    sides = [int(side) for side in shape.split("x")]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=math.prod(sides), bitorder="little")
    return json.dumps(bits.astype(bool).reshape(sides).tolist()) + rest


def compile_program(stablehlo: str, topology_name: str, cache_dir: str | os.PathLike | None = None) -> Program:
    """Compiles a program for one chip of a TPU topology; what was compiled before is read from the cache.

    A failure is kept only where another try would fail, too: the program does not fit, or has what a TPU lacks.

    Args:
      stablehlo: The program, as text.
      topology_name: As "v5e:2x2".
      cache_dir: Where results are kept; None for `~/.cache/asvit_tf/tpu`.

    Raises:
      UserError: The compiler is not installed, or does not know the topology.
    """
    chip_of(topology_name)
    text = cleaned(stablehlo)
    directory = Path(cache_dir) if cache_dir is not None else Path("~/.cache/asvit_tf/tpu").expanduser()
    key = hashlib.sha256(f"{_compiler_of(topology_name)}\n{text}".encode()).hexdigest()
    path = directory / f"{key}.json"
    if path.exists():
        fields = json.loads(path.read_text())
        kept = Program(**fields | {"profile": tuple(tpu_schedule.Kind(**kind) for kind in fields["profile"])})
        if kept.lasts:
            return kept
    program = _compile(text, topology_name)
    if program.lasts:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(program))
    return program


def _compiler_of(topology_name: str) -> str:
    """What a result depends on beside its program, as keys of the cache have it since before they had all of it."""
    chip = topology_name.partition(":")[0]
    settings = [f"{name}={os.environ[name]}" for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS") if os.environ.get(name)]
    jaxlib = importlib.metadata.version("jaxlib")
    others = [*_ARRANGEMENTS.get(chip, {}).values(), *settings, *([] if jaxlib == _JAXLIB else [f"jaxlib {jaxlib}"])]
    # Whatever the arrangement of the chips is, the program is one for a single chip.
    return " ".join([version(), f"{chip}:2x2", str(_READING), *others])


def _compile(text: str, topology_name: str) -> Program:
    # Without the first two the compiler looks for the TPU that this machine does not have; without the third only one
    # process may use it at a time, as if there were one.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    arrangement = _ARRANGEMENTS.get(topology_name.partition(":")[0], {})
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology_name, **arrangement).devices
    except (JaxRuntimeError, ValueError) as error:
        raise UserError(f"the TPU compiler does not know {topology_name!r}: {_line(error)}") from error
    if len(devices) != chips_in(topology_name):  # Then a device is a part of a chip, whose memory is another.
        raise UserError(
            f"the TPU compiler has {len(devices)} devices for the {chips_in(topology_name)} chips of {topology_name}; "
            "it must have one for each"
        )
    start = time.perf_counter()
    try:
        compiled = private_names.compile_stablehlo(devices[0], text)
    except (JaxRuntimeError, private_names.MalformedProgramError) as error:
        return Program(False, _line(error), compile_seconds=time.perf_counter() - start)
    seconds = time.perf_counter() - start
    cost, memory = compiled.cost_analysis(), compiled.get_compiled_memory_stats()
    if isinstance(cost, list):
        (cost,) = cost
    (module,) = compiled.hlo_modules()
    schedule = tpu_schedule.read(module.to_string())
    return Program(
        True,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        flops=cost["flops"] + schedule.repeated_flops,
        bytes_accessed=cost["bytes accessed"],
        hbm_bytes_moved=schedule.hbm_bytes,
        cycles=schedule.cycles,
        bounded_loops=schedule.bounded_loops,
        unknown_loops=schedule.unknown_loops,
        profile=tuple(tpu_schedule.by_kind(schedule.instructions)[:_PROFILE_KINDS]),
        compile_seconds=seconds,
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
