"""The whole examination: the machine from outside, TensorFlow in a process of its own, what training would use."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asvit_tf.hardware import environment, findings
from asvit_tf.hardware.findings import Finding
from asvit_tf.hardware.machine import Machine

_TIMEOUT = 600  # Seconds; importing TensorFlow on a busy machine takes one.
_BFLOAT16_CAPABILITY = (8, 0)  # The first GPUs that multiply bfloat16.


@dataclasses.dataclass(frozen=True)
class Probe:
    """What came of a process with TensorFlow: its rows, and how it ended."""

    rows: list[dict[str, Any]]
    failure: str | None = None

    @property
    def listing(self) -> dict[str, Any]:
        """TensorFlow, build and devices; {} where it came to nothing."""
        return self.rows[0] if self.rows else {}


def probe(machine: Machine, seconds: float | None) -> Probe:
    """Runs `probe.py`; without training where `seconds` is None."""
    environ = dict(os.environ)
    environment.prepare(machine, environ)
    root = str(Path(__file__).parents[2])
    environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environ.get("PYTHONPATH")])])
    environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # Errors, and warnings of libraries that are missing.
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        command = [sys.executable, "-m", "asvit_tf.doctor.probe", str(report)]
        if seconds is not None:
            command += [str(seconds), "tpu" if machine.purpose == "tpu" and machine.tpu_devices else ""]
        failure = None
        try:
            process = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_TIMEOUT)
            if process.returncode:
                failure = f"{_ending(process.returncode)}: {_last_words(process.stderr)}"
        except subprocess.TimeoutExpired:
            failure = f"did not answer within {_TIMEOUT} s"
        rows = [json.loads(row) for row in report.read_text().splitlines()] if report.exists() else []
    return Probe(rows, failure)


def examine(
    machine: Machine, seconds: float | None = 2.0, run_probe: Callable[[Machine, float | None], Probe] = probe
) -> dict[str, Any]:
    """Examines a machine.

    Args:
      machine: As `hardware.machine.examine` found it.
      seconds: Of training on each device; None for none.
      run_probe: What runs TensorFlow.

    Returns:
      `healthy` (nothing is to be mended), `environment` ("cpu", "gpu" or "tpu"), `machine`, `tensorflow` (version,
      build, devices, GPUs; None where it does not import), `findings` (about, what, mend), `training` (what fits this
      machine: strategy, num_gpus, mixed_precision_dtype, flags) and `speed` (one object a device).
    """
    found = findings.find(machine)
    probed = Probe([])
    if findings.cannot_import(machine) is None:
        probed = run_probe(machine, seconds)
        found += _of_tensorflow(machine, probed)
    listing = probed.listing
    return dict(
        healthy=not any(finding.mend for finding in found),
        environment=machine.purpose,
        machine=dataclasses.asdict(machine),
        tensorflow=listing or None,
        findings=[dataclasses.asdict(finding) for finding in found],
        training=training_choice(machine, listing) if listing else None,
        speed=[dict(device=row["device"], **row["speed"]) for row in probed.rows[1:] if "speed" in row],
    )


def _of_tensorflow(machine: Machine, probed: Probe) -> list[Finding]:
    """What TensorFlow itself brings to light."""
    found = []
    if probed.failure is not None:
        mend = (
            f"make the environment again: make {machine.purpose}-env"
            if machine.purpose != "cpu"
            else ("make the environment again: rm -r .venv && make .venv/done")
        )
        found.append(Finding("software", f"a process that imports TensorFlow {probed.failure}", mend))
    listed = sum(name.startswith("GPU") for name in probed.listing.get("devices", ()))
    hidden = machine.visible_gpus is not None
    if probed.listing and machine.gpu_devices and not listed and not hidden and machine.purpose == "gpu":
        mend = "nvidia-smi; python -c 'import tensorflow' names the library that does not load"
        found.append(Finding("gpu", f"TensorFlow lists none of {machine.gpu_devices} GPUs", mend))
    for row in probed.rows[1:]:
        if "error" in row:
            about = row["device"][:3].lower()
            mend = "end the process that holds the device, or see the message"
            found.append(Finding(about, f"no training step on {row['device']}: {row['error']}", mend))
    return found


def training_choice(machine: Machine, listing: dict[str, Any]) -> dict[str, Any]:
    """The settings under which `asvit train` uses all of this machine, and the flags that say so."""
    gpus = listing["gpus"]
    if machine.purpose == "tpu" and machine.tpu_devices:
        chosen = dict(distribution_strategy="tpu", num_gpus=0, mixed_precision_dtype="bfloat16")
        return dict(**chosen, flags="--tpu=local")
    if gpus:
        narrow = all(tuple(gpu["compute_capability"] or (0, 0)) >= _BFLOAT16_CAPABILITY for gpu in gpus)
        chosen = dict(
            distribution_strategy="mirrored" if len(gpus) > 1 else "one_device",
            num_gpus=len(gpus),
            mixed_precision_dtype="bfloat16" if narrow else "float32",
        )
    else:
        chosen = dict(distribution_strategy="one_device", num_gpus=0, mixed_precision_dtype="float32")
    overrides = ",".join(f"runtime.{name}={value}" for name, value in chosen.items())
    return dict(**chosen, flags=f"--params_override={overrides}")


def in_words(result: dict[str, Any]) -> str:
    """The result for people."""
    machine = result["machine"]
    packages = [f"{name} {version}" for name, version in machine["packages"].items() if not name.startswith("nvidia")]
    listing = result["tensorflow"]
    lines = [
        f"{'environment':<14}{result['environment']}, Python {machine['python']}, {machine['system']}",
        f"{'packages':<14}{', '.join(packages)}",
        f"{'chips':<14}TPU {machine['tpu_chips']} {machine['tpu_kind'] or ''}".rstrip()
        + f", NVIDIA GPU {machine['gpus']}, driver {machine['driver'] or 'none'}",
    ]
    if listing:
        build = f"CUDA {listing['build']['cuda']}" if listing["build"]["cuda"] else "no CUDA"
        lines.append(f"{'TensorFlow':<14}{', '.join(listing['devices'])}; built with {build}")
    for finding in result["findings"]:
        lines.append(f"{'to mend' if finding['mend'] else 'note':<14}{Finding(**finding)}")
    if result["training"]:
        lines.append(f"{'asvit train':<14}{result['training']['flags']}")
    for speed in result["speed"]:
        lines.append(
            f"{speed['device']:<14}{speed['images_per_second']:.0f} images/s, tiny network, 32 x 32, float32, "
            f"{speed['steps']} steps"
        )
    lines.append("healthy" if result["healthy"] else "not healthy")
    return "\n".join(lines)


def _ending(status: int) -> str:
    return f"ends by {signal.Signals(-status).name}" if status < 0 else f"ends with status {status}"


_STACK = ("@", "File ", "***", "PC:", "Fatal Python", "Current thread", "Extension modules")
_REASONS = ("not available in this library", "Check fail", "rror:")


def _last_words(text: str) -> str:
    """The line of an error output that says why; a stack dump is left out."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(_STACK)]
    reasons = [line for line in lines if any(words in line for words in _REASONS)]
    return " ".join((reasons or lines or ["no message"])[-1].split())[:300]
