"""Semantic segmentation with an As-ViT backbone: the Model Garden's own model, head and task.

As in detection, only the choice of backbones is wider, and a checkpoint to start from is accounted for.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg
from official.core import exp_factory, task_factory
from official.vision.configs import decoders, semantic_segmentation
from official.vision.tasks import semantic_segmentation as segmentation_task

from asvit_tf.dataloaders import inputs
from asvit_tf.modeling import own_size
from asvit_tf.tasks import detection
from asvit_tf.tasks.backbones import Backbone
from asvit_tf.tasks.base import AsViTTask

COCO_CLASSES_OF_PIXELS = 81  # 0, the background, and the 80 categories counted through.
_LEVELS = (2, 5)


@dataclasses.dataclass
class Segmentation(semantic_segmentation.SemanticSegmentationModel):
    """A feature pyramid whose levels are added up at a quarter of the image's size."""

    backbone: Backbone = dataclasses.field(default_factory=detection.detection_backbone)
    min_level: int = _LEVELS[0]
    max_level: int = _LEVELS[1]
    decoder: decoders.Decoder = dataclasses.field(default_factory=lambda: decoders.Decoder(type="fpn"))
    head: semantic_segmentation.SegmentationHead = dataclasses.field(
        default_factory=lambda: semantic_segmentation.SegmentationHead(
            level=_LEVELS[0], feature_fusion="pyramid_fusion"
        )
    )


@dataclasses.dataclass
class SegmentationTask(detection.DenseTask, semantic_segmentation.SemanticSegmentationTask):
    """The Model Garden's semantic segmentation with an As-ViT backbone; attributes as `detection.DenseTask`."""

    model: Segmentation = dataclasses.field(default_factory=Segmentation)


