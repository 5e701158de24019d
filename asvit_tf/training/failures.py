"""Failures of a training whose cause lies outside of the program, explained in one line."""

from __future__ import annotations

import tensorflow as tf
from official.core import config_definitions as cfg

from asvit_tf import storage
from asvit_tf.dataloaders import inputs
from asvit_tf.errors import StoppedError, UserError
from asvit_tf.modeling import checkpoints

# As the allocators of TensorFlow, XLA and a TPU say it, in small letters.
_NO_MEMORY = ("oom when allocating", "out of memory", "failed to allocate", "attempting to reserve")
_UNDECODABLE = ("Invalid JPEG data", "Unknown image file format", "Invalid PNG data", "Input image is corrupt")


def reason(error: tf.errors.OpError) -> str:
    """What happened, without where in the graph it was noticed; at most 300 characters."""
    noise = ("Graph execution error", "Detected at", "File ", "<stack", "[[", "node ")
    lines = [line.strip() for line in error.message.splitlines()]
    lines = [line.split("[[")[0].strip() for line in lines if line and not line.startswith(noise)]
    return " ".join(lines[:2])[:300] or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the devices, or of this machine, did not suffice."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, (tf.errors.OpError, RuntimeError)) and any(words in said for words in _NO_MEMORY)
    )


def explained(error: Exception, params: cfg.ExperimentConfig, model_dir: str) -> Exception | None:
    """The exception to raise instead: StoppedError or UserError; None where the cause is not known.

    Args:
      error: What ended a training or an evaluation.
      params: The experiment.
      model_dir: Where it writes.
    """
    text = str(error)
    if is_out_of_memory(error):
        data = params.task.train_data
        return StoppedError(
            f"the memory does not suffice for batches of {data.global_batch_size} images; give fewer by --batch-size, "
            "to asvit train by task.train_data.global_batch_size, and to an evaluation by "
            "task.validation_data.global_batch_size"
        )
    unwritten = storage.write_error(error, model_dir)
    if isinstance(unwritten, StoppedError):
        newest = checkpoints.newest(model_dir)
        return StoppedError(f"{unwritten}: training continues from {newest or 'its first step'}")
    if unwritten is not None:
        return unwritten
    if inputs.LABEL_PROBLEM in text:
        return UserError(f"{inputs.LABEL_PROBLEM}; allowed are 0 to {params.task.model.num_classes - 1}")
    if any(words in text for words in _UNDECODABLE):
        return UserError(
            "an image of the data cannot be decoded; asvit prepare skips such files, and PNGs need "
            "decode_jpeg_only=false"
        )
    if isinstance(error, tf.errors.DataLossError):
        return UserError(f"the data are damaged: {reason(error)}")
    return None
