"""The line that two processes compare is another one where anything is that decides what they compute."""

import importlib.metadata
import os
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

_PRINT = """
import sys
from asvit_tf.code_version import code_version
print(code_version())
sys.exit("tensorflow" in sys.modules)
"""


def line(folder):
    """As a process says it that has the code from there."""
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", _PRINT], env=environ, cwd=folder, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def copy(tmp_path):
    for package in ("asvit_tf", "search", "official_configs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_copies_have_the_same_line_with_all_versions(copy):
    found = line(copy)
    assert found == line(ROOT)
    assert "\n" not in found
    for name in ("tensorflow", "tf-keras", "tf-models-official", "numpy"):
        assert f", {name} {importlib.metadata.version(name)}" in found
    assert found.endswith(f", Python {sys.version_info[0]}.{sys.version_info[1]}")


@pytest.mark.parametrize(
    "name", ["asvit_tf/design/topology.py", "search/scoring/score.py", "official_configs/coco/{}", "search/new.py"]
)
def test_other_code_or_settings_have_another_line(name, copy):
    before = line(copy)
    path = copy / name.format(min(path.name for path in (copy / "official_configs/coco").glob("*.yaml")))
    with path.open("a") as file:
        file.write("# Another version.\n")
    assert line(copy) != before


def test_other_libraries_have_another_line(copy):
    before = line(copy)
    for name, version in (("numpy", "0.9"), ("tensorflow", "0.8")):
        (copy / f"{name}-{version}.dist-info").mkdir()
        (copy / f"{name}-{version}.dist-info/METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    assert ", tensorflow 0.8, " in line(copy)
    assert ", numpy 0.9, " in line(copy)
    assert line(copy).split(", tensorflow")[0] == before.split(", tensorflow")[0]
