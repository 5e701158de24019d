"""What this machine and this environment have: chips, drivers, packages, libraries. Nothing is loaded to find out.

A TensorFlow beside a libtpu of another release aborts the process that imports it, so it is judged from outside.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import shlex
import site
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

# Of which each brings the module `tensorflow`: two of them overwrite each other's files.
TENSORFLOWS = ("tensorflow", "tensorflow-tpu", "tensorflow-cpu", "tf-nightly")
PACKAGES = (*TENSORFLOWS, "tf-keras", "tf-models-official", "tensorflow-text", "libtpu", "jax", "jaxlib")
# What TensorFlow 2.20 loads on a GPU, and the package of its extra `and-cuda` that holds it.
CUDA_LIBRARIES = {
    "libcudart.so.12": "nvidia-cuda-runtime-cu12",
    "libcublas.so.12": "nvidia-cublas-cu12",
    "libcublasLt.so.12": "nvidia-cublas-cu12",
    "libcufft.so.11": "nvidia-cufft-cu12",
    "libcurand.so.10": "nvidia-curand-cu12",
    "libcusolver.so.11": "nvidia-cusolver-cu12",
    "libcusparse.so.12": "nvidia-cusparse-cu12",
    "libcudnn.so.9": "nvidia-cudnn-cu12",
    "libcupti.so.12": "nvidia-cuda-cupti-cu12",
    "libnccl.so.2": "nvidia-nccl-cu12",
    "libnvJitLink.so.12": "nvidia-nvjitlink-cu12",
    "libnvrtc.so.12": "nvidia-cuda-nvrtc-cu12",
}
_GOOGLE, _NVIDIA = "0x1ae0", "0x10de"  # Vendors on the PCI bus.
_TPU_KINDS = {
    "0x0027": "v2 or v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "7x",
}  # Google's network cards have the same vendor.


@dataclasses.dataclass(frozen=True)
class Machine:
    """What was found.

    Attributes:
      python: Version, as "3.11.7".
      system: As "Linux x86_64".
      packages: Name to version, of `PACKAGES` and of NVIDIA's; those that are installed.
      tpu_kind, tpu_chips: On the PCI bus; None and 0 without.
      tpu_devices: Device files of chips that this process can open.
      gpus: NVIDIA's on the PCI bus or as device files, whichever are more.
      gpu_devices: Device files of NVIDIA's GPUs.
      driver: Version of NVIDIA's kernel driver.
      driver_library: Whether libcuda.so.1, the user's side of the driver, is there.
      missing_libraries: Of `CUDA_LIBRARIES`.
      google_cloud: Whether it is a virtual machine there, with a metadata server.
      visible_gpus: CUDA_VISIBLE_DEVICES; None where it is not set.
      executable: The Python of the environment.
    """

    python: str
    system: str
    packages: Mapping[str, str]
    tpu_kind: str | None = None
    tpu_chips: int = 0
    tpu_devices: int = 0
    gpus: int = 0
    gpu_devices: int = 0
    driver: str | None = None
    driver_library: bool = False
    missing_libraries: tuple[str, ...] = tuple(CUDA_LIBRARIES)
    google_cloud: bool = False
    visible_gpus: str | None = None
    executable: str = "python"

    @property
    def tensorflows(self) -> list[str]:
        """The installed ones of `TENSORFLOWS`."""
        return [name for name in TENSORFLOWS if name in self.packages]

    @property
    def purpose(self) -> str:
        """What the environment was made for: "tpu", "gpu" or "cpu"."""
        if "tensorflow-tpu" in self.packages:
            return "tpu"
        return "gpu" if "nvidia-cudnn-cu12" in self.packages else "cpu"

    @property
    def command(self) -> str:
        """The environment's Python as a shell takes it; it need not be activated."""
        return shlex.quote(self.executable)

    @property
    def can_start_tpu(self) -> bool:
        """Whether TensorFlow is the one for TPUs, and this process reaches a chip."""
        return self.purpose == "tpu" and self.tpu_devices > 0

    @property
    def hides_gpus(self) -> bool:
        """Whether CUDA_VISIBLE_DEVICES hides every GPU on purpose."""
        return self.visible_gpus is not None and self.visible_gpus.strip() in ("", "-1")


