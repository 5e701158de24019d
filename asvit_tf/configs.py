"""Model Garden configuration: the backbone, the re-tokenization schedule, the task and the experiments."""

from __future__ import annotations

import dataclasses
import sys
from typing import List, Optional

import tf_keras
from official.core import config_definitions as cfg
from official.core import exp_factory, task_factory
from official.modeling import hyperparams, optimization
from official.vision.configs import backbones, common, image_classification
from official.vision.modeling.backbones import factory
from official.vision.tasks import image_classification as classification_task

from asvit_tf import backbone as asvit_backbone
from asvit_tf import checkpoints, class_metrics, inputs
from asvit_tf.errors import UserError
from asvit_tf.retokenization import PERIOD, TRANSITION_SHARE, Phase, Schedule, Tokenization, transition_steps
from asvit_tf.topology import NAMED, Topology

# hyperparams reads the annotations at run time and knows typing's List and Optional, not the built-in forms.


@dataclasses.dataclass
class AsViT(hyperparams.Config):
    """The backbone.

    Attributes:
      topology: Topology string or named size.
      position_embedding: Learned position embedding on the stem's tokens.
      representation: tanh layer, as wide as the last stage, behind the pooled features (classification only).
      window: "split" or "fixed" (see backbone.AsViT).
      stochastic_depth: Rate of the last block.
      stride, dilation: Tokenization of evaluation and export; training follows the task's schedule.
    """

    topology: str = NAMED["seed"]
    position_embedding: bool = True
    representation: bool = True
    window: str = "split"
    stochastic_depth: float = 0.0
    stride: int = 4
    dilation: int = 1


@dataclasses.dataclass
class Backbone(backbones.Backbone):
    """The Model Garden's choice of backbones, with `asvit` added."""

    type: Optional[str] = "asvit"
    asvit: AsViT = dataclasses.field(default_factory=AsViT)


@dataclasses.dataclass
class RetokenizationPhase(hyperparams.Config):
    """One phase. It ends at a step or at an epoch; the last one has neither.

    Attributes:
      until_step: The first step that is no longer in it.
      until_epoch: The same in epochs, of the schedule's `steps_per_epoch`; need not be whole.
      stride: Pixels between tokens.
      dilation: Pixels between taps; None for the one whose kernel spans about a stride ("auto").
    """

    until_step: Optional[int] = None
    until_epoch: Optional[float] = None
    stride: int = 4
    dilation: Optional[int] = None


@dataclasses.dataclass
class Retokenization(hyperparams.Config):
    """The schedule: either a preset over the trainer's `train_steps`, or explicit phases.

    Attributes:
      preset: "none", "published" or "thirds" (see retokenization.PRESETS), its boundaries rounded to whole blocks of
        `steps_per_loop`, without the strides that leave few tokens of `input_size` (see retokenization.fitting_phases);
        ignored where `phases` are given.
      phases: In order.
      transition: Share of all steps in which, around each change, the tokenization before and the next train in turns
        (see retokenization.Schedule), as far as there is room between the changes; 0 changes at once, as published.
      transition_period: Steps in which each of the two has one turn.
      steps_per_epoch: What `until_epoch` counts in.
      evaluate_phase: Evaluate at the phase's own tokens too, beside all tokens; metrics are named `phase_...`.
    """

    preset: str = "none"
    phases: List[RetokenizationPhase] = dataclasses.field(default_factory=list)
    transition: float = TRANSITION_SHARE
    transition_period: int = PERIOD
    steps_per_epoch: Optional[int] = None
    evaluate_phase: bool = False


@dataclasses.dataclass
class Guard(hyperparams.Config):
    """What happens when a training loses what it learned (see guard.judge).

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
      seed: Of initial weights, shuffling and augmentation, set by asvit_tf.train; None draws fresh ones.
    """

    model: ClassificationModel = dataclasses.field(default_factory=ClassificationModel)
    retokenization: Retokenization = dataclasses.field(default_factory=Retokenization)
    guard: Guard = dataclasses.field(default_factory=Guard)
    class_names: List[str] = dataclasses.field(default_factory=list)
    seed: Optional[int] = None


