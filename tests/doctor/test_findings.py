"""Every mismatch of chips, drivers, packages and libraries that is known, on machines made of files."""

import dataclasses
import sys

import pytest

from asvit_tf.errors import UserError
from asvit_tf.hardware import environment, findings
from asvit_tf.hardware.findings import LIBTPU
from asvit_tf.hardware.machine import CUDA_LIBRARIES, Machine, examine, version_numbers

COMMON = {"tf-keras": "2.20.1", "tf-models-official": "2.20.0", "tensorflow-text": "2.20.1"}
CPU = {"tensorflow": "2.20.0", **COMMON}
TPU = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.31", **COMMON}
GPU = {**CPU, **dict.fromkeys(CUDA_LIBRARIES.values(), "12.9"), "nvidia-cudnn-cu12": "9.28.0.42"}
PIP = "/opt/asvit/.venv/bin/python -m pip"
TPU_INSTALL = f"{PIP} install --no-deps --force-reinstall tensorflow-tpu==2.20.0 libtpu=={LIBTPU[1]}"
GPU_INSTALL = f"{PIP} install 'tensorflow[and-cuda]==2.20.0'"
PINNED = " ".join(f"{name}=={GPU[name]}" for name in dict.fromkeys(CUDA_LIBRARIES.values()))
DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Jan  1 00:00:00 UTC 2026\nGCC version: 13\n"


class Host:
    """A machine of files under a folder."""

    def __init__(self, root):
        self.root, self.libraries = root, root / "libraries"
        self.libraries.mkdir()
        self.environ = {}

    def write(self, path, text=""):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def pci(self, slot, vendor, device, kind):
        for name, text in (("vendor", vendor), ("device", device), ("class", kind)):
            self.write(f"sys/bus/pci/devices/0000:00:0{slot}.0/{name}", text + "\n")

    def tpu(self, chips=4, device="0x0063", reachable=True):
        for chip in range(chips):
            self.pci(chip, "0x1ae0", device, "0x120000")
            if reachable:
                self.write(f"dev/vfio/{chip}")

    def gpus(self, count=2, driver="550.54.15", reachable=True, cuda=tuple(CUDA_LIBRARIES), library=True):
        for gpu in range(count):
            self.pci(gpu, "0x10de", "0x20b0", "0x030200")
            if reachable:
                self.write(f"dev/nvidia{gpu}")
        self.write("dev/nvidiactl")
        if driver:
            self.write("proc/driver/nvidia/version", DRIVER.format(driver))
        for name in (*cuda, *(["libcuda.so.1"] if library else [])):
            (self.libraries / name).touch()

    def examined(self, packages) -> Machine:
        machine = examine(self.root, self.environ, packages, [self.libraries])
        executable = PIP.removesuffix(" -m pip")
        return dataclasses.replace(machine, python="3.11.7", system="Linux x86_64", executable=executable)

    def lines(self, packages):
        return [str(finding) for finding in findings.find(self.examined(packages))]


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_a_plain_environment_on_a_machine_without_chips_has_nothing_to_say(host):
    host.pci(0, "0x1ae0", "0x0042", "0x020000")  # Google's network card is no TPU.
    host.pci(1, "0x10de", "0x1234", "0x040300")  # NVIDIA's sound is no GPU.
    machine = host.examined(CPU)
    assert (machine.tpu_chips, machine.gpus, machine.purpose) == (0, 0, "cpu")
    assert host.lines(CPU) == []


def test_a_right_tpu_vm_and_a_right_gpu_host(host, tmp_path):
    host.tpu()
    machine = host.examined(TPU)
    assert (machine.tpu_kind, machine.tpu_chips, machine.tpu_devices, machine.purpose) == ("v5e", 4, 4, "tpu")
    assert host.lines(TPU) == []
    assert findings.cannot_use_local_tpu(machine) is None
    (tmp_path / "gpu").mkdir()
    other = Host(tmp_path / "gpu")
    other.gpus()
    machine = other.examined(GPU)
    assert (machine.gpus, machine.gpu_devices, machine.driver, machine.driver_library) == (2, 2, "550.54.15", True)
    assert machine.purpose == "gpu"
    assert other.lines(GPU) == []


