"""Semantic segmentation with an As-ViT backbone: the Model Garden's own model, head and task.

As in detection, only the choice of backbones is wider, and a checkpoint to start from is accounted for.
"""

from __future__ import annotations

import dataclasses
import os

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import exp_factory, task_factory
from official.vision.configs import decoders, semantic_segmentation
from official.vision.tasks import semantic_segmentation as segmentation_task

from asvit_tf.dataloaders import inputs
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


@task_factory.register_task_cls(SegmentationTask)
class AsViTSegmentationTask(AsViTTask, segmentation_task.SemanticSegmentationTask):
    """The Model Garden's task, but a checkpoint to start from is accounted for, every map is checked, and every batch
    evaluated."""

    def build_inputs(self, params, input_context=None):
        """The Model Garden's input pipeline; a pixel of a class that there is not ends it with `inputs.LABEL_PROBLEM`.

        Left alone, such pixels take part in no loss and crash an evaluation.
        """
        config = self.task_config

        def is_good(labels):
            masks = labels["masks"]
            return tf.reduce_all((masks < config.model.num_classes) | (masks == config.losses.ignore_label))

        return inputs.checked(super().build_inputs(params, input_context), is_good)

    def aggregate_logs(self, state=None, step_outputs=None):
        """As the Model Garden's, but the first batch stays in the IoU, which that forgets when it sees no state yet."""
        return super().aggregate_logs({"begun": True} if state is None else state, step_outputs)

    def reduce_aggregated_logs(self, aggregated_logs, global_step=None):
        """As the Model Garden's; the next evaluation begins with nothing."""
        logs = super().reduce_aggregated_logs(aggregated_logs, global_step)
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
