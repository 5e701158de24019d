"""What does not fit together, each in one line with the command that mends it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from asvit_tf.hardware.machine import CUDA_LIBRARIES, Machine, version_numbers

TENSORFLOW = "2.20"
PYTHONS = ("3.11", "3.12", "3.13")
# By trying every release with tensorflow-tpu 2.20.0 (docs/tpu.md): older than the first its package refuses; newer than
# the second lacks a function that it calls, and the import of TensorFlow aborts the process.
LIBTPU = ("0.0.14", "0.0.31")
CUDNN = "9.3"  # Built with; TensorFlow refuses an older one when it first needs it.
DRIVER = "525.60.13"  # The least for CUDA 12.


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
      about: "software", "tpu" or "gpu".
      what: What is wrong, or what is to be known.
      mend: The command or the act that mends it; None where nothing is broken.
    """

    about: str
    what: str
    mend: str | None = None

    def __str__(self) -> str:
        return self.what if self.mend is None else f"{self.what}; mend it: {self.mend}"


def pip(machine: Machine, *arguments: str) -> str:
    """Calls of the environment's pip, one after another; each of `arguments` is what follows `pip`."""
    return " && ".join(f"{machine.command} -m pip {line}" for line in arguments)


def tpu_install(machine: Machine) -> str:
    """What puts TensorFlow for TPUs in the place of the one that is installed."""
    new = f"install --no-deps --force-reinstall tensorflow-tpu=={TENSORFLOW}.0 libtpu=={LIBTPU[1]}"
    return pip(machine, *_uninstall(machine.tensorflows), new)


def gpu_install(machine: Machine) -> str:
    """What adds CUDA to TensorFlow; first goes one of another name, and with it the files that they share."""
    old = [] if machine.tensorflows == ["tensorflow"] else machine.tensorflows
    return pip(machine, *_uninstall(old), f"install 'tensorflow[and-cuda]=={TENSORFLOW}.0'")


def find(machine: Machine) -> list[Finding]:
    """All that is to be said of a machine before TensorFlow is imported."""
    return [*_software(machine), *_tpu(machine), *_gpu(machine)]


def cannot_import(machine: Machine) -> Finding | None:
    """Why importing TensorFlow would fail or abort the process."""
    return next((finding for finding in _imports(machine)), None)


def cannot_use_local_tpu(machine: Machine) -> Finding | None:
    """Why a training with the TPU of this machine would fail."""
    problem = cannot_import(machine)
    if problem is not None:
        return problem
    if machine.purpose != "tpu":
        return Finding("tpu", f"{_tensorflow(machine)} cannot use a TPU, tensorflow-tpu can", tpu_install(machine))
    problems = [finding for finding in _tpu(machine) if finding.mend]
    if not problems and not machine.tpu_chips:
        return Finding("tpu", "this machine has no TPU chip", "run on a TPU VM, or train without --tpu=local")
    return problems[0] if problems else None


def cannot_use_gpus(machine: Machine, has_cuda: bool = True) -> Finding:
    """Why TensorFlow lists no GPU of this machine.

    Args:
      machine: The machine.
      has_cuda: Whether its TensorFlow was built with CUDA.
    """
    if not machine.gpus:
        return Finding("gpu", "this machine has no NVIDIA GPU", "leave --hardware=gpu out")
    return next((finding for finding in _gpu(machine) if finding.mend), unlisted_gpus(machine, has_cuda))


def unlisted_gpus(machine: Machine, has_cuda: bool) -> Finding:
    """What is to be said where nothing else is wrong, and TensorFlow lists none all the same; as `cannot_use_gpus`."""
    what = f"TensorFlow lists none of {machine.gpu_devices} GPUs"
    if not has_cuda and "tensorflow" not in machine.tensorflows:
        return Finding("gpu", f"{what}: it is built without CUDA", gpu_install(machine))
    code = """'import tensorflow as tf; tf.config.list_physical_devices("GPU")'"""
    mend = f"nvidia-smi; {machine.command} -c {code} names the library that does not load"
    if machine.visible_gpus is not None:
        what += f", and CUDA_VISIBLE_DEVICES is {machine.visible_gpus!r}"
        mend = f"unset CUDA_VISIBLE_DEVICES, or have it name GPUs of nvidia-smi -L; else {mend}"
    return Finding("gpu", what, mend)


def _uninstall(names: Sequence[str]) -> list[str]:
    return [f"uninstall -y {' '.join(names)}"] if names else []


def _tensorflow(machine: Machine) -> str:
    return " and ".join(f"{name} {machine.packages[name]}" for name in machine.tensorflows) or "no TensorFlow"


def _imports(machine: Machine) -> list[Finding]:
    findings = []
    if not machine.tensorflows:
        mend = pip(machine, f"install tensorflow=={TENSORFLOW}.0")
        findings.append(Finding("software", "TensorFlow is not installed", mend))
    if len(machine.tensorflows) > 1:
        keep = "tensorflow-tpu" if machine.purpose == "tpu" else "tensorflow"
        others = _uninstall([name for name in machine.tensorflows if name != keep])
        mend = pip(machine, *others, f"install --no-deps --force-reinstall {keep}=={TENSORFLOW}.0")
        findings.append(Finding("software", f"{_tensorflow(machine)} overwrite each other's files", mend))
    if machine.purpose == "tpu":
        libtpu = machine.packages.get("libtpu")
        wanted = f"tensorflow-tpu {machine.packages['tensorflow-tpu']} takes libtpu {LIBTPU[0]} to {LIBTPU[1]}"
        mend = pip(machine, f"install --no-deps libtpu=={LIBTPU[1]}")
        if libtpu is None:
            findings.append(Finding("tpu", f"libtpu is not installed: {wanted}", mend))
        elif not version_numbers(LIBTPU[0]) <= version_numbers(libtpu) <= version_numbers(LIBTPU[1]):
            findings.append(Finding("tpu", f"libtpu is {libtpu}: {wanted}, and aborts with a newer one", mend))
    return findings


