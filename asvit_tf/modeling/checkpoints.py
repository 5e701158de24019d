"""Weights of a checkpoint into a model, with an account of every variable.

TensorFlow's own reader loads what matches and is silent about the rest, or fails at the first difference. Here a
checkpoint is matched with the model by the object graph that is stored in it, the position embedding is resized to the
model's image size, and whatever else differs is named before anything is assigned.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow.core.protobuf import trackable_object_graph_pb2

from asvit_tf.errors import UserError
from asvit_tf.modeling.layers import PositionEmbedding, interpolation_matrix
from asvit_tf.storage import readable_directory, write_error

Graph: TypeAlias = trackable_object_graph_pb2.TrackableObjectGraph

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Where each choice of modules lies below a checkpoint's root: the trainer's checkpoints hold the model, others may hold
# a backbone alone.
_PLACES = {"all": (("model",),), "backbone": (("model", "backbone"), ("backbone",))}
MODULES = tuple(_PLACES)


def newest(directory: str | os.PathLike) -> str | None:
    """The newest checkpoint of a directory; None if there is none.

    TensorFlow's own function takes the directory's name for a pattern, and finds none in one with brackets.
    """
    state = tf.train.get_checkpoint_state(os.fspath(directory))
    path = state.model_checkpoint_path if state else ""
    return path if path and tf.io.gfile.exists(path + ".index") else None


def readable(path: str) -> str:
    """The same checkpoint by a name that TensorFlow can read (see `storage.readable_directory`)."""
    directory, name = os.path.split(path)
    return os.path.join(readable_directory(directory), name)


def files_of(path: str) -> list[str]:
    """The files of a checkpoint."""
    directory, name = os.path.split(path)
    if not tf.io.gfile.isdir(directory):
        return []
    return [os.path.join(directory, file) for file in tf.io.gfile.listdir(directory) if file.startswith(f"{name}.")]


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every variable, by name.

    Attributes:
      loaded: Taken over as they are.
      resized: Position embeddings of another image size.
      unused: In this part of the checkpoint, without a place in the model.
    """

    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} variables loaded"]
        if self.resized:
            parts.append(f"resized to this image size: {', '.join(self.resized)}")
        parts.append(f"not used: {', '.join(self.unused) or 'none'}")
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A variable and the tensor of the checkpoint that belongs to it."""

    name: str
    variable: tf.Variable
    key: str
    resizes: bool


def initialize(model: tf.Module, path: str, modules: str = "all") -> Report:
    """Loads a checkpoint into a model, all of it or nothing.

    Args:
      model: A built model, with a `backbone` if that is asked for.
      path: Checkpoint, or a directory with checkpoints, of which the newest is taken.
      modules: "all" or "backbone".

    Raises:
      UserError: There is no checkpoint, it does not hold these modules, or a variable of the model is missing in it or
        has another shape there.
    """
    if modules not in MODULES:
        raise UserError(f"unknown init_checkpoint_modules {modules!r}; allowed are {', '.join(MODULES)}")
    reader, graph = _open(path)
    target = model.backbone if modules == "backbone" else model
    nodes = [node for place in _PLACES[modules] if (node := _below_root(graph, place)) is not None]
    if not nodes:
        raise UserError(f"the checkpoint {path} holds no {modules if modules != 'all' else 'model'}")
    pairs = list(_pairs(graph, nodes[0], target))
    shapes = reader.get_variable_to_shape_map()
    _refuse_differences(pairs, target, shapes, path)
    resized = tuple(pair.name for pair in pairs if tuple(shapes[pair.key]) != tuple(pair.variable.shape))
    for pair in pairs:
        value = reader.get_tensor(pair.key)
        pair.variable.assign(resize_grid(value, pair.variable.shape[1:3]) if pair.name in resized else value)
    used = {pair.key for pair in pairs}
    return Report(
        loaded=tuple(pair.name for pair in pairs if pair.name not in resized),
        resized=resized,
        unused=tuple(sorted(name for name, key in _tensors(graph, nodes[0]) if key not in used)),
    )


@contextlib.contextmanager
def damage_explained(path: str | None) -> Iterator[None]:
    """Turns errors of reading a checkpoint, in a `with` block, into one line.

    Raises:
      UserError: It cannot be read to its end.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError, IndexError) as error:
        if write_error(error, "") is not None:
            raise  # A full disk may be an OutOfRangeError, too.
        raise _damaged(path) from error


def _damaged(path: str | None) -> UserError:
    state = os.path.join(os.path.dirname(path or ""), "checkpoint")
    return UserError(
        f"the checkpoint {path} is damaged; write the name of an older one into the file {state} to go on from there"
    )


def step_of(path: str) -> int:
    """Steps that were trained when the trainer saved a checkpoint; its name ends with them."""
    return int(path.rsplit("-", 1)[1])


def check_readable(path: str) -> None:
    """Refuses, before anything is built, a checkpoint that is not there or damaged.

    Raises:
      UserError: It is.
    """
    _open(path)