def examine(
    root: str | os.PathLike = "/",
    environ: Mapping[str, str] = os.environ,
    packages: Mapping[str, str] | None = None,
    library_folders: Iterable[str | os.PathLike] | None = None,
) -> Machine:
    """Looks at the machine.

    Args:
      root: Where /dev, /proc and /sys are.
      environ: The environment's variables.
      packages: What is installed; by default what this Python has.
      library_folders: Where shared libraries lie; by default those of this Python and this system.
    """
    root = Path(root)
    kinds = _pci(root, _GOOGLE)
    chips = [_TPU_KINDS[kind] for kind in kinds if kind in _TPU_KINDS]
    gpu_devices = _count(root / "dev", r"nvidia\d+")
    if library_folders is None:
        library_folders = _library_folders(root, environ)
    folders = [Path(folder) for folder in library_folders]
    product = root / "sys/class/dmi/id/product_name"
    tpu_devices = _count(root / "dev", r"accel\d+") or (_count(root / "dev/vfio", r"\d+") if chips else 0)
    driver = root / "proc/driver/nvidia/version"
    version = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", driver.read_text()) if driver.is_file() else None
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=_installed() if packages is None else packages,
        tpu_kind=chips[0] if chips else None,
        tpu_chips=max(len(chips), _count(root / "dev", r"accel\d+")),
        tpu_devices=tpu_devices,
        gpus=max(len(_pci(root, _NVIDIA, "0x03")), gpu_devices),
        gpu_devices=gpu_devices,
        driver=version[1] if version else None,
        driver_library=_found("libcuda.so.1", folders),
        missing_libraries=tuple(name for name in CUDA_LIBRARIES if not _found(name, folders)),
        google_cloud=product.is_file() and "Google" in product.read_text(),
        visible_gpus=environ.get("CUDA_VISIBLE_DEVICES"),
        executable=sys.executable or "python",
    )


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, to be compared: "0.0.32.1" as (0, 0, 32, 1)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def _installed() -> dict[str, str]:
    names = (*PACKAGES, *dict.fromkeys(CUDA_LIBRARIES.values()))
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _pci(root: Path, vendor: str, kind: str = "") -> list[str]:
    """The device numbers of a vendor's devices on the PCI bus, of one class ("0x03" for displays) if wanted."""
    devices = []
    for device in sorted(root.glob("sys/bus/pci/devices/*")):
        try:
            if (device / "vendor").read_text().strip() == vendor and (
                not kind or (device / "class").read_text().startswith(kind)
            ):
                devices.append((device / "device").read_text().strip())
        except OSError:
            continue
    return devices


def _count(folder: Path, pattern: str) -> int:
    return sum(re.fullmatch(pattern, path.name) is not None for path in folder.glob("*"))


def _library_folders(root: Path, environ: Mapping[str, str]) -> list[Path]:
    folders = [Path(folder) for folder in environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    packages = {*site.getsitepackages(), site.getusersitepackages(), *sys.path}
    for package in sorted(packages):
        folders += Path(package).glob("nvidia/*/lib")
    for place in ("usr/lib", "usr/lib64", "lib", "usr/local/lib", "usr/local/nvidia/lib64"):
        folders.append(root / place)
    folders += (root / "usr/lib").glob("*-linux-gnu")
    folders += root.glob("usr/local/cuda*/lib64")
    for settings in sorted(root.glob("etc/ld.so.conf.d/*.conf")):
        folders += [Path(line.strip()) for line in settings.read_text().splitlines() if line.strip().startswith("/")]
    return folders


def _found(library: str, folders: Iterable[Path]) -> bool:
    return any((folder / library).exists() for folder in folders)
