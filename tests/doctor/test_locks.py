"""The locks of the three environments, and the range that setup.py states, agree with each other."""

import re

import pytest
from helpers import ROOT

from asvit_tf.hardware import findings
from asvit_tf.hardware.findings import LIBTPU, TENSORFLOW
from asvit_tf.hardware.machine import CUDA_LIBRARIES, Machine, version_numbers


def lock(name):
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_lock_for_tpus_is_the_common_one_with_another_tensorflow():
    common, tpu = lock("requirements.lock"), lock("requirements-tpu.lock")
    changed = {name for name in common.keys() | tpu.keys() if common.get(name) != tpu.get(name)}
    assert changed == {"tensorflow", "tensorflow-tpu", "libtpu", "jax", "jaxlib"}
    assert tpu["tensorflow-tpu"] == f"{TENSORFLOW}.0" == common["tensorflow"]
    assert tpu["libtpu"] == LIBTPU[1]
    assert "tensorflow" not in tpu


def test_the_lock_for_gpus_is_the_common_one_with_cuda():
    common, gpu = lock("requirements.lock"), lock("requirements-gpu.lock")
    assert common.keys() - gpu.keys() == {"jax", "jaxlib", "libtpu"}
    cuda = gpu.keys() - common.keys()
    assert cuda == {*CUDA_LIBRARIES.values(), "nvidia-cuda-nvcc-cu12"}
    assert all(common[name] == gpu[name] for name in common.keys() & gpu.keys())


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-tpu.lock", "requirements-gpu.lock"])
def test_what_a_lock_installs_fits_together(name):
    packages = {package.replace("_", "-"): version for package, version in lock(name).items()}
    machine = Machine("3.11.7", "Linux x86_64", packages)
    assert [str(finding) for finding in findings.find(machine) if finding.mend] == []


def test_setup_states_the_same_range_of_libtpu():
    (oldest, newest) = re.search(
        r'"libtpu>=([\d.]+),<=([\d.]+)"', (ROOT / "setup.py").read_text().partition('"tpu": [')[2]
    ).groups()
    assert (oldest, newest) == LIBTPU
    assert version_numbers(oldest) < version_numbers(newest)


def test_setup_states_the_same_pythons():
    oldest, end = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', (ROOT / "setup.py").read_text()).groups()
    assert tuple(f"3.{minor}" for minor in range(int(oldest), int(end))) == findings.PYTHONS


@pytest.mark.parametrize("kind", ["cpu", "tpu", "gpu"])
def test_containers_install_the_locks(kind):
    text = (ROOT / "docker" / f"{kind}.Dockerfile").read_text()
    name = "requirements.lock" if kind == "cpu" else f"requirements-{kind}.lock"
    assert f"COPY {name} ." in text
    # Followed, the dependencies of other packages would bring the other TensorFlow.
    assert ("--no-deps --requirement" in text) == (kind != "cpu")
