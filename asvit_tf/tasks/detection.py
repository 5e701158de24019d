"""Detection and instance segmentation with an As-ViT backbone: the Model Garden's own models and tasks.

Only the choice of backbones is wider, a checkpoint to start from is accounted for, and contradictions are refused
before anything is built. Attention windows keep the edge that they have at 224 x 224, whatever the input size.
"""

from __future__ import annotations

import dataclasses
import os

from official.core import config_definitions as cfg
from official.core import exp_factory, task_factory
from official.modeling import hyperparams
from official.vision.configs import maskrcnn, retinanet
from official.vision.tasks import maskrcnn as maskrcnn_task
from official.vision.tasks import retinanet as retinanet_task

from asvit_tf.tasks import recipes
from asvit_tf.tasks.backbones import AsViT, Backbone
from asvit_tf.tasks.base import AsViTTask

COCO_TRAIN_EXAMPLES = 118_287
COCO_CATEGORY_IDENTIFIERS = 91  # From 0, the background, to 90; eleven of them name no category.
CASCADE_IOUS = [0.6, 0.7]  # Of the second and the third head; the first head's is 0.5.


def detection_backbone() -> Backbone:
    """The backbone's config without what only a classifier has, its windows of the size they have at 224."""
    return Backbone(asvit=AsViT(representation=False, pre_logits=False, window="fixed"))


@dataclasses.dataclass
class RetinaNet(retinanet.RetinaNet):
    backbone: Backbone = dataclasses.field(default_factory=detection_backbone)


@dataclasses.dataclass
class CascadeRCNN(maskrcnn.MaskRCNN):
    """Cascade Mask R-CNN: three box heads, each trained on the boxes of the one before, and a mask head."""

    backbone: Backbone = dataclasses.field(default_factory=detection_backbone)
    detection_head: maskrcnn.DetectionHead = dataclasses.field(
        default_factory=lambda: maskrcnn.DetectionHead(class_agnostic_bbox_pred=True, cascade_class_ensemble=True)
    )
    roi_sampler: maskrcnn.ROISampler = dataclasses.field(
        default_factory=lambda: maskrcnn.ROISampler(cascade_iou_thresholds=list(CASCADE_IOUS))
    )


@dataclasses.dataclass
class DenseTask:
    """What the tasks of more than one answer an image add to the Model Garden's.

    Attributes:
      init_checkpoint_modules: "backbone" or "all".
      class_names: By category identifier or class, for the exported model; empty for the numbers themselves.
      seed: Seed of initial weights, shuffling and augmentation, set by `training.run`; None draws fresh ones.
      stored_pixels: To which larger photographs were reduced in the training records (`imagefiles.reduced`); a
        SavedModel does the same first. None: they were not.
    """

    init_checkpoint_modules: str | list[str] = "backbone"
    class_names: list[str] = dataclasses.field(default_factory=list)
    seed: int | None = None
    stored_pixels: int | None = None


@dataclasses.dataclass
class RetinaNetTask(DenseTask, retinanet.RetinaNetTask):
    """The Model Garden's RetinaNet with an As-ViT backbone; attributes as `DenseTask`."""

    model: RetinaNet = dataclasses.field(default_factory=RetinaNet)


@dataclasses.dataclass
class CascadeRCNNTask(DenseTask, maskrcnn.MaskRCNNTask):
    """The Model Garden's Mask R-CNN as a cascade, with an As-ViT backbone; attributes as `DenseTask`."""

    model: CascadeRCNN = dataclasses.field(default_factory=CascadeRCNN)


@task_factory.register_task_cls(RetinaNetTask)
class AsViTRetinaNetTask(AsViTTask, retinanet_task.RetinaNetTask):
    """The Model Garden's task, but a checkpoint to start from is accounted for."""


@task_factory.register_task_cls(CascadeRCNNTask)
class AsViTCascadeRCNNTask(AsViTTask, maskrcnn_task.MaskRCNNTask):
    """The Model Garden's task, but a checkpoint to start from is accounted for."""


def _coco(task: cfg.TaskConfig, parser: hyperparams.Config, batch_size: int, epochs: int) -> cfg.ExperimentConfig:
    """An experiment on COCO at 640 x 640; a YAML adds topology, size and hardware.

    AdamW, a cosine learning rate and the augmentation are the usual recipe for transformers on COCO, not the authors',
    who state none beyond the framework and the input size.
    """
    data = type(task.train_data)
    task.override(
        {
            "annotation_file": os.path.join("coco", "annotations_validation.json"),
            "model": {"num_classes": COCO_CATEGORY_IDENTIFIERS, "input_size": [640, 640, 3]},
        }
    )
    task.train_data = data(
        input_path=os.path.join("coco", "train*"),
        is_training=True,
        global_batch_size=batch_size,
        shuffle_buffer_size=1000,  # Of encoded images, 160 kB each.
        parser=parser,
    )
    task.validation_data = data(
        input_path=os.path.join("coco", "validation*"), is_training=False, global_batch_size=8, drop_remainder=False
    )
    return recipe(task, batch_size, epochs)


def recipe(task: cfg.TaskConfig, batch_size: int, epochs: int) -> cfg.ExperimentConfig:
    """The experiment of a task on COCO: bfloat16, AdamW, a cosine after 1000 steps of warm-up."""
    epoch_steps = COCO_TRAIN_EXAMPLES // batch_size
    params = recipes.experiment(task)
    params.runtime.mixed_precision_dtype = "bfloat16"
    recipes.train_for(params, epochs, epoch_steps, warmup_steps=1000)
    params.trainer.optimizer_config.override({"learning_rate": {"cosine": {"initial_learning_rate": 1e-4}}})
    return params


@exp_factory.register_config_factory("retinanet_asvit_coco")
def retinanet_asvit_coco() -> cfg.ExperimentConfig:
    """Boxes on COCO with RetinaNet: FPN levels 3 to 7, 72 epochs, batch 64, scale jitter 0.1 to 2."""
    parser = retinanet.Parser(aug_rand_hflip=True, aug_scale_min=0.1, aug_scale_max=2.0)
    return _coco(RetinaNetTask(), parser, batch_size=64, epochs=72)


@exp_factory.register_config_factory("cascadercnn_asvit_coco")
def cascadercnn_asvit_coco() -> cfg.ExperimentConfig:
    """Boxes and masks on COCO with Cascade Mask R-CNN: FPN levels 2 to 6, 36 epochs, batch 64."""
    parser = maskrcnn.Parser(aug_rand_hflip=True, aug_scale_min=0.1, aug_scale_max=2.0)
    return _coco(CascadeRCNNTask(), parser, batch_size=64, epochs=36)
