"""Training-free measures that others published, one file for a paper or a family; `load` registers them all."""

import functools
import importlib
import pkgutil


@functools.cache
def load() -> None:
    """Imports every file of this folder, so that a new one needs to be named nowhere."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