class AccountedStart:
    """Part of a task: the checkpoint to start from is accounted for, variable by variable."""

    def initialize(self, model: tf_keras.Model) -> None:
        """Loads `init_checkpoint` if there is one (see `checkpoints.initialize`), and says what was loaded."""
        config = self.task_config  # type: ignore[attr-defined]
        if config.init_checkpoint:
            report = checkpoints.initialize(model, config.init_checkpoint, config.init_checkpoint_modules)
            print(f"{config.init_checkpoint}: {report}", file=sys.stderr)


@task_factory.register_task_cls(ClassificationTask)
class AsViTClassificationTask(AccountedStart, classification_task.ImageClassificationTask):
    """The Model Garden's task, but a checkpoint to start from is accounted for, every label is checked, and metrics
    tell what guessing would reach.

    The schedule is the trainer's.
    """

    def build_inputs(self, params, input_context=None):
        """The Model Garden's input pipeline; a label that belongs to no class ends it (see `inputs.checked_labels`)."""
        dataset = super().build_inputs(params, input_context)
        multilabel = self.task_config.train_data.is_multilabel
        return dataset if multilabel else inputs.checked_labels(dataset, self.task_config.model.num_classes)

    def build_metrics(self, training=True):
        """The Model Garden's metrics, and those of `class_metrics`."""
        return [*super().build_metrics(training), *class_metrics.build(self.task_config, training)]


@factory.register_backbone_builder("asvit")
def build_asvit(
    input_specs: tf_keras.layers.InputSpec,
    backbone_config: hyperparams.Config,
    norm_activation_config: hyperparams.Config,
    l2_regularizer: tf_keras.regularizers.Regularizer | None = None,
) -> asvit_backbone.AsViT:
    """Builds the backbone from its config. Its norms and activations are part of the architecture, so
    `norm_activation_config` has no effect.

    Raises:
      UserError: An L2 regularizer is asked for; weight decay belongs to the optimizer here.
    """
    del norm_activation_config
    if l2_regularizer is not None:
        raise UserError("losses.l2_weight_decay is not supported with asvit; use the optimizer's weight_decay_rate")
    config = backbone_config.get()
    topology = Topology.parse(config.topology)
    return asvit_backbone.AsViT(
        topology,
        input_specs,
        position_embedding=config.position_embedding,
        tokenization=Tokenization(config.stride, config.dilation),
        window=config.window,
        representation_size=topology.widths[-1] if config.representation else None,
        stochastic_depth=config.stochastic_depth,
    )


def schedule_of(params: cfg.ExperimentConfig) -> Schedule:
    """The schedule of an experiment, checked against everything it has to agree with.

    A task without re-tokenization, such as detection, has one phase.

    Raises:
      UserError: Phases out of order, or a last phase whose tokenization is not the one the backbone is evaluated and
        exported with.
    """
    backbone = params.task.model.backbone.get()
    if not hasattr(params.task, "retokenization"):
        return Schedule((Phase(None, Tokenization(backbone.stride, backbone.dilation)),))
    config, total_steps = params.task.retokenization, params.trainer.train_steps
    kernel_size = Topology.parse(backbone.topology).stages[0].kernel_size
    if config.phases:
        phases = []
        for phase in config.phases:
            if phase.dilation is None:
                tokenization = Tokenization.auto(phase.stride, kernel_size)
            else:
                tokenization = Tokenization(phase.stride, phase.dilation)
            phases.append(Phase(_end(phase, config.steps_per_epoch), tokenization))
        schedule = Schedule(tuple(phases))
    else:
        schedule = Schedule.preset(
            config.preset,
            total_steps,
            kernel_size,
            block=params.trainer.steps_per_loop,
            transition=0,
            image_size=(params.task.model.input_size[0], params.task.model.input_size[1]),
        )
    transition = transition_steps(schedule.boundaries, total_steps, config.transition)
    schedule = dataclasses.replace(schedule, transition=transition, period=config.transition_period)
    if schedule.final != Tokenization(backbone.stride, backbone.dilation):
        raise UserError(
            f"the last phase has stride {schedule.final.stride} and dilation {schedule.final.dilation}, but the "
            f"backbone is evaluated and exported with {backbone.stride} and {backbone.dilation}; they must be equal"
        )
    return schedule


