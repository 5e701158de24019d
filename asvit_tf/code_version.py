"""The code that a process would compute by, as a line: equal in two processes that compute the same. No TensorFlow."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import platform
from pathlib import Path

# By package, what is hashed of it.
_CODE = {"asvit_tf": "*.py", "search": "*.py", "official_configs": "*.yaml"}
# By name, the distributions that have it; the first that is there counts.
_LIBRARIES = {
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-tpu", "tensorflow-rocm", "tf-nightly"),
    "tf-keras": ("tf-keras", "tf-keras-nightly"),
    "tf-models-official": ("tf-models-official", "tf-models-nightly"),
    "numpy": ("numpy",),
}


@functools.cache
def code_version() -> str:
    """Version and hash of this package's code and YAMLs, and the versions of what computes, as one line."""
    digest = hashlib.sha256()
    for package, pattern in _CODE.items():
        folder = Path(str(importlib.import_module(package).__file__)).parent
        for path in sorted(folder.rglob(pattern)):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    libraries = ", ".join(f"{name} {_version(*distributions)}" for name, distributions in _LIBRARIES.items())
    python = ".".join(platform.python_version_tuple()[:2])
    return f"asvit-tf {_version('asvit-tf')} (code {digest.hexdigest()[:12]}), {libraries}, Python {python}"


def _version(*distributions: str) -> str:
    """Of the first distribution that is there."""
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"
