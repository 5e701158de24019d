"""Classifies image files with an exported SavedModel. Needs TensorFlow and Pillow only.

A SavedModel decodes images with TensorFlow, which knows no EXIF and fewer formats; so images come in by the door.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from asvit_tf.dataloaders.imagefiles import door
from asvit_tf.dataloaders.imagefiles.skipped import Skipped
from asvit_tf.errors import UserError
from asvit_tf.storage import readable_directory

_BATCH = 32  # Images that are asked about at a time: thousands do not fit into memory.


def read_image(path: str) -> bytes:
    """The image, upright by EXIF, in a form that every SavedModel decodes.

    Raises:
      UserError: It cannot be read, or is no image.
    """
    try:
        return door.read(path)
    except door.UnreadableError as error:
        raise UserError(f"cannot read {path}: {error}; expected an image file") from error


def read_images(paths: Sequence[str]) -> tuple[dict[str, bytes], Skipped]:
    """Images by path, and which are skipped.

    Raises:
      UserError: None can be read; the message is about the first.
    """
    images, skipped = {}, []
    for path in dict.fromkeys(paths):
        try:
            images[path] = door.read(path)
        except door.UnreadableError as error:
            skipped.append((path, str(error)))
    if not images:
        read_image(paths[0])
    return images, Skipped.of(skipped)


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
        loaded = tf.saved_model.load(readable_directory(saved_model))
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


def names_in(answer: Mapping[str, tf.Tensor]) -> list[str]:
    """The class names of an answer, [B, K]; of a SavedModel of an earlier version [K]."""
    names = answer["class_names"].numpy()
    return [name.decode() for name in names.reshape(-1, names.shape[-1])[0]]


def predict(saved_model: str, paths: Sequence[str]) -> tuple[list[dict[str, Any]], Skipped]:
    """Class probabilities of image files.

    Args:
      saved_model: Directory that `export` wrote with input type "image_bytes".
      paths: Image files, at least one.

    Returns:
      One dict for each file that can be read: `image`, `label` (the likeliest class) and `probabilities` (by class
      name); and the others.

    Raises:
      UserError: No such SavedModel, or no file is an image. Every file is read before the model is loaded.
    """
    check_saved_model(saved_model)
    images, skipped = read_images(paths)
    paths = [path for path in paths if path in images]
    serve = load_serving(saved_model, {"probs", "class_names", "label"}, "classify")
    answers = []
    for start in range(0, len(paths), _BATCH):
        some = paths[start : start + _BATCH]
        answer = serve(inputs=tf.constant([images[path] for path in some]))
        names = names_in(answer)
        answers += [
            dict(image=path, label=label.decode(), probabilities=dict(zip(names, map(float, row))))
            for path, label, row in zip(some, answer["label"].numpy(), answer["probs"].numpy())
        ]
    return answers, skipped