# What is done to the host, what is installed, what the one line says, and how it is mended.
CASES = {
    "plain tensorflow on a TPU VM": (
        lambda host: host.tpu(), CPU, "4 TPU chips (v5e), which tensorflow 2.20.0 cannot use",
        f"{PIP} uninstall -y tensorflow && {TPU_INSTALL}",
    ),
    "tensorflow-cpu on a TPU VM": (
        lambda host: host.tpu(), {"tensorflow-cpu": "2.20.0", **COMMON}, "which tensorflow-cpu 2.20.0 cannot use",
        f"{PIP} uninstall -y tensorflow-cpu && {TPU_INSTALL}",
    ),
    "libtpu too new": (
        lambda host: host.tpu(), TPU | {"libtpu": "0.0.52"}, "libtpu is 0.0.52: tensorflow-tpu 2.20.0 takes",
        f"{PIP} install --no-deps libtpu=={LIBTPU[1]}",
    ),
    "libtpu too old": (
        lambda host: host.tpu(), TPU | {"libtpu": "0.0.9"}, "libtpu is 0.0.9", f"libtpu=={LIBTPU[1]}",
    ),
    "no libtpu": (
        lambda host: host.tpu(), {name: version for name, version in TPU.items() if name != "libtpu"},
        "libtpu is not installed", f"libtpu=={LIBTPU[1]}",
    ),
    "chips out of a container's reach": (
        lambda host: host.tpu(reachable=False), TPU, "neither /dev/accel* nor /dev/vfio/*", "docker run --privileged",
    ),
    "plain tensorflow on a GPU host": (
        lambda host: host.gpus(cuda=()), CPU, "2 NVIDIA GPUs, and no CUDA library for tensorflow 2.20.0", GPU_INSTALL,
    ),
    "tensorflow-cpu on a GPU host": (
        lambda host: host.gpus(cuda=()), {"tensorflow-cpu": "2.20.0", **COMMON}, "no CUDA library for tensorflow-cpu",
        f"{PIP} uninstall -y tensorflow-cpu && {GPU_INSTALL}",
    ),
    "all CUDA libraries gone from their packages": (
        lambda host: host.gpus(cuda=()), GPU, "2 NVIDIA GPUs, and no CUDA library for tensorflow 2.20.0",
        f"{PIP} install --force-reinstall --no-deps {PINNED}",
    ),
    "tensorflow-cpu, and all CUDA libraries gone": (
        lambda host: host.gpus(cuda=()),
        {"tensorflow-cpu": "2.20.0", **{name: version for name, version in GPU.items() if name != "tensorflow"}},
        "no CUDA library for tensorflow-cpu 2.20.0",
        f"{PINNED} && {PIP} uninstall -y tensorflow-cpu && {GPU_INSTALL}",
    ),
    "CUDA libraries gone, and a package missing": (
        lambda host: host.gpus(cuda=list(CUDA_LIBRARIES)[1:-1]),
        {name: version for name, version in GPU.items() if name != "nvidia-cuda-nvrtc-cu12"},
        "CUDA libraries are missing: libcudart.so.12, libnvrtc.so.12",
        f"{PIP} install --force-reinstall --no-deps nvidia-cuda-runtime-cu12==12.9 && {GPU_INSTALL}",
    ),
    "a CUDA package missing": (
        lambda host: host.gpus(cuda=[name for name in CUDA_LIBRARIES if name != "libcudnn.so.9"]),
        {name: version for name, version in GPU.items() if name != "nvidia-cudnn-cu12"},
        "CUDA libraries are missing: libcudnn.so.9", GPU_INSTALL,
    ),
    "a CUDA library gone from its package": (
        lambda host: host.gpus(cuda=[name for name in CUDA_LIBRARIES if name != "libcufft.so.11"]), GPU,
        "CUDA libraries are missing: libcufft.so.11",
        f"{PIP} install --force-reinstall --no-deps nvidia-cufft-cu12==12.9",
    ),
    "cuDNN too old": (
        lambda host: host.gpus(), GPU | {"nvidia-cudnn-cu12": "9.1.0.70"}, "nvidia-cudnn-cu12 is 9.1.0.70",
        f"{PIP} install --no-deps 'nvidia-cudnn-cu12>=9.3,<10'",
    ),
    "driver too old": (
        lambda host: host.gpus(driver="470.239.06"), GPU, "driver is 470.239.06, too old for CUDA 12", "525.60.13",
    ),
    "no driver": (
        lambda host: host.gpus(driver=None, reachable=False), GPU, "kernel driver is not loaded", "525.60.13",
    ),
    "container without the driver's library": (
        lambda host: host.gpus(library=False), GPU, "libcuda.so.1 is missing", "docker run --gpus all",
    ),
    "GPUs out of a container's reach": (
        lambda host: host.gpus(reachable=False), GPU, "no /dev/nvidia0", "docker run --gpus all",
    ),
    "GPUs hidden": (
        lambda host: (host.gpus(), host.environ.update(CUDA_VISIBLE_DEVICES="-1")), GPU,
        "CUDA_VISIBLE_DEVICES is '-1'", "unset CUDA_VISIBLE_DEVICES",
    ),
    "tensorflow-tpu on a GPU host": (
        lambda host: host.gpus(), TPU, "2 NVIDIA GPUs, which tensorflow-tpu 2.20.0 cannot use",
        f"{PIP} uninstall -y tensorflow-tpu && {GPU_INSTALL}",
    ),
    "two TensorFlows": (
        lambda host: host.tpu(), TPU | CPU, "tensorflow 2.20.0 and tensorflow-tpu 2.20.0 overwrite each other",
        f"{PIP} uninstall -y tensorflow && {PIP} install --no-deps --force-reinstall tensorflow-tpu==2.20.0",
    ),
    "no TensorFlow": (lambda host: None, COMMON, "TensorFlow is not installed", f"{PIP} install tensorflow==2.20.0"),
    "a Model Garden of another release": (
        lambda host: None, CPU | {"tf-models-official": "2.19.1"}, "tf-models-official is 2.19.1: 2.20 is wanted",
        f"{PIP} install --no-deps 'tf-models-official==2.20.*'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "packages", "what", "mend"), CASES.values(), ids=CASES)
def test_every_mismatch_is_one_line_with_the_command_that_mends_it(host, change, packages, what, mend):
    change(host)
    (line,) = [line for line in host.lines(packages) if "mend it" in line]
    assert what in line.partition("; mend it: ")[0]
    assert mend in line.partition("; mend it: ")[2]
    assert "\n" not in line


def test_an_environment_without_its_chip_is_whole(host):
    for packages, what in ((TPU, "this machine has no TPU chip"), (GPU, "this machine has no NVIDIA GPU")):
        (finding,) = findings.find(host.examined(packages))
        assert what in finding.what
        assert finding.mend is None


def test_another_python(host):
    machine = host.examined(CPU)
    for python in ("3.11.7", "3.12.1", "3.13.0"):
        assert findings.find(dataclasses.replace(machine, python=python)) == []
    (finding,) = findings.find(dataclasses.replace(machine, python="3.14.0"))
    assert "Python is 3.14.0: allowed are 3.11, 3.12 and 3.13" in finding.what


def test_commands_name_the_python_of_the_environment(host):
    assert examine(host.root).executable == sys.executable
    machine = dataclasses.replace(host.examined(COMMON), executable="/home/me/my envs/bin/python")
    assert "'/home/me/my envs/bin/python' -m pip install" in findings.find(machine)[0].mend


@pytest.mark.parametrize(
    ("packages", "message"),
    [(CPU, "tensorflow 2.20.0 cannot use a TPU"), (TPU, "no TPU chip"), (TPU | {"libtpu": "0.0.52"}, "0.0.52")],
    ids=["plain tensorflow", "no chip", "wrong libtpu"],
)
def test_training_on_a_local_tpu_is_refused(host, packages, message):
    assert message in str(findings.cannot_use_local_tpu(host.examined(packages)))


def test_versions_are_compared_by_their_numbers():
    versions = ["0.0.31.1", "0.0.9", "0.0.32", "0.0.31"]
    assert sorted(versions, key=version_numbers) == ["0.0.9", "0.0.31", "0.0.31.1", "0.0.32"]
    assert version_numbers("2.20.0rc1") == (2, 20, 0)


def test_what_would_abort_is_refused_before_tensorflow_is_imported(host):
    environ = {}
    with pytest.raises(UserError, match=r"libtpu is 0\.0\.52"):
        environment.prepare(host.examined(TPU | {"libtpu": "0.0.52"}), environ)
    assert environ == {}


@pytest.mark.parametrize("where", ["elsewhere", "Google's cloud", "TPU VM"])
def test_only_where_there_can_be_no_tpu_is_the_search_for_one_spared(host, where):
    if where == "Google's cloud":
        host.write("sys/class/dmi/id/product_name", "Google Compute Engine\n")
    if where == "TPU VM":
        host.tpu()
    mine = {"TPU_WORKER_ID": "3"}
    environ = dict(mine)
    environment.prepare(host.examined(TPU), environ)
    assert environ == (environment.WITHOUT_CHIP | mine if where == "elsewhere" else mine)
    environ = {}
    environment.prepare(host.examined(CPU), environ)
    assert environ == {}
