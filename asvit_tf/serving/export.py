"""Exports a trained network as a SavedModel, a classifier also for TFLite, that need nothing of this package."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import yaml
from official.core import config_definitions as cfg
from official.modeling import hyperparams
from official.vision.ops import preprocess_ops
from official.vision.serving import detection as detection_serving
from official.vision.serving import export_saved_model_lib, export_tflite_lib, image_classification
from official.vision.serving import semantic_segmentation as segmentation_serving

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.errors import UserError
from asvit_tf.modeling import checkpoints
from asvit_tf.precision import mixed_precision
from asvit_tf.storage import whole_directory
from asvit_tf.tasks import classification, classification_checks, detection, segmentation

TFLITE_FILE = "model.tflite"
_CALIBRATION_IMAGES = 100


class NamedClassificationModule(image_classification.ClassificationModule):
    """The Model Garden's serving module, whose answer also names the classes."""

    def _decode_image(self, encoded_image_bytes):
        """Decodes, crops and resizes one image to float32, as the training pipeline does.

        The Model Garden's own module cuts the resized image to uint8 here, which training never sees.
        """
        image = tf.io.decode_image(encoded_image_bytes, channels=self._num_channels, expand_animations=False)
        return self._crop_and_resize(tf.cast(image, tf.float32))

    def _serve_each(self, decode, inputs):
        """Decodes every element of [B] strings, then answers the batch."""
        decoded = tf.TensorSpec((*self._input_image_size, self._num_channels), tf.float32)
        return self.serve(tf.map_fn(decode, inputs, fn_output_signature=decoded))

    @tf.function
    def inference_from_image_bytes(self, inputs):
        return self._serve_each(self._decode_image, inputs)

    @tf.function
    def inference_from_tf_example(self, inputs):
        return self._serve_each(self._decode_tf_example, inputs)

    def serve(self, images):
        """Answers a batch.

        Args:
          images: [B, H, W, 3], 0 to 255.

        Returns:
          `logits` and `probs` [B, classes], `class_names` [classes], and `label` [B], the name of the likeliest class.
        """
        answer = super().serve(images)
        names = tf.constant(class_names(self.params))
        answer["class_names"] = names
        answer["label"] = tf.gather(names, tf.argmax(answer["probs"], axis=-1))
        return answer

    def serve_pixels(self, inputs):
        """Answers a batch of whole images of the model's own size, for TFLite: no decoding, no loop, no strings.

        Args:
          inputs: [B, H, W, 3] float32, 0 to 255.

        Returns:
          `logits` and `probs` [B, classes].
        """
        images = preprocess_ops.normalize_image(inputs, offset=preprocess_ops.MEAN_RGB, scale=preprocess_ops.STDDEV_RGB)
        logits = self.inference_step(images)
        multilabel = self.params.task.train_data.is_multilabel
        return {"logits": logits, "probs": tf.sigmoid(logits) if multilabel else tf.nn.softmax(logits)}


class _EachResized:
    """Part of a serving module: encoded images of a batch may differ in size.

    Each is resized as soon as it is decoded, where the Model Garden's own modules stack them before.
    """

    def _decode_image(self, encoded_image_bytes):
        return tf.io.decode_image(encoded_image_bytes, channels=self._num_channels, expand_animations=False)

    def _build_inputs(self, image):
        """Resizes and normalizes one image, [H, W, 3] or encoded."""
        if image.dtype == tf.string:
            image = tf.ensure_shape(self._decode_image(image), (None, None, self._num_channels))
        return super()._build_inputs(image)

    @tf.function
    def inference_from_image_bytes(self, inputs):
        return self.serve(inputs)

    @tf.function
    def inference_from_tf_example(self, inputs):
        features = {"image/encoded": tf.io.FixedLenFeature((), tf.string)}
        return self.serve(tf.io.parse_example(inputs, features)["image/encoded"])


class NamedDetectionModule(_EachResized, detection_serving.DetectionModule):
    """The Model Garden's serving module for detectors, whose answer also names the classes."""

    def serve(self, images):
        """Answers a batch.

        Args:
          images: [B, H, W, 3], 0 to 255, or [B] encoded.

        Returns:
          `detection_boxes` [B, N, 4] (top, left, bottom, right, in pixels of the resized image),
          `detection_scores` and `detection_classes` [B, N], best first, `num_detections` [B]; `detection_masks`
          [B, N, m, m], probabilities inside each box, if the network has masks; `image_info` [B, 4, 2], whose third row
          is the resized image's scale; and `class_names` [classes].
        """
        return {**super().serve(images), "class_names": tf.constant(class_names(self.params))}


class NamedSegmentationModule(_EachResized, segmentation_serving.SegmentationModule):
    """The Model Garden's serving module for segmentation, whose answer also says the likeliest class, and names all."""

    def serve(self, images):
        """Answers a batch.

        Args:
          images: [B, h, w, 3], 0 to 255, or [B] encoded.

        Returns:
          `logits` [B, H, W, classes] and `classes` [B, H, W], the likeliest class of every pixel of the resized image;
          `image_info` [B, 4, 2], whose third row is the resized image's scale; and `class_names` [classes].
        """
        answer = super().serve(images)
        likeliest = tf.argmax(answer["logits"], axis=-1, output_type=tf.int32)
        return {**answer, "classes": likeliest, "class_names": tf.constant(class_names(self.params))}


