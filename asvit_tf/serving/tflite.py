"""A trained classifier as a TFLite model, quantized or not."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import sys
from collections.abc import Iterator

import tensorflow as tf
from official.core import config_definitions as cfg
from official.vision.ops import preprocess_ops
from official.vision.serving import export_tflite_lib

from asvit_tf.modeling import checkpoints
from asvit_tf.serving.modules import (
    LABELS_FILE,
    NamedClassificationModule,
    labels_text,
    serving_module,
    weights_alone,
)
from asvit_tf.storage import whole_file, write_text

_CALIBRATION_IMAGES = 100


def convert(module: NamedClassificationModule, quantization: str) -> bytes:
    """A TFLite model of `module.serve_pixels` for batches of any size.

    Args:
      module: With its weights restored.
      quantization: One of `TFLITE_TYPES`: "fp32" none, "fp16" weights in half precision, "int8" weights and features
        in 8 bits wherever TFLite can, calibrated on images of the experiment's training data.

    Returns:
      The file's contents.
    """
    pixels = tf.TensorSpec((None, *module.params.task.model.input_size[:2], 3), tf.float32, name="inputs")
    function = tf.function(module.serve_pixels, autograph=False).get_concrete_function(pixels)
    # Not the Model Garden's function: it drops the signature, and calibrates on images that are normalized already.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], weights_alone(module))
    if quantization != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.representative_dataset = functools.partial(_pixels, module.params)
    return converter.convert()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps off the screen what TFLite's converter and interpreter write to standard error past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def write(params: cfg.ExperimentConfig, checkpoint: str, path: str | os.PathLike, quantization: str = "fp32") -> None:
    """Writes the TFLite model of a checkpoint, whole or not at all, and beside it `labels.txt`: it holds no names.

    Args:
      params: The experiment that trained it, a classifier.
      checkpoint: Path of the checkpoint.
      path: Of the file.
      quantization: As of `convert`.

    Raises:
      UserError: There is no such checkpoint, or it is damaged or of another network.
    """
    tf.random.set_seed(params.task.seed or 0)  # See `export`.
    module = serving_module(params, "image_bytes")
    with checkpoints.damage_explained(checkpoint):
        checkpoints.initialize(module.model, checkpoint)
    with whole_file(path) as partial, open(partial, "wb") as file:
        file.write(convert(module, quantization))
    write_text(os.path.join(os.path.dirname(path), LABELS_FILE), labels_text(params))


def _pixels(params: cfg.ExperimentConfig) -> Iterator[list[tf.Tensor]]:
    """Training images one by one, not augmented, 0 to 255, as `serve_pixels` takes them."""
    params = copy.deepcopy(params)  # The Model Garden's function changes it.
    data = params.task.train_data
    data.is_training, data.mixup_and_cutmix, data.drop_remainder = False, None, False
    offset, scale = (tf.constant(values) for values in (preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB))
    for (image,) in export_tflite_lib.representative_dataset(params, calibration_steps=_CALIBRATION_IMAGES):
        yield [image * scale + offset]
