"""Experiments that the program itself writes as YAML, for `asvit train --config_file`. No TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """As `yaml.safe_dump`, but a text such as 1e3 is quoted: the Model Garden's reader takes it for a number."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+.0-9][-+.:_eE0-9]*$"), list("-+.0123456789"))


def text(experiment: Mapping[str, Any], comment: str) -> str:
    """The contents of a YAML file, in ASCII.

    Args:
      experiment: Mappings, lists, numbers and texts, in the order in which they are written.
      comment: Lines that stand before it.
    """
    header = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    return header + yaml.dump(dict(experiment), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)
