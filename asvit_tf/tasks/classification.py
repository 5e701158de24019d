"""Image classification with an As-ViT backbone: configs, the task, and the experiments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg
from official.core import exp_factory, task_factory
from official.modeling import hyperparams
from official.vision.configs import common, image_classification
from official.vision.tasks import image_classification as classification_task

from asvit_tf import private_names
from asvit_tf.dataloaders import inputs
from asvit_tf.tasks import class_metrics
from asvit_tf.tasks.backbones import Backbone
from asvit_tf.tasks.base import AsViTTask
from asvit_tf.tasks.recipes import experiment, train_for
from asvit_tf.tasks.schedules import Retokenization

IMAGENET_TRAIN_EXAMPLES = 1_281_167


@dataclasses.dataclass
class GuardConfig(hyperparams.Config):
    """What happens when a training loses what it learned.

    Attributes:
      max_rollbacks: How often it is set back to its newest sound checkpoint, to go on at a third of the learning rate
        behind a new warm-up, before it is stopped.
    """

    max_rollbacks: int = 2


@dataclasses.dataclass
class ClassificationModel(image_classification.ImageClassificationModel):
    backbone: Backbone = dataclasses.field(default_factory=Backbone)
    kernel_initializer: str = "glorot_uniform"


@dataclasses.dataclass
class ClassificationTask(image_classification.ImageClassificationTask):
    """The Model Garden's image classification with an As-ViT backbone and a schedule.

    Attributes:
      retokenization: When the stem's stride and dilation change.
      guard: What happens when the training loses what it learned.
      class_names: By label, for the exported model; empty for "0", "1" and so on.
      class_shares: Of the training images, by label: trained for the balanced accuracy (see `Adjusted`). Empty: for the
        accuracy.
      stored_side: To which the shorter sides of larger images were reduced in the records, in pixels
        (`imagefiles.reduced`); a SavedModel does the same first. None: they were not.
      seed: Seed of initial weights, shuffling and augmentation, set by `training.run`; None draws fresh ones.
    """

    model: ClassificationModel = dataclasses.field(default_factory=ClassificationModel)
    retokenization: Retokenization = dataclasses.field(default_factory=Retokenization)
    guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)
    class_names: list[str] = dataclasses.field(default_factory=list)
    class_shares: list[float] = dataclasses.field(default_factory=list)
    stored_side: int | None = None
    seed: int | None = None


class Adjusted:
    """A model in training whose logits have the logarithm of the classes' shares added.

    What is learned so are the logits without it, which answer for classes that are all as frequent. The loss stays a
    cross-entropy of the labels as they are: that of a network that tells nothing apart is the entropy of the shares, as
    without adjustment. Source: Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021), equation 10 with
    tau = 1.

    Args:
      model: [B, H, W, 3] to logits [B, classes].
      shares: Of the classes, each above 0.
    """

    def __init__(self, model: tf_keras.Model, shares: Sequence[float]):
        self._model = model
        self._log_shares = np.log(np.asarray(shares) / np.sum(shares)).astype(np.float32)

    def __call__(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        return tf.cast(self._model(*args, **kwargs), tf.float32) + self._log_shares

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)  # Its losses and variables.


@task_factory.register_task_cls(ClassificationTask)
class AsViTClassificationTask(AsViTTask, classification_task.ImageClassificationTask):
    """The Model Garden's task, but a checkpoint to start from is accounted for, every label is checked, and metrics
    tell what guessing would reach.

    The schedule is the trainer's.
    """

    def build_inputs(self, params, input_context=None):
        """The Model Garden's input pipeline, with crops as the config says; a label that belongs to no class ends it
        (see `inputs.checked_labels`).

        Data of TensorFlow Datasets may have any name.
        """
        with inputs.decodable_tfds(params.tfds_name), private_names.crops_of(params.crop_area_range):
            dataset = super().build_inputs(params, input_context)
        multilabel = self.task_config.train_data.is_multilabel
        return dataset if multilabel else inputs.checked_labels(dataset, self.task_config.model.num_classes)

    def train_step(self, inputs, model, optimizer, metrics=None):
        """The Model Garden's; of a model that is adjusted to the classes' shares, if the task has them."""
        shares = self.task_config.class_shares
        return super().train_step(inputs, Adjusted(model, shares) if shares else model, optimizer, metrics)

    def build_metrics(self, training=True):
        """The Model Garden's metrics, and those of `class_metrics`."""
        return [*super().build_metrics(training), *class_metrics.build(self.task_config, training)]


@exp_factory.register_config_factory("asvit_digits")
@exp_factory.register_config_factory("asvit_images")
def asvit_images() -> cfg.ExperimentConfig:
    """A user's images, or handwritten digits, at 32 x 32 unless a YAML says otherwise (`choices.RECIPES`)."""
    return experiment(
        ClassificationTask(
            model=ClassificationModel(num_classes=10, input_size=[32, 32, 3]),
            train_data=image_classification.DataConfig(is_training=True, decode_jpeg_only=False),
            validation_data=image_classification.DataConfig(is_training=False, decode_jpeg_only=False),
        )
    )


@exp_factory.register_config_factory("asvit_imagenet")
def asvit_imagenet() -> cfg.ExperimentConfig:
    """ImageNet at 224 x 224: 300 epochs, batch 1024. A YAML adds topology, stochastic depth and hardware.

    Source: epochs, batch size, optimizer, learning rate, weight decay and the schedule's switches are the authors';
    the augmentations and the warm-up are the usual recipe for networks of this kind (DeiT, Swin).
    """
    batch_size, epochs, warmup_epochs = 1024, 300, 20
    epoch_steps = IMAGENET_TRAIN_EXAMPLES // batch_size
    params = experiment(
        ClassificationTask(
            model=ClassificationModel(num_classes=1000, input_size=[224, 224, 3]),
            # Mixup gives soft labels, smoothed already.
            losses=image_classification.Losses(one_hot=False, soft_labels=True),
            # A turn ends with a wait for the device; of 64 steps each of the two has one of 32 on average.
            retokenization=Retokenization(
                preset="thirds", transition=0.05, transition_period=64, steps_per_epoch=epoch_steps
            ),
            train_data=image_classification.DataConfig(
                input_path="imagenet-2012-tfrecord/train*",
                is_training=True,
                global_batch_size=batch_size,
                dtype="bfloat16",
                shuffle_buffer_size=10_000,
                aug_type=common.Augmentation(
                    type="randaug", randaug=common.RandAugment(num_layers=2, magnitude=9, exclude_ops=["Cutout"])
                ),
                mixup_and_cutmix=common.MixupAndCutmix(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1),
                random_erasing=common.RandomErasing(probability=0.25),
            ),
            validation_data=image_classification.DataConfig(
                input_path="imagenet-2012-tfrecord/valid*",
                is_training=False,
                global_batch_size=batch_size,
                dtype="bfloat16",
                drop_remainder=False,
            ),
        )
    )
    params.runtime.mixed_precision_dtype = "bfloat16"
    train_for(params, epochs, epoch_steps, warmup_epochs * epoch_steps)
    return params
