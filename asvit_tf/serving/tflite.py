"""A trained classifier as a TFLite model, quantized or not."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator

import tensorflow as tf
from official.core import config_definitions as cfg
from official.vision.ops import preprocess_ops
from official.vision.serving import export_tflite_lib

from asvit_tf.serving.modules import NamedClassificationModule

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
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if quantization != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.representative_dataset = functools.partial(_pixels, module.params)
    return converter.convert()


def _pixels(params: cfg.ExperimentConfig) -> Iterator[list[tf.Tensor]]:
    """Training images one by one, not augmented, 0 to 255, as `serve_pixels` takes them."""
    params = copy.deepcopy(params)  # The Model Garden's function changes it.
    data = params.task.train_data
    data.is_training, data.mixup_and_cutmix, data.drop_remainder = False, None, False
    offset, scale = (tf.constant(values) for values in (preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB))
    for (image,) in export_tflite_lib.representative_dataset(params, calibration_steps=_CALIBRATION_IMAGES):
        yield [image * scale + offset]