# By a part of the model that only this kind of task has: its config, and its module.
_KINDS: dict[str, tuple[Any, Any]] = {
    "roi_generator": (detection.CascadeRCNNTask, NamedDetectionModule),
    "anchor": (detection.RetinaNetTask, NamedDetectionModule),
    "mask_scoring_head": (segmentation.SegmentationTask, NamedSegmentationModule),
    "kernel_initializer": (classification.ClassificationTask, NamedClassificationModule),
}


def read_params(model_dir: str) -> cfg.ExperimentConfig:
    """The experiment that a training in `model_dir` wrote down.

    Raises:
      UserError: There is none.
    """
    path = os.path.join(model_dir, "params.yaml")
    if not tf.io.gfile.exists(path):
        raise UserError(f"no params.yaml in {model_dir}; expected a directory that training wrote")
    try:
        with tf.io.gfile.GFile(path) as file:
            # The Model Garden's reader takes a class name such as 1e3 for a number; this one leaves words as they are.
            task = yaml.load(file, Loader=yaml.BaseLoader)["task"]
        kind = next(kind for part, (kind, _) in _KINDS.items() if part in task["model"])
        params = cfg.ExperimentConfig(task=kind())
        params = hyperparams.override_params_dict(params, path, is_strict=False)
        params.task.class_names = task["class_names"]
    except (yaml.YAMLError, KeyError, TypeError, ValueError, StopIteration) as error:
        raise UserError(f"{path} is not what training writes: {error}") from error
    return params


def class_names(params: cfg.ExperimentConfig) -> list[str]:
    """The task's class names; the numbers from 0 where it gives none."""
    count = params.task.model.num_classes
    names = list(params.task.class_names) or [str(label) for label in range(count)]
    if len(names) != count:
        raise UserError(f"the task has {count} classes but {len(names)} class_names")
    return names


def serving_module(params: cfg.ExperimentConfig, input_type: str) -> Any:
    """The module that `export` saves, in float32; call `serve` on it for the same answers in Python."""
    module = next(module for task, module in _KINDS.values() if isinstance(params.task, task))
    with mixed_precision(None):
        return module(
            params=params,
            batch_size=None,  # Any; a fixed 1 would silently answer the first image only.
            input_image_size=list(params.task.model.input_size[:2]),
            input_type=input_type,
        )


def tflite(module: NamedClassificationModule, quantization: str) -> bytes:
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


def export(
    params: cfg.ExperimentConfig,
    model_dir: str,
    export_dir: str,
    input_type: str = "image_bytes",
    tflite_type: str | None = None,
    checkpoint: str | None = None,
) -> str:
    """Writes the SavedModel of the newest checkpoint, complete or not at all.

    Where training averaged the weights, that is the newest checkpoint of the averages.

    Args:
      params: The experiment that trained it.
      model_dir: Its checkpoints.
      export_dir: Where the SavedModel goes; an older one there is replaced.
      input_type: "image_bytes" (encoded images), "image_tensor" (uint8 [B, H, W, 3]) or "tf_example".
      checkpoint: Another checkpoint instead, or a directory of some, such as that of the best.
      tflite_type: One of `TFLITE_TYPES`: write `model.tflite` into the directory too.

    Returns:
      `export_dir`.

    Raises:
      UserError: There is no checkpoint, it is damaged, or something else than a SavedModel is in the way.
      StoppedError: The disk is full.
    """
    if tf.io.gfile.exists(export_dir) and not tf.io.gfile.exists(os.path.join(export_dir, "saved_model.pb")):
        raise UserError(f"{export_dir} exists and is not a SavedModel; choose another export directory")
    if tflite_type is not None and not isinstance(params.task, classification.ClassificationTask):
        raise UserError("TFLite is for classifiers here; other networks are exported as a SavedModel")
    checkpoint = _checkpoint(params, model_dir, checkpoint)
    if tflite_type == "int8":
        classification_checks.check(params.task, "train_data")  # It calibrates with it.
    module = serving_module(params, input_type)
    with whole_directory(export_dir) as partial, checkpoints.damage_explained(checkpoint):
        export_saved_model_lib.export_inference_graph(
            input_type=input_type,
            batch_size=None,
            input_image_size=list(params.task.model.input_size[:2]),
            params=params,
            checkpoint_path=checkpoint,
            export_dir=partial,
            export_module=module,
        )
        if tflite_type is not None:
            with tf.io.gfile.GFile(os.path.join(partial, TFLITE_FILE), "wb") as file:
                file.write(tflite(module, tflite_type))
    return export_dir


def _checkpoint(params: cfg.ExperimentConfig, model_dir: str, given: str | None) -> str:
    """Path of the checkpoint to export."""
    if given is not None and not tf.io.gfile.isdir(given):
        if not tf.io.gfile.exists(given + ".index"):
            raise UserError(f"no checkpoint at {given}")
        return given
    place = given or model_dir
    averaged = given is None and params.trainer.optimizer_config.ema is not None
    if averaged:
        place = os.path.join(model_dir, "ema_checkpoints")
    newest = tf.train.latest_checkpoint(place)
    if newest is None and averaged and tf.train.latest_checkpoint(model_dir) is not None:
        raise UserError(
            f"training averages the weights, and an evaluation saves the averages, but there are none in {place}; run "
            f"asvit evaluate first, or give --checkpoint {model_dir} for the weights that are not averaged"
        )
    if newest is None:
        raise UserError(f"no checkpoint in {place}; train first")
    return newest
