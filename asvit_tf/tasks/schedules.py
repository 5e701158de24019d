"""The re-tokenization schedule of an experiment: its config, and the `Schedule` that follows from it."""

from __future__ import annotations

import dataclasses

from official.core import config_definitions as cfg
from official.modeling import hyperparams

from asvit_tf.design.retokenization import PERIOD, TRANSITION_SHARE, Phase, Schedule, Tokenization, transition_steps
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError


@dataclasses.dataclass
class RetokenizationPhase(hyperparams.Config):
    """One phase. It ends at a step or at an epoch; the last one has neither.

    Attributes:
      until_step: The first step that is no longer in it.
      until_epoch: The same in epochs, of the schedule's `steps_per_epoch`; need not be whole.
      stride: Pixels between tokens.
      dilation: Pixels between taps; None for the one whose kernel spans about a stride ("auto").
    """

    until_step: int | None = None
    until_epoch: float | None = None
    stride: int = 4
    dilation: int | None = None


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
    phases: list[RetokenizationPhase] = dataclasses.field(default_factory=list)
    transition: float = TRANSITION_SHARE
    transition_period: int = PERIOD
    steps_per_epoch: int | None = None
    evaluate_phase: bool = False


def schedule_of(params: cfg.ExperimentConfig) -> Schedule:
    """The schedule of an experiment, checked against everything it has to agree with.

    A task without re-tokenization, such as detection, has one phase; where its backbone is another than As-ViT, with a
    tokenization that stands for its pixels.

    Raises:
      UserError: Phases out of order, or a last phase whose tokenization is not the one the backbone is evaluated and
        exported with.
    """
    backbone = params.task.model.backbone.get()
    if not hasattr(params.task, "retokenization"):
        tokenization = Tokenization(getattr(backbone, "stride", 1), getattr(backbone, "dilation", 1))
        return Schedule((Phase(None, tokenization),))
    config, total_steps = params.task.retokenization, params.trainer.train_steps
    kernel_size = Topology.parse(backbone.topology).stages[0].kernel_size
    if config.phases:
        phases = []
        for phase in config.phases:
            if phase.dilation is None and phase.stride == backbone.stride:
                tokenization = Tokenization(backbone.stride, backbone.dilation)
            elif phase.dilation is None:
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
            base_stride=backbone.base_stride,
        )
    finest = min(phase.tokenization.stride for phase in schedule.phases)
    if finest < backbone.base_stride:
        raise UserError(
            f"stride is {finest}; allowed are numbers from the backbone's base_stride, {backbone.base_stride}, for "
            "whose grid the position embedding is made"
        )
    transition = transition_steps(schedule.boundaries, total_steps, config.transition)
    schedule = dataclasses.replace(schedule, transition=transition, period=config.transition_period)
    if schedule.final != Tokenization(backbone.stride, backbone.dilation):
        raise UserError(
            f"the last phase has stride {schedule.final.stride} and dilation {schedule.final.dilation}, but the "
            f"backbone is evaluated and exported with {backbone.stride} and {backbone.dilation}; they must be equal"
        )
    return schedule


def _end(phase: RetokenizationPhase, steps_per_epoch: int | None) -> int | None:
    """The step at which a phase ends."""
    if phase.until_epoch is None:
        return phase.until_step
    if phase.until_step is not None:
        raise UserError("a phase has both until_step and until_epoch; give one")
    if not steps_per_epoch:
        raise UserError("a phase has until_epoch; that needs retokenization.steps_per_epoch")
    return round(phase.until_epoch * steps_per_epoch)
