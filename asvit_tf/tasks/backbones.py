"""The As-ViT backbone in the Model Garden: its config and its builder."""

from __future__ import annotations

import dataclasses

import tf_keras
from official.modeling import hyperparams
from official.vision.configs import backbones
from official.vision.modeling.backbones import factory

from asvit_tf import choices
from asvit_tf.design.retokenization import Tokenization
from asvit_tf.design.topology import NAMED, Topology
from asvit_tf.errors import UserError
from asvit_tf.modeling import backbone as asvit_backbone


@dataclasses.dataclass
class AsViT(hyperparams.Config):
    """The backbone.

    Attributes:
      topology: Topology string or named size.
      position_embedding: Learned position embedding on the stem's tokens.
      representation: tanh layer, as wide as the last stage, behind the pooled features (classification only).
      window: "split" or "fixed" (see backbone.AsViT).
      stochastic_depth: Rate of the last block.
      pre_logits: Final norm and pooled features behind the stages; a classifier needs them, a detector does not.
      base_stride: Pixels between tokens at the finest tokenization (see backbone.AsViT); presets are multiples of it.
      attention: How training treats attention's scores: "auto", "whole" or "chunked" (see backbone.AsViT).
      recompute: "none"; or "blocks", which keeps less of every block for the gradient, and computes it again.
      initialization: Of the linear maps: "released" or, for narrow networks, "lecun" (see backbone.AsViT).
      stride, dilation: Tokenization of evaluation and export; training follows the task's schedule.
    """

    topology: str = NAMED["seed"]
    position_embedding: bool = True
    representation: bool = True
    window: str = "split"
    stochastic_depth: float = 0.0
    pre_logits: bool = True
    base_stride: int = 4
    attention: str = choices.WHOLE
    recompute: str = "none"
    initialization: str = choices.RELEASED
    stride: int = 4
    dilation: int = 1


@dataclasses.dataclass
class Backbone(backbones.Backbone):
    """The Model Garden's choice of backbones, with `asvit` added."""

    type: str | None = "asvit"
    asvit: AsViT = dataclasses.field(default_factory=AsViT)


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
        base_stride=config.base_stride,
        window=config.window,
        representation_size=topology.widths[-1] if config.representation else None,
        stochastic_depth=config.stochastic_depth,
        pre_logits=config.pre_logits,
        attention=config.attention,
        recompute=config.recompute,
        initialization=config.initialization,
    )