def _software(machine: Machine) -> list[Finding]:
    findings = [finding for finding in _imports(machine) if finding.about == "software"]
    if machine.system != "Linux x86_64":
        findings.append(
            Finding(
                "software",
                f"the system is {machine.system}: tensorflow-text {TENSORFLOW}, of the Model Garden, "
                "is made for Linux x86_64 and macOS arm64; only Linux x86_64 was tried",
            )
        )
    if machine.python.rpartition(".")[0] not in PYTHONS:
        findings.append(
            Finding(
                "software",
                f"Python is {machine.python}: allowed are {', '.join(PYTHONS[:-1])} and {PYTHONS[-1]}",
                f"make an environment with python{PYTHONS[0]}",
            )
        )
    for name in (*machine.tensorflows, "tf-keras", "tf-models-official", "tensorflow-text"):
        version = machine.packages.get(name)
        mend = pip(machine, f"install --no-deps '{name}=={TENSORFLOW}.*'")
        if version is None:
            findings.append(Finding("software", f"{name} is not installed", mend))
        elif version_numbers(version)[:2] != version_numbers(TENSORFLOW):
            findings.append(Finding("software", f"{name} is {version}: {TENSORFLOW} is wanted", mend))
    return findings


def _tpu(machine: Machine) -> list[Finding]:
    findings = [finding for finding in _imports(machine) if finding.about == "tpu"]
    chips = f"{machine.tpu_chips} TPU chips ({machine.tpu_kind or 'of unknown kind'})"
    if machine.tpu_chips:
        if machine.purpose != "tpu":
            findings.append(Finding("tpu", f"{chips}, which {_tensorflow(machine)} cannot use", tpu_install(machine)))
        if not machine.tpu_devices:
            findings.append(
                Finding(
                    "tpu",
                    f"{chips} on the bus, but neither /dev/accel* nor /dev/vfio/* to reach them",
                    "in a container: docker run --privileged --net=host",
                )
            )
    elif machine.purpose == "tpu":
        findings.append(Finding("tpu", "the environment is one for TPUs, and this machine has no TPU chip"))
    return findings


def _cuda_install(machine: Machine) -> str:
    """What brings the missing libraries: of a package that is installed, its files; else the package."""
    names = list(dict.fromkeys(CUDA_LIBRARIES[name] for name in machine.missing_libraries))
    gone = [f"{name}=={machine.packages[name]}" for name in names if name in machine.packages]
    mends = []
    if gone:  # pip takes them for installed, and would do nothing.
        mends.append(pip(machine, f"install --force-reinstall --no-deps {' '.join(gone)}"))
    if len(gone) < len(names) or machine.tensorflows != ["tensorflow"]:
        mends.append(gpu_install(machine))
    return " && ".join(mends)


def _gpu(machine: Machine) -> list[Finding]:
    if not machine.gpus:
        if machine.purpose == "gpu":
            return [Finding("gpu", "the environment is one for GPUs, and this machine has no NVIDIA GPU")]
        return []
    findings = []
    gpus = f"{machine.gpus} NVIDIA GPUs"
    if machine.purpose == "tpu":
        findings.append(Finding("gpu", f"{gpus}, which {_tensorflow(machine)} cannot use", gpu_install(machine)))
    elif machine.missing_libraries:
        what = f"{gpus}; CUDA libraries are missing: {', '.join(machine.missing_libraries)}"
        if machine.missing_libraries == tuple(CUDA_LIBRARIES):
            what = f"{gpus}, and no CUDA library for {_tensorflow(machine)}"
        findings.append(Finding("gpu", what, _cuda_install(machine)))
    cudnn = machine.packages.get("nvidia-cudnn-cu12")
    if cudnn is not None and not version_numbers(CUDNN) <= version_numbers(cudnn) < (10,):
        what = f"nvidia-cudnn-cu12 is {cudnn}: TensorFlow {TENSORFLOW} takes {CUDNN} to 9.x"
        mend = pip(machine, f"install --no-deps 'nvidia-cudnn-cu12>={CUDNN},<10'")
        findings.append(Finding("gpu", what, mend))
    if machine.driver is None or not machine.driver_library:
        what = "kernel driver is not loaded" if machine.driver is None else "library libcuda.so.1 is missing"
        mend = f"install a driver of at least {DRIVER}, or in a container: docker run --gpus all"
        findings.append(Finding("gpu", f"{gpus}, and NVIDIA's {what}", mend))
    elif version_numbers(machine.driver) < version_numbers(DRIVER):
        mend = f"install a driver of at least {DRIVER}"
        findings.append(Finding("gpu", f"NVIDIA's driver is {machine.driver}, too old for CUDA 12", mend))
    elif not machine.gpu_devices:
        mend = "in a container: docker run --gpus all; else nvidia-modprobe -c 0 -u"
        findings.append(Finding("gpu", f"{gpus} on the bus, but no /dev/nvidia0 to reach them", mend))
    if machine.hides_gpus:
        what = f"CUDA_VISIBLE_DEVICES is {machine.visible_gpus!r}, which hides every GPU"
        findings.append(Finding("gpu", what, "unset CUDA_VISIBLE_DEVICES"))
    return findings
