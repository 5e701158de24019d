"""Which of a machine's devices scores and trains, and in which type. No TensorFlow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from asvit_tf.choices import HARDWARE
from asvit_tf.errors import UserError
from asvit_tf.hardware import findings
from asvit_tf.hardware.machine import Machine

# Compute capabilities of the first GPUs whose matrix units multiply the type: A100 and V100.
_BFLOAT16 = (8, 0)
_FLOAT16 = (7, 0)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU as TensorFlow lists it.

    Attributes:
      name: As "NVIDIA A100-SXM4-40GB"; None where it is not known.
      capability: Compute capability, as (8, 0); None where there is none.
    """

    name: str | None = None
    capability: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What was chosen.

    Attributes:
      kind: "cpu", "gpu" or "tpu".
      gpus: All that train; none for another kind.
      tpu: Name or address of the TPU, "local" for this machine's; None for another kind.
      note: Why it is not the accelerator that the machine has; None where there is nothing to say.
      asked_dtype: What training has to compute in; None for what the devices are made for.
    """

    kind: str = "cpu"
    gpus: tuple[Gpu, ...] = ()
    tpu: str | None = None
    note: str | None = None
    asked_dtype: str | None = None

    @property
    def distribution_strategy(self) -> str:
        """The Model Garden's name of it."""
        if self.kind == "tpu":
            return "tpu"
        return "mirrored" if len(self.gpus) > 1 else "one_device"

    @property
    def dtype(self) -> str:
        """What training computes in; weights and measures are float32 everywhere."""
        if self.asked_dtype is not None:
            return self.asked_dtype
        if self.kind == "tpu":
            return "bfloat16"
        # One of a kind decides for all: every replica has the same program.
        least = min((gpu.capability or (0, 0) for gpu in self.gpus), default=(0, 0))
        return "bfloat16" if least >= _BFLOAT16 else "float16" if least >= _FLOAT16 else "float32"

    @property
    def settings(self) -> dict[str, str | int]:
        """The fields of an experiment's `runtime` by name."""
        return dict(
            distribution_strategy=self.distribution_strategy,
            num_gpus=len(self.gpus),
            mixed_precision_dtype=self.dtype,
        )

    def worker_gpus(self, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
        """CUDA_VISIBLE_DEVICES for processes that score side by side: one GPU each, in turn; "-1" is none.

        Args:
          environ: The environment's variables, of which CUDA_VISIBLE_DEVICES says what TensorFlow counts from 0.
        """
        if not self.gpus:
            return ("-1",)
        visible = environ.get("CUDA_VISIBLE_DEVICES")
        names = map(str, range(len(self.gpus))) if visible is None else map(str.strip, visible.split(","))
        return tuple(names)[: len(self.gpus)]

    @property
    def name(self) -> str:
        """Kind, number and type, for people."""
        if self.kind == "tpu":
            return f"TPU {self.tpu}, {self.dtype}; search and growth use the CPU"
        devices = "CPU"
        if self.gpus:
            names = ", ".join(dict.fromkeys(gpu.name or "of unknown name" for gpu in self.gpus))
            devices = f"{len(self.gpus)} GPU{'s' * (len(self.gpus) > 1)} ({names})"
        return f"{devices}, {self.dtype}"

    def __str__(self) -> str:
        return self.name + (f" ({self.note})" if self.note else "")


def check(hardware: str, tpu: str | None = None) -> None:
    """Refuses options that contradict each other; nothing is looked at.

    Raises:
      UserError: The word is unknown, or a TPU is named beside other hardware.
    """
    if hardware not in HARDWARE:
        raise UserError(f"unknown hardware {hardware!r}; allowed are {', '.join(HARDWARE)}")
    if tpu is not None and hardware in ("cpu", "gpu"):
        raise UserError(f"--tpu={tpu or 'local'} and --hardware={hardware} contradict each other; leave one out")


def choose(hardware: str, tpu: str | None, machine: Machine, gpus: Sequence[Gpu], has_cuda: bool = True) -> Chosen:
    """Decides.

    Args:
      hardware: One of `choices.HARDWARE`. "auto" takes GPUs that TensorFlow lists, else a TPU of this machine that can
        be used, else the CPU.
      tpu: Name or address of a TPU, "local" for this machine's; None where none is named.
      machine: As `machine.examine` found it.
      gpus: Those that TensorFlow lists.
      has_cuda: Whether TensorFlow was built with it.

    Raises:
      UserError: The options contradict each other, or what they ask for cannot be used; with the reason.
    """
    check(hardware, tpu)
    if tpu is not None or hardware == "tpu":
        name = tpu or "local"
        problem = findings.cannot_use_local_tpu(machine) if name == "local" else None
        if problem is not None:
            raise UserError(f"{'--hardware=tpu' if tpu is None else '--tpu=local'}: {problem}")
        return Chosen("tpu", tpu=name)
    if hardware == "cpu":
        return Chosen()
    if gpus:
        return Chosen("gpu", tuple(gpus))
    if hardware == "gpu":
        raise UserError(f"--hardware=gpu: {findings.cannot_use_gpus(machine, has_cuda)}")
    if machine.tpu_chips:
        problem = findings.cannot_use_local_tpu(machine)
        return Chosen("tpu", tpu="local") if problem is None else Chosen(note=str(problem))
    return Chosen(note=str(findings.cannot_use_gpus(machine, has_cuda)) if machine.gpus else None)
