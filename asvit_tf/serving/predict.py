"""Classifies image files with an exported SavedModel. Needs TensorFlow only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from asvit_tf.errors import UserError


def read_image(path: str) -> bytes:
    """The encoded image.

    Raises:
      UserError: There is no such file, it is empty, or it is no image.
    """
    try:
        encoded = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not encoded:
        raise UserError(f"{path} is empty; expected a JPEG, PNG, BMP or GIF image")
    try:
        tf.io.decode_image(encoded, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        raise UserError(f"{path} is not an image that can be decoded; expected JPEG, PNG, BMP or GIF") from error
    return encoded


def check_saved_model(saved_model: str) -> None:
    """Refuses, before long work, what is no SavedModel.

    Raises:
      UserError: It is none.
    """
    if not os.path.exists(os.path.join(saved_model, "saved_model.pb")):
        raise UserError(f"{saved_model} is not a SavedModel; expected a directory with saved_model.pb")


def load_serving(saved_model: str, outputs: set[str], does: str) -> Callable[..., Mapping[str, tf.Tensor]]:
    """The serving signature of a SavedModel that takes encoded images.

    Args:
      saved_model: Directory that `check_saved_model` has passed.
      outputs: What its answer has to hold.
      does: What it is for, for the message.

    Raises:
      UserError: It is no such SavedModel.
    """
    try:
        loaded = tf.saved_model.load(saved_model)
        serve = loaded.signatures["serving_default"]
        if serve.structured_input_signature[1]["inputs"].dtype != tf.string:
            raise KeyError("inputs")
        if not outputs <= set(serve.structured_outputs):
            raise KeyError("outputs")
    except (KeyError, OSError, ValueError, AttributeError, tf.errors.OpError) as error:
        raise UserError(
            f"{saved_model} does not {does} encoded images; expected what asvit export --input-type image_bytes writes"
        ) from error
    serve.keep_alive = loaded  # A signature alone does not keep the variables.
    return serve


def predict(saved_model: str, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Class probabilities of image files.

    Args:
      saved_model: Directory that `export` wrote with input type "image_bytes".
      paths: Image files, at least one.

    Returns:
      One dict for each file: `image`, `label` (the likeliest class) and `probabilities` (by class name).

    Raises:
      UserError: No such SavedModel, or a file is not an image. Every file is checked before the model is loaded.
    """
    check_saved_model(saved_model)
    encoded = [read_image(path) for path in paths]
    answer = load_serving(saved_model, {"probs", "class_names", "label"}, "classify")(inputs=tf.constant(encoded))
    names = [name.decode() for name in answer["class_names"].numpy()]
    return [
        dict(image=path, label=label.decode(), probabilities=dict(zip(names, map(float, row))))
        for path, label, row in zip(paths, answer["label"].numpy(), answer["probs"].numpy())
    ]
