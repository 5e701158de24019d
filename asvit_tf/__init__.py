"""As-ViT, auto-scaling Vision Transformers without training, in TensorFlow.

Names are imported when first used, so that what needs no TensorFlow (topologies, counting, schedules) starts at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asvit_tf.design.retokenization import Phase, Schedule, Tokenization
    from asvit_tf.design.topology import Stage, Topology
    from asvit_tf.errors import UserError
    from asvit_tf.modeling.backbone import AsViT
    from asvit_tf.modeling.callbacks import RetokenizationCallback
    from asvit_tf.modeling.classifier import build_classifier

__version__ = "0.1.0"

_HOMES = {
    "AsViT": "modeling.backbone",
    "Phase": "design.retokenization",
    "RetokenizationCallback": "modeling.callbacks",
    "Schedule": "design.retokenization",
    "Stage": "design.topology",
    "Tokenization": "design.retokenization",
    "Topology": "design.topology",
    "UserError": "errors",
    "build_classifier": "modeling.classifier",
}
_MODULES = ("complexity", "ntk", "reference_weights")

__all__ = [
    "AsViT",
    "Phase",
    "RetokenizationCallback",
    "Schedule",
    "Stage",
    "Tokenization",
    "Topology",
    "UserError",
    "build_classifier",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