def warmup_steps(params: cfg.ExperimentConfig) -> int:
    """Steps of the learning rate's warm-up; of one without, a hundredth of all, at least 1."""
    steps = getattr(params.trainer.optimizer_config.warmup.get(), "warmup_steps", None)
    return steps or max(1, params.trainer.train_steps // 100)


def _end(phase: RetokenizationPhase, steps_per_epoch: int | None) -> int | None:
    """The step at which a phase ends."""
    if phase.until_epoch is None:
        return phase.until_step
    if phase.until_step is not None:
        raise UserError("a phase has both until_step and until_epoch; give one")
    if not steps_per_epoch:
        raise UserError("a phase has until_epoch; that needs retokenization.steps_per_epoch")
    return round(phase.until_epoch * steps_per_epoch)


def experiment(task: cfg.TaskConfig) -> cfg.ExperimentConfig:
    """An experiment with AdamW, a cosine learning rate and a linear warm-up; its YAML gives the numbers.

    Gradients are clipped at a global norm of 1. Without that, trainings at few tokens were seen to lose all they had
    learned near the peak of the learning rate (docs/benchmarks.md, "Stability").
    """
    return cfg.ExperimentConfig(
        task=task,
        trainer=cfg.TrainerConfig(
            optimizer_config=optimization.OptimizationConfig(
                {
                    "optimizer": {
                        "type": "adamw",
                        # Norms, biases and position embedding are not decayed.
                        "adamw": {
                            "weight_decay_rate": 0.05,
                            # The sum over all replicas is clipped. `gradient_clip_norm`, AdamW's own, clips what each
                            # of n replicas adds to it, an n-th of a gradient: on many chips it would hardly ever act.
                            "global_clipnorm": 1.0,
                            "gradient_clip_norm": 0.0,
                            "exclude_from_weight_decay": ["gamma", "beta", "bias", "embedding"],
                        },
                    },
                    "learning_rate": {"type": "cosine", "cosine": {"initial_learning_rate": 1e-3}},
                    "warmup": {"type": "linear", "linear": {"warmup_learning_rate": 0}},
                }
            )
        ),
        restrictions=["task.train_data.is_training != None", "task.validation_data.is_training != None"],
    )


def train_for(params: cfg.ExperimentConfig, epochs: int, epoch_steps: int, warmup_steps: int) -> None:
    """Sets every number of steps: a cosine over all epochs; after each, an evaluation of all data and a checkpoint."""
    params.trainer.override(
        {
            "train_steps": epochs * epoch_steps,
            "validation_steps": -1,
            "validation_interval": epoch_steps,
            "steps_per_loop": epoch_steps,
            "summary_interval": epoch_steps,
            "checkpoint_interval": epoch_steps,
            "optimizer_config": {
                "learning_rate": {"cosine": {"decay_steps": epochs * epoch_steps}},
                "warmup": {"linear": {"warmup_steps": warmup_steps}},
            },
        }
    )


@exp_factory.register_config_factory("asvit_digits")
def asvit_digits() -> cfg.ExperimentConfig:
    """Handwritten digits at 32 x 32; see official_configs/digits_asvit_i32_cpu.yaml."""
    return experiment(
        ClassificationTask(
            model=ClassificationModel(num_classes=10, input_size=[32, 32, 3]),
            train_data=image_classification.DataConfig(is_training=True, decode_jpeg_only=False),
            validation_data=image_classification.DataConfig(is_training=False, decode_jpeg_only=False),
        )
    )


IMAGENET_TRAIN_EXAMPLES = 1_281_167


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
