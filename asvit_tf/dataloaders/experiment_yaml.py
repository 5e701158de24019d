"""Experiments as YAML for `asvit train --config_file`: written, and read wherever they lie. No TensorFlow.

A path that begins with $HERE counts from the directory of the file, so that a directory may be moved with its YAMLs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

from asvit_tf.dataloaders import record_paths

HERE = "$HERE"
_MOST_VALUES = 1_000_000


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


def one_line(experiment: Mapping[str, Any]) -> str:
    """The same in one line of ASCII, for `--params_override`."""
    return yaml.dump(dict(experiment), Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=10**6).strip()


def check_aliases(value: Any) -> None:
    """Checks that what aliases stand for can be copied out: YAML shares it, experiments do not.

    Args:
      value: As it was read from YAML.

    Raises:
      ValueError: An alias is inside of what it stands for, or there are too many values.
    """
    sizes: dict[int, int | None] = {}  # Values in each mapping and list, by its identity; None while they are counted.

    def size(item: Any) -> int:
        if not isinstance(item, (Mapping, list, tuple)):
            return 1
        if id(item) not in sizes:
            sizes[id(item)] = None
            sizes[id(item)] = 1 + sum(map(size, item.values() if isinstance(item, Mapping) else item))
        if (found := sizes[id(item)]) is None:
            raise ValueError("its aliases lead in a circle")
        return found

    if size(value) > _MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {_MOST_VALUES:,} values")


def from_here(value: Any, directory: str | os.PathLike, key: str = "") -> Any:
    """The value, paths that begin with $HERE below `directory`; those of records as `record_paths.pattern` writes them.

    Args:
      value: Mappings and lists, or what is in them.
      directory: That of the YAML.
      key: Where in a mapping the value is.
    """
    if isinstance(value, Mapping):
        return {name: from_here(item, directory, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [from_here(item, directory, key) for item in value]
    if not isinstance(value, str) or not value.startswith(f"{HERE}/"):
        return value
    relative = value[len(HERE) + 1 :]
    if key != "input_path":
        return os.path.normpath(os.path.join(directory, relative))
    parent, name = os.path.split(relative)
    return record_paths.pattern(os.path.normpath(os.path.join(directory, parent)), name)


def to_here(value: Any, root: str | os.PathLike, directory: str | os.PathLike) -> Any:
    """The value, paths below `root` as paths from `directory`: what `from_here` undoes, also after both were moved.

    Args:
      value: Mappings and lists, or what is in them.
      root: What may be moved as a whole.
      directory: Inside of it, that of the YAML.
    """
    if isinstance(value, Mapping):
        # Names of classes may have slashes.
        return {name: item if name == "class_names" else to_here(item, root, directory) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_here(item, root, directory) for item in value]
    if not isinstance(value, str) or not value:
        return value
    root, directory = os.path.abspath(root), os.path.abspath(directory)
    for start in dict.fromkeys((os.path.join(root, ""), record_paths.pattern(root, "*")[:-1])):
        for found in (value, os.path.abspath(value) if "://" not in value and os.sep in value else value):
            if found.startswith(start) and len(found) > len(start):
                return f"{HERE}/{os.path.relpath(root, directory)}/{found[len(start) :]}".replace("/./", "/")
    return value
