"""What a SavedModel computes: the Model Garden's serving modules, answers with names, every image resized alone.

TensorFlow decodes the images, and it knows no EXIF: whoever calls a SavedModel has to set photographs upright before,
as `asvit predict` and `asvit detect` do.
"""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.vision.ops import preprocess_ops
from official.vision.serving import detection as detection_serving
from official.vision.serving import export_base, image_classification
from official.vision.serving import semantic_segmentation as segmentation_serving

from asvit_tf.errors import UserError
from asvit_tf.precision import mixed_precision
from asvit_tf.tasks import classification, detection, segmentation

LABELS_FILE = "labels.txt"
_AT_ONCE = 4  # Images decoded and resized at a time: one of 48 megapixels has 144 MB.


def class_names(params: cfg.ExperimentConfig) -> list[str]:
    """The task's class names; the numbers from 0 where it gives none."""
    count = params.task.model.num_classes
    names = list(params.task.class_names) or [str(label) for label in range(count)]
    if len(names) != count:
        raise UserError(f"the task has {count} classes but {len(names)} class_names")
    return names


def labels_text(params: cfg.ExperimentConfig) -> str:
    """`labels.txt`, which goes beside models: a class name a line, by label; those of several lines are put in one."""
    return "".join(re.sub(r"[\r\n]+", " ", name) + "\n" for name in class_names(params))


def _names_for_each(params: cfg.ExperimentConfig, images: tf.Tensor) -> tf.Tensor:
    """The class names once for each of a batch of images, [B, classes].

    TensorFlow Serving deals an answer out by images: it refuses outputs that have not as many rows, in its row format
    and where it batches requests.
    """
    return tf.tile(tf.constant(class_names(params))[tf.newaxis], [tf.shape(images)[0], 1])