def check_resumable(model: tf.Module, optimizer: tf_keras.optimizers.Optimizer, path: str) -> None:
    """Refuses to continue a training from a checkpoint of another network or another optimizer.

    Args:
      model: A built model.
      optimizer: The optimizer; its moments exist already.
      path: The trainer's checkpoint.

    Raises:
      UserError: A variable of the model is missing in it or has another shape there, or a kind of moment is missing.
    """
    reader, graph = _open(path)
    node = _below_root(graph, _PLACES["all"][0])
    pairs = [] if node is None else [dataclasses.replace(pair, resizes=False) for pair in _pairs(graph, node, model)]
    _refuse_differences(pairs, model, reader.get_variable_to_shape_map(), path)
    there = {slot.slot_name for node in graph.nodes for slot in node.slot_variables}
    missing = [name for name in _moments(optimizer) if name not in there]
    if missing:
        raise UserError(
            f"the checkpoint {path} has no {' and '.join(missing)} of the optimizer: it was trained with another one; "
            "use that, or start from its weights in a new model_dir with task.init_checkpoint"
        )


def _moments(optimizer: tf_keras.optimizers.Optimizer) -> list[str]:
    """Names of the kinds of moments an optimizer keeps, and those of one that it wraps."""
    inner = getattr(optimizer, "_optimizer", None)
    names = list(optimizer.get_slot_names()) if hasattr(optimizer, "get_slot_names") else []
    return names + (_moments(inner) if inner is not None else [])


def _open(path: str) -> tuple[Any, Graph]:
    """Reader and object graph of a checkpoint, or of the newest in a directory."""
    found = newest(path) if tf.io.gfile.isdir(path) else path
    try:
        reader = tf.train.load_checkpoint(readable(found or path))
        graph = Graph.FromString(reader.get_tensor(_OBJECT_GRAPH))
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        there = found is not None and tf.io.gfile.exists(found + ".index")
        raise (_damaged(found) if there else UserError(f"no checkpoint at {path}")) from error
    return reader, graph


def _below_root(graph: Graph, names: tuple[str, ...]) -> int | None:
    """Index of the node at a path below the checkpoint's root."""
    node = 0
    for name in names:
        children = {child.local_name: child.node_id for child in graph.nodes[node].children}
        if name not in children:
            return None
        node = children[name]
    return node


def _key(graph: Graph, node: int) -> str | None:
    """Where the checkpoint keeps a node's value, if it is a variable."""
    keys = [item.checkpoint_key for item in graph.nodes[node].attributes if item.name == "VARIABLE_VALUE"]
    return keys[0] if keys else None


def _pairs(graph: Graph, node: int, target: tf.Module | tf.Variable) -> Iterator[_Pair]:
    """Walks the checkpoint's objects and the model's side by side, along children of the same name."""
    seen: set[int] = set()
    waiting = [(node, target, "", None)]
    while waiting:
        node, item, name, parent = waiting.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        key = _key(graph, node)
        if key is not None and isinstance(item, tf.Variable):
            yield _Pair(name, item, key, isinstance(parent, PositionEmbedding))
            continue
        children = tf.train.TrackableView.children(item)
        for child in graph.nodes[node].children:
            if child.local_name in children:
                path = f"{name}/{child.local_name}".lstrip("/")
                waiting.append((child.node_id, children[child.local_name], path, item))


def _tensors(graph: Graph, node: int) -> Iterator[tuple[str, str]]:
    """Name and key of every variable below a node of the checkpoint, the optimizer's moments of them left out."""
    seen: set[int] = set()
    waiting = [(node, "")]
    while waiting:
        node, name = waiting.pop(0)
        if node in seen:
            continue
        seen.add(node)
        key = _key(graph, node)
        if key is not None:
            yield name, key
        waiting += [(child.node_id, f"{name}/{child.local_name}".lstrip("/")) for child in graph.nodes[node].children]


def _refuse_differences(pairs: list[_Pair], target: tf.Module, shapes: Mapping[str, Sequence[int]], path: str) -> None:
    """Raises unless all of the model is served; `shapes` are those of the checkpoint, by key."""
    problems = []
    for pair in pairs:
        there, here = tuple(shapes[pair.key]), tuple(pair.variable.shape)
        if there != here and not (pair.resizes and there[-1:] == here[-1:]):
            problems.append(f"{pair.name} has shape {there} there, {here} here")
    paired = {id(pair.variable) for pair in pairs}
    problems += [f"{variable.name} is missing there" for variable in target.variables if id(variable) not in paired]
    if problems or not pairs:
        raise UserError(
            f"the checkpoint {path} is of another network: {'; '.join(problems[:3]) or 'nothing in it fits'}"
            + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        )


def resize_grid(embedding: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """A position embedding [1, rows, columns, C] for another grid, as `PositionEmbedding` itself would resize it."""
    rows, columns = (interpolation_matrix(*sides) for sides in zip(grid, embedding.shape[1:3]))
    return np.einsum("yr,xc,brcd->byxd", rows, columns, embedding).astype(embedding.dtype)