class ClassIoU(tf_keras.metrics.Metric):
    """Intersection over union of every class, from whole numbers of pixels.

    IoU of class c = n_cc / (sum_i n_ci + sum_i n_ic - n_cc), where n_ij pixels are of class i and answered j. It is NaN
    where that is 0 / 0: a class that is neither there nor answered says nothing. The Model Garden calls it 0; it also
    counts in float32, where a batch with more than 2^24 pixels of one kind stays at that.

    Args:
      num_classes: K.
      input_size: Rows and columns of the network's input.
      at_own_size: Whether the truth is that of the image at its own size, padded to the lower right, and so the answer
        is resized as `own_size` does; else the truth is as large as the network's input.
    """

    def __init__(self, num_classes: int, input_size: Sequence[int], at_own_size: bool, name: str = "per_class_iou"):
        super().__init__(name=name, dtype=tf.float32)
        self._num_classes, self._input_size, self._at_own_size = num_classes, tuple(input_size), at_own_size
        # Not by `add_weight`, which on a TPU sums over replicas at every update: there is no such sum of 64 bits.
        self.counts = tf.Variable(
            np.zeros((num_classes, num_classes), np.int64),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )

    def update_state(self, y_true: Mapping[str, tf.Tensor], y_pred: tf.Tensor, sample_weight: None = None) -> None:
        """Counts a batch.

        Args:
          y_true: `masks` and `valid_masks` [B, rows, columns, 1], and `image_info` [B, 4, 2].
          y_pred: Logits [B, h, w, K]; they are resized to the network's input first, as in the SavedModel.
          sample_weight: Not used.
        """
        del sample_weight
        # One picture after the other: resized logits of a batch may be larger than the memory.
        counts = tf.map_fn(
            self._count,
            (y_pred, y_true["masks"][..., 0], y_true["valid_masks"][..., 0], y_true["image_info"]),
            fn_output_signature=tf.TensorSpec((self._num_classes**2,), tf.int32),
            parallel_iterations=1,
        )
        total = tf.reduce_sum(tf.cast(counts, tf.int64), axis=0)
        self.counts.assign_add(tf.reshape(total, self.counts.shape))

    def reset_state(self) -> None:
        """Forgets everything counted; tf_keras's own would assign a number to a matrix."""
        tf_keras.backend.set_value(self.counts, np.zeros(self.counts.shape, np.int64))

    def _count(self, picture: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """Pixels of one picture by truth and answer, [K * K]."""
        logits, truth, is_valid, image_info = picture
        logits = tf.image.resize(logits, self._input_size)
        if self._at_own_size:
            answer = own_size.likeliest(logits, *own_size.part_of(image_info), tuple(truth.shape))
        else:
            answer = tf.argmax(logits, axis=-1, output_type=tf.int32)
        kinds = tf.where(is_valid, tf.cast(truth, tf.int32) * self._num_classes + answer, -1)
        # A pixel of a kind below 0 is not counted.
        return tf.math.unsorted_segment_sum(tf.ones_like(kinds), kinds, self._num_classes**2)

    def result(self) -> tf.Tensor:
        """[K], float32."""
        counts = tf.cast(self.counts, tf.float64)
        hits = tf.linalg.diag_part(counts)
        return tf.cast(hits / (tf.reduce_sum(counts, axis=0) + tf.reduce_sum(counts, axis=1) - hits), tf.float32)


@task_factory.register_task_cls(SegmentationTask)
class AsViTSegmentationTask(AsViTTask, segmentation_task.SemanticSegmentationTask):
    """The Model Garden's task, but a checkpoint to start from is accounted for, every map is checked, every batch
    evaluated, and a class that is absent is no part of the mean IoU."""

    def build_inputs(self, params, input_context=None):
        """The Model Garden's input pipeline; a pixel of a class that there is not ends it with `inputs.LABEL_PROBLEM`.

        Left alone, such pixels take part in no loss and crash an evaluation.
        """
        config = self.task_config

        def is_good(labels):
            masks = labels["masks"]
            return tf.reduce_all((masks < config.model.num_classes) | (masks == config.losses.ignore_label))

        return inputs.checked(super().build_inputs(params, input_context), is_good)

    def build_metrics(self, training=True):
        """As the Model Garden's, but for the IoU of an evaluation, which is `ClassIoU`."""
        metrics = super().build_metrics(training)
        if not training:
            config = self.task_config
            at_own_size = not config.validation_data.resize_eval_groundtruth
            self.iou_metric = ClassIoU(config.model.num_classes, config.model.input_size[:2], at_own_size)
        return metrics

    def validation_step(self, inputs, model, metrics=None):
        """As the Model Garden's; where the truth is that at the own size, its loss is that of what the network sees.

        The Model Garden's is 0 then.
        """
        config = self.task_config
        if config.validation_data.resize_eval_groundtruth:
            return super().validation_step(inputs, model, metrics)
        answers = []

        def answering(images, training):
            answers.append(model(images, training=training))
            return answers[-1]

        logs = super().validation_step(inputs, answering, metrics)
        labels = inputs[1]
        ignored = config.losses.ignore_label
        size = tuple(config.model.input_size[:2])
        masks = own_size.shrunk(labels["masks"], labels["image_info"], size, ignored)
        outputs = tf.nest.map_structure(lambda answer: tf.cast(answer, tf.float32), answers[0])
        labels = {**labels, "masks": masks, "valid_masks": masks != ignored}
        logs[self.loss] = self.build_losses(labels, outputs, aux_losses=model.losses)
        return logs

    def aggregate_logs(self, state=None, step_outputs=None):
        """As the Model Garden's, but the first batch stays in the IoU, which that forgets when it sees no state yet."""
        return super().aggregate_logs({"begun": True} if state is None else state, step_outputs)

    def reduce_aggregated_logs(self, aggregated_logs, global_step=None):
        """As the Model Garden's, but absent classes are left out; the next evaluation begins with nothing."""
        logs = super().reduce_aggregated_logs(aggregated_logs, global_step)
        ious = self.iou_metric.result().numpy()
        for absent in np.flatnonzero(np.isnan(ious)):
            logs.pop(f"iou/{absent}", None)
        present = ious[np.isfinite(ious)]
        logs["mean_iou"] = present.mean() if present.size else np.float32(0)
        self.iou_metric.reset_states()
        return logs


@exp_factory.register_config_factory("segmentation_asvit_coco")
def segmentation_asvit_coco() -> cfg.ExperimentConfig:
    """A class for every pixel of COCO's images at 512 x 512: 36 epochs, batch 64, scale jitter 0.5 to 2.

    The recipe is that of detection; the authors state none.
    """
    size, batch_size = [512, 512], 64
    train_data, validation_data = (
        semantic_segmentation.DataConfig(
            input_path=os.path.join("coco", f"{split}*"), output_size=size, is_training=split == "train"
        )
        for split in ("train", "validation")
    )
    train_data.override({"global_batch_size": batch_size, "aug_scale_min": 0.5, "aug_scale_max": 2.0})
    validation_data.override({"global_batch_size": 8, "drop_remainder": False})
    task = SegmentationTask(train_data=train_data, validation_data=validation_data)
    task.model.override({"num_classes": COCO_CLASSES_OF_PIXELS, "input_size": [*size, 3]})
    return detection.recipe(task, batch_size, epochs=36)