def _as_stored(image: tf.Tensor, side: int | None) -> tf.Tensor:
    """One image [H, W, 3] uint8 as `imagefiles.reduced` stores it; as it is where `side` is None."""
    if side is None:
        return image
    size = tf.shape(image)[:2]
    shorter = tf.reduce_min(size)
    target = tf.maximum(side, (2 * size * side + shorter) // (2 * shorter))
    return tf.cond(shorter > side, lambda: _reduced(image, target), lambda: image)


def _within(image: tf.Tensor, pixels: int) -> tf.Tensor:
    """One image [H, W, 3] uint8 as `imagefiles.reduced.within` stores it."""
    size = tf.cast(tf.shape(image)[:2], tf.float64)  # Exact, and so is what is rounded: the sizes are Python's.
    present = tf.reduce_prod(size)
    target = tf.maximum(1, tf.cast(size * tf.sqrt(pixels / present), tf.int32))
    return tf.cond(present > pixels, lambda: _reduced(image, target), lambda: image)


def _reduced(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(tf.image.resize(image, size, antialias=True)), tf.uint8)


class NamedClassificationModule(image_classification.ClassificationModule):
    """The Model Garden's serving module, whose answer also names the classes."""

    def _crop_and_resize(self, image):
        """One image [H, W, 3] as an evaluation sees it; the Model Garden's own module cuts where training does."""
        image = _as_stored(image, self.params.task.stored_side)
        data = self.params.task.validation_data
        if data.aug_crop:
            image = preprocess_ops.center_crop_image(image, data.center_crop_fraction)
        # Whole numbers until here: as real ones, a large image would take four times the memory.
        resized = tf.image.resize(image, self._input_image_size, method=data.tf_resize_method)
        return tf.reshape(tf.cast(resized, tf.float32), [*self._input_image_size, 3])

    def _decode_image(self, encoded_image_bytes):
        """Decodes, crops and resizes one image to float32, as the training pipeline does.

        The Model Garden's own module cuts the resized image to uint8 here, which training never sees.
        """
        image = tf.io.decode_image(encoded_image_bytes, channels=self._num_channels, expand_animations=False)
        return self._crop_and_resize(image)

    def _build_inputs(self, image):
        """Normalizes one image, which decoding has resized already where it was encoded."""
        is_whole = self._input_type == "image_tensor"
        image = self._crop_and_resize(image) if is_whole else tf.cast(image, tf.float32)
        return preprocess_ops.normalize_image(image, preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB)

    def _serve_each(self, decode, inputs):
        """Decodes every element of [B] strings, then answers the batch."""
        decoded = tf.TensorSpec((*self._input_image_size, self._num_channels), tf.float32)
        images = tf.map_fn(decode, inputs, fn_output_signature=decoded, parallel_iterations=_AT_ONCE)
        return self.serve(images)

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
          `logits`, `probs` and `class_names` [B, classes], and `label` [B], the name of the likeliest class.
        """
        answer = super().serve(images)
        label = tf.gather(tf.constant(class_names(self.params)), tf.argmax(answer["probs"], axis=-1))
        return {**answer, "class_names": _names_for_each(self.params, images), "label": label}

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


class _EachResized(export_base.ExportModule):
    """Part of a serving module: encoded images of a batch may differ in size.

    Each is resized as soon as it is decoded, where the Model Garden's own modules stack them before. A large one is
    reduced first as training photographs were (`task.stored_pixels`), while it is whole numbers.
    """

    def _decode_image(self, encoded_image_bytes):
        return tf.io.decode_image(encoded_image_bytes, channels=self._num_channels, expand_animations=False)

    def _build_inputs(self, image):
        """Resizes and normalizes one image, [H, W, 3] or encoded."""
        if image.dtype == tf.string:
            image = tf.ensure_shape(self._decode_image(image), (None, None, self._num_channels))
        pixels = self.params.task.stored_pixels
        if pixels is None:
            return super()._build_inputs(image)
        small = _within(image, pixels)
        *inputs, info = super()._build_inputs(small)
        return (*inputs, _of_own_size(info, tf.shape(image)[:2]))

    @tf.function
    def inference_from_image_bytes(self, inputs):
        return self.serve(inputs)

    @tf.function
    def inference_from_tf_example(self, inputs):
        features = {"image/encoded": tf.io.FixedLenFeature((), tf.string)}
        return self.serve(tf.io.parse_example(inputs, features)["image/encoded"])


def _of_own_size(image_info: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """`image_info` [4, 2] of an image that was reduced before, for the image itself, whose rows and columns are `size`.

    The resized image is `scale` times the reduced one, so `scale * reduced / size` times the image.
    """
    reduced, target, scale, offset = tf.unstack(image_info)
    own = tf.cast(size, tf.float32)
    return tf.stack([own, target, scale * reduced / own, offset])


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
          is the resized image's scale; and `class_names` [B, classes].
        """
        return {**super().serve(images), "class_names": _names_for_each(self.params, images)}


class NamedSegmentationModule(_EachResized, segmentation_serving.SegmentationModule):
    """The Model Garden's serving module for segmentation, whose answer also says the likeliest class, and names all."""

    def serve(self, images):
        """Answers a batch.

        Args:
          images: [B, h, w, 3], 0 to 255, or [B] encoded.

        Returns:
          `logits` [B, H, W, classes] and `classes` [B, H, W], the likeliest class of every pixel of the resized image;
          `image_info` [B, 4, 2], whose third row is the resized image's scale; and `class_names` [B, classes].
        """
        answer = super().serve(images)
        likeliest = tf.argmax(answer["logits"], axis=-1, output_type=tf.int32)
        return {**answer, "classes": likeliest, "class_names": _names_for_each(self.params, images)}


# By a part of the model that only this kind of task has: its config, and its module.
KINDS: dict[str, tuple[Any, Any]] = {
    "roi_generator": (detection.CascadeRCNNTask, NamedDetectionModule),
    "anchor": (detection.RetinaNetTask, NamedDetectionModule),
    "mask_scoring_head": (segmentation.SegmentationTask, NamedSegmentationModule),
    "kernel_initializer": (classification.ClassificationTask, NamedClassificationModule),
}


def serving_module(params: cfg.ExperimentConfig, input_type: str) -> Any:
    """The module that `export` saves, in float32; call `serve` on it for the same answers in Python."""
    module = next(module for task, module in KINDS.values() if isinstance(params.task, task))
    with mixed_precision(None):
        return module(
            params=params,
            batch_size=None,  # Any; a fixed 1 would silently answer the first image only.
            input_image_size=list(params.task.model.input_size[:2]),
            input_type=input_type,
        )


def weights_alone(module: Any) -> tf.Module:
    """What a SavedModel of a serving module has to hold beside its signatures: `weights`, the model's variables.

    The Model Garden saves the module as it is. TensorFlow then traces every Keras layer in it four times, so that Keras
    could build the model again from the SavedModel, which takes far longer than the signature itself.
    """
    kept = tf.Module()
    kept.weights = list(module.model.variables)
    return kept
