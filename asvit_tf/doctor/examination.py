"""The whole examination: the machine from outside, TensorFlow in a process of its own, what training would use."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asvit_tf.hardware import choice, environment, findings
from asvit_tf.hardware.choice import Chosen, Gpu
from asvit_tf.hardware.findings import Finding
from asvit_tf.hardware.machine import Machine

_TIMEOUT = 600  # Seconds; importing TensorFlow on a busy machine takes one.


@dataclasses.dataclass(frozen=True)
class Probe:
    """What came of a process with TensorFlow: its rows, and how it ended."""

    rows: list[dict[str, Any]]
    failure: str | None = None

    @property
    def listing(self) -> dict[str, Any]:
        """TensorFlow, build and devices; {} where it came to nothing."""
        return self.rows[0] if self.rows and "error" not in self.rows[0] else {}


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
            command += [str(seconds), "tpu" if machine.can_start_tpu else ""]
        failure = None
        try:
            process = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=_TIMEOUT)
            if process.returncode:
                failure = f"{_ending(process.returncode)}: {_last_words(process.stderr)}"
        except subprocess.TimeoutExpired as expired:
            said = (expired.stderr or b"").decode(errors="replace")  # Bytes, even of a process read as text.
            failure = f"did not answer within {_TIMEOUT} s: {_last_words(said)}"
        rows = [json.loads(row) for row in report.read_text().splitlines()] if report.exists() else []
    return Probe(rows, failure)


def trained(devices: Sequence[str], has_tpu: bool) -> list[str]:
    """Those of TensorFlow's devices that train a step each, in turn; a TPU is listed only once it is started."""
    return [name for name in devices if name.startswith(("CPU", "GPU"))] + (["TPU"] if has_tpu else [])


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
      build, devices, GPUs; None where it does not import or lists no devices), `findings` (about, what, mend),
      `training` (what fits this machine: strategy, num_gpus, mixed_precision_dtype, flags), `run` (what `asvit run`
      uses: strategy, num_gpus, mixed_precision_dtype, search_device) and `speed` (one object a device).
    """
    found = findings.find(machine)
    probed = Probe([])
    if findings.cannot_import(machine) is None:
        probed = run_probe(machine, seconds)
        found += _of_tensorflow(machine, probed, measured=seconds is not None)
    listing = probed.listing
    return dict(
        healthy=not any(finding.mend for finding in found),
        environment=machine.purpose,
        machine=dataclasses.asdict(machine),
        tensorflow=listing or None,
        findings=[dataclasses.asdict(finding) for finding in found],
        training=training_choice(machine, listing) if listing else None,
        run=run_choice(machine, listing) if listing else None,
        speed=[dict(device=row["device"], **row["speed"]) for row in probed.rows[1:] if "speed" in row],
    )


def _of_tensorflow(machine: Machine, probed: Probe, measured: bool) -> list[Finding]:
    """What TensorFlow itself brings to light."""
    if not probed.rows:
        what = f"a process that imports TensorFlow {probed.failure}"
        held = "end the process that holds the device, if one does; else "
        reaches = machine.can_start_tpu or machine.gpu_devices
        return [Finding("software", what, (held if reaches else "") + _again(machine))] if probed.failure else []
    if not probed.listing:
        about = "tpu" if machine.can_start_tpu else "gpu" if machine.gpu_devices else "software"
        what = f"TensorFlow cannot list its devices: {probed.rows[0]['error']}"
        return [Finding(about, what, _free(machine, about))]
    found = []
    devices = probed.listing["devices"]
    listed = any(name.startswith("GPU") for name in devices)
    if machine.gpu_devices and not listed and not machine.hides_gpus and machine.purpose != "tpu":
        found.append(findings.unlisted_gpus(machine, _has_cuda(probed.listing)))
    for row in probed.rows[1:]:
        if "error" in row:
            found.append(_untrained(machine, row["device"], row["error"]))
    if probed.failure is not None:
        done = [row["device"] for row in probed.rows[1:]]
        missing = [name for name in trained(devices, machine.can_start_tpu) if name not in done] if measured else []
        if missing:  # The first of them was training.
            found.append(_untrained(machine, missing[0], f"the process {probed.failure}"))
        else:
            what = f"the process with TensorFlow, its work done, {probed.failure}"
            found.append(Finding("software", what, _again(machine)))
    return found


def _untrained(machine: Machine, device: str, reason: str) -> Finding:
    about = "software" if device.startswith("CPU") else device[:3].lower()
    return Finding(about, f"no training step on {device}: {reason}", _free(machine, about))


def _free(machine: Machine, about: str) -> str:
    """What gives a device back to TensorFlow."""
    if about == "software":
        return f"free memory, or see the message; else {_again(machine)}"
    return "end the process that holds the device, or see the message"


def _again(machine: Machine) -> str:
    """What makes the environment anew; while its directory is there, `make` does nothing."""
    if machine.purpose == "cpu":
        return "make the environment again: rm -r .venv && make .venv/done"
    return f"make the environment again: rm -r .venv-{machine.purpose} && make {machine.purpose}-env"


def _chosen(machine: Machine, listing: dict[str, Any]) -> Chosen:
    """What `asvit run` would take of this machine, unless told otherwise."""
    gpus = [Gpu(gpu["name"], tuple(gpu["compute_capability"] or ()) or None) for gpu in listing["gpus"]]
    return choice.choose("auto", None, machine, gpus, _has_cuda(listing))


def _has_cuda(listing: dict[str, Any]) -> bool:
    return listing["build"]["cuda"] is not None


def training_choice(machine: Machine, listing: dict[str, Any]) -> dict[str, Any]:
    """The settings under which `asvit train` uses all of this machine, and the flags that say so."""
    settings = _chosen(machine, listing).settings
    # The strategy counts a TPU's cores itself.
    named = {name: value for name, value in settings.items() if name != "num_gpus" or not _is_tpu(settings)}
    overrides = ",".join(f"runtime.{name}={value}" for name, value in named.items())
    return dict(**settings, flags="--tpu=local " * _is_tpu(settings) + f"--params_override={overrides}")


def run_choice(machine: Machine, listing: dict[str, Any]) -> dict[str, Any]:
    """What `asvit run` uses of this machine without flags: to train, and to score in search and growth."""
    settings = _chosen(machine, listing).settings
    number = settings["num_gpus"]
    return dict(**settings, search_device="CPU:0" if not number else "GPU:0" if number == 1 else f"{number} GPUs")


def run_in_words(run: dict[str, Any]) -> str:
    """`run_choice` for people."""
    searches = run["search_device"].replace("CPU:0", "the CPU")
    where = "the TPU" if _is_tpu(run) else searches
    return f"trains on {where} in {run['mixed_precision_dtype']}; search uses {searches}"


def _is_tpu(settings: dict[str, Any]) -> bool:
    return settings["distribution_strategy"] == "tpu"


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
    if result["run"]:
        lines.append(f"{'asvit run':<14}{run_in_words(result['run'])}")
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
