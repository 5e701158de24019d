"""Classifies image files with an exported SavedModel. Needs TensorFlow only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from asvit_tf.errors import UserError


def _read(path: str) -> bytes:
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
    if not os.path.exists(os.path.join(saved_model, "saved_model.pb")):
        raise UserError(f"{saved_model} is not a SavedModel; expected a directory with saved_model.pb")
    encoded = [_read(path) for path in paths]
    try:
        loaded = tf.saved_model.load(saved_model)
        serve = loaded.signatures["serving_default"]
        inputs = serve.structured_input_signature[1]
        if inputs["inputs"].dtype != tf.string or not {"probs", "class_names", "label"} <= set(
            serve.structured_outputs
        ):
            raise KeyError("signature")
        answer = serve(inputs=tf.constant(encoded))
    except (KeyError, OSError, ValueError, AttributeError, tf.errors.OpError) as error:
        raise UserError(
            f"{saved_model} does not classify encoded images; "
            "expected what asvit export --input-type image_bytes writes"
        ) from error
    names = [name.decode() for name in answer["class_names"].numpy()]
    return [
        dict(image=path, label=label.decode(), probabilities=dict(zip(names, map(float, row))))
        for path, label, row in zip(paths, answer["label"].numpy(), answer["probs"].numpy())
    ]
