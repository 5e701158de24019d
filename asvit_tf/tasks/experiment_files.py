"""Experiments from YAML files and from the command line, checked for the types of their values.

The Model Garden takes a path for YAML, or for `a=b`, where it looks like it; and a value of another type than its field
has passes until something computes with it.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pydoc
import re
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import yaml
from official.core import config_definitions as cfg
from official.core import train_utils
from official.modeling import hyperparams

from asvit_tf.dataloaders import experiment_yaml
from asvit_tf.errors import UserError

_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError, yaml.YAMLError)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def read(path: str) -> Mapping[str, Any]:
    """A YAML file; paths that begin with $HERE counted from its directory.

    Raises:
      UserError: There is no such file, or it holds no mapping, or one that holds itself.
    """
    directory = os.path.dirname(path) if "://" in path else os.path.dirname(os.path.abspath(path))
    try:
        with tf.io.gfile.GFile(path) as file:
            # Importing the Model Garden has taught this loader that 1e-3 is a number; so its own reader reads.
            content = yaml.load(file.read(), Loader=yaml.FullLoader)
        experiment_yaml.check_aliases(content)
        content = experiment_yaml.from_here(content, directory)
    except tf.errors.OpError as error:
        raise UserError(f"cannot read {path}: {error.message.split(';')[-1].strip()[:200]}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no YAML: it is not in UTF-8") from error
    except _WRONG as error:
        raise UserError(f"{path} is no YAML: {error}"[:300]) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no fields of an experiment, such as trainer: {{train_steps: 100}}")
    return content


def override(params: cfg.ExperimentConfig, content: Mapping[str, Any], source: str, is_strict: bool = True) -> None:
    """Sets fields of an experiment.

    Args:
      params: The experiment.
      content: Sections and fields.
      source: Where they come from, for messages.
      is_strict: Unknown fields are refused.

    Raises:
      UserError: There is no such field.
    """
    try:
        params.override(dict(content), is_strict)
    except _WRONG as error:
        raise UserError(f"{source}: {_reason(error)}") from error


def override_by_text(params: cfg.ExperimentConfig, text: str) -> None:
    """Sets fields from `--params_override`: a file, YAML of one line, or `a.b=c,...`.

    Raises:
      UserError: It is none of these, or there is no such field.
    """
    text = unquoted(text)
    if os.path.isfile(text):
        override(params, read(text), text)
        return
    try:
        hyperparams.override_params_dict(params, text, is_strict=True)
    except tf.errors.OpError as error:
        raise UserError(
            f"params_override {text[:100]!r} is neither A.B=C,... nor YAML nor a file that can be read"
        ) from error
    except _WRONG as error:
        raise UserError(f"params_override: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What the Model Garden says; of a field that a config does not have, with those most alike, or all it has."""
    said = str(error.args[0] if error.args else type(error).__name__)
    found = re.match(r"The key '(.*)' does not exist in <class '(.*)'>", said)
    config: Any = pydoc.locate(found[2]) if found else None
    if found is None or config is None:
        return said[:400]
    fields = sorted(config().as_dict())
    alike = difflib.get_close_matches(found[1], fields)
    meant = f"did you mean {' or '.join(alike)}?" if alike else f"its fields are {', '.join(fields)}"
    return f"{config.__name__} has no field {found[1]!r}; {meant}"


def unquoted(text: str) -> str:
    """A value without the quotes of a shell, where no shell took them off; else the value itself."""
    if text[:1] not in ("'", '"') or os.path.exists(text):
        return text
    try:
        words = shlex.split(text)
    except ValueError:
        return text
    return words[0] if len(words) == 1 else text


class Parser(train_utils.ExperimentParser):
    """The Model Garden's, with the files read here."""

    def __init__(self, options: train_utils.ParseConfigOptions):
        super().__init__(options)
        self.options = options

    def parse_config_file(self, params: cfg.ExperimentConfig) -> cfg.ExperimentConfig:
        for given in self.options.config_file or []:
            path = unquoted(given)
            override(params, read(path), path)
        return params

    def parse_runtime(self, params: cfg.ExperimentConfig) -> cfg.ExperimentConfig:
        params = super().parse_runtime(params)
        if self.options.tpu is not None:  # By itself the address of a TPU leaves the training where it was.
            params.runtime.distribution_strategy = "tpu"
        return params

    def parse_params_override(self, params: cfg.ExperimentConfig) -> cfg.ExperimentConfig:
        if self.options.params_override:
            override_by_text(params, self.options.params_override)
        return params


def check_types(value: Any, default: Any, name: str = "") -> None:
    """Checks that every value of a config has the type of its field.

    Args:
      value: A config.
      default: The same config as it is registered: what it holds is right, whatever its field's type says.
      name: Of the config, for messages.

    Raises:
      UserError: One has another type.
    """
    hints = _hints(type(value))
    if isinstance(value, hyperparams.OneOfConfig):
        kinds = [field.name for field in dataclasses.fields(value) if field.name != "type"]
        if value.type is not None and value.type not in kinds:
            raise UserError(f"{name}.type is {value.type!r:.80}; allowed are {', '.join(kinds)}")
    for field in dataclasses.fields(value):
        item, usual = getattr(value, field.name), getattr(default, field.name, None)
        path = f"{name}.{field.name}" if name else field.name
        if dataclasses.is_dataclass(item):
            check_types(item, usual if type(usual) is type(item) else item, path)
        elif item != usual and not _suits(item, hints.get(field.name, Any)) and not _is_like(item, usual):
            raise UserError(f"{path} is {item!r:.80}; it must be {_in_words(hints.get(field.name), usual)}")


def _hints(kind: type) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError):
        return {}


def _suits(value: Any, hint: Any) -> bool:
    """Whether a value has a type, as far as this can tell."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_suits(value, part) for part in arguments)
    if hint is Any or isinstance(hint, (str, typing.TypeVar)):
        return True
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if issubclass(kind, Sequence) and kind is not str:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return False
        inner = [part for part in arguments if part is not Ellipsis]
        return all(any(_suits(item, part) for part in inner) for item in value) if inner else True
    if dataclasses.is_dataclass(kind):
        return isinstance(value, kind)
    return isinstance(value, kind)


def _is_like(value: Any, usual: Any) -> bool:
    """Whether a value has the type of a default, whose field may be declared as another."""
    if usual is None or dataclasses.is_dataclass(usual):
        return False
    if isinstance(usual, float):
        return _suits(value, float)
    if isinstance(usual, (list, tuple)):
        return isinstance(value, (list, tuple)) and bool(usual) and all(_is_like(item, usual[0]) for item in value)
    return type(value) is type(usual)


def _in_words(hint: Any, usual: Any) -> str:
    kinds = [part for part in (typing.get_args(hint) or (hint,)) if part in _WORDS] or [type(usual)]
    if dataclasses.is_dataclass(usual) or (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return "a section of fields"
    listed = typing.get_origin(hint) not in (typing.Union, types.UnionType, None)
    words = " or ".join(_WORDS.get(kind, "like its default") for kind in kinds)
    return f"a list, each {words}" if listed else words
