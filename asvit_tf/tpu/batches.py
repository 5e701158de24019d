"""What a training step takes on one chip: the shapes and types of a batch, without any data."""

from __future__ import annotations

import tempfile
from typing import Any

import tensorflow as tf
from official.core import base_task
from official.core import config_definitions as cfg
from official.vision.configs import image_classification, maskrcnn, retinanet, semantic_segmentation

KINDS = (
    image_classification.ImageClassificationTask,
    retinanet.RetinaNetTask,
    maskrcnn.MaskRCNNTask,
    semantic_segmentation.SemanticSegmentationTask,
)


def classifies(task: cfg.TaskConfig) -> bool:
    """Whether a task has one answer an image, so that its config alone says what a batch is."""
    return isinstance(task, image_classification.ImageClassificationTask)


def spec(task: base_task.Task, batch_size: int) -> Any:
    """The specs of a batch, in the structure that the task's `train_step` takes.

    Args:
      task: Of one of `KINDS`.
      batch_size: Images on the chip.

    Returns:
      `tf.TensorSpec`s; a side that only the data say, such as that of a last, smaller batch, is None.
    """
    config = task.task_config
    return _of_classifier(config, batch_size) if classifies(config) else _of_pipeline(task, batch_size)


def _of_classifier(config: cfg.TaskConfig, batch_size: int) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    images = tf.TensorSpec((batch_size, *config.model.input_size), config.train_data.dtype)
    if config.losses.soft_labels or config.train_data.is_multilabel:
        return images, tf.TensorSpec((batch_size, config.model.num_classes), tf.float32)
    return images, tf.TensorSpec((batch_size,), tf.int32)


def _of_pipeline(task: base_task.Task, batch_size: int) -> Any:
    """As the task's own input pipeline says: decoding, augmentation and assignment of targets are traced, not run."""
    with tempfile.NamedTemporaryFile() as nothing:  # A file of records that holds none.
        data = task.task_config.train_data.replace(
            input_path=nothing.name, tfds_name="", global_batch_size=batch_size, enable_tf_data_service=False
        )
        return task.build_inputs(data).element_spec
