"""Will this experiment compile for a TPU, fit, and how long will it train? Answered without a TPU.

    asvit tpu-check small
    asvit tpu-check --config_file official_configs/asvit_large.yaml --largest_batch
    asvit tpu-check small --experiment retinanet_asvit_coco --topology_name v5e:2x4

Every phase of the schedule is lowered and compiled as one chip would run it; a detector or a segmenter has one. Of time
there are two accounts: a roofline, operations and bytes of the compiled program against the published peaks, about the
least time possible; and the compiler's own estimate, the cycles of every instruction of its schedule. Exchanging
gradients between chips and reading images are in neither.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from official.core import config_definitions as cfg
from official.core import train_utils

from asvit_tf.dataloaders import inputs
from asvit_tf.design import grids
from asvit_tf.design.retokenization import Tokenization
from asvit_tf.errors import UserError
from asvit_tf.tasks import checks, detection, schedules
from asvit_tf.tpu import batches
from asvit_tf.tpu import compiler as tpu_compiler
from asvit_tf.tpu import programs as tpu_programs
from asvit_tf.tpu.compiler import Chip, Program
from asvit_tf.training import run as train

Compile = Callable[[Tokenization | None, int], Program]
_CLASSIFIER_BATCH = 64


def compiler(params: cfg.ExperimentConfig, topology_name: str, cache_dir: str | None = None) -> Compile:
    """A function that compiles the training step of an experiment for a tokenization and a batch size."""

    def compile_step(tokenization: Tokenization | None, batch_size: int) -> Program:
        try:
            stablehlo = tpu_programs.training_step(params, tokenization, batch_size)
        except tpu_programs.NotCompilableError as error:
            return Program(False, f"TensorFlow cannot lower it: {error}")
        return tpu_compiler.compile_program(stablehlo, topology_name, cache_dir)

    return compile_step


def check(
    params: cfg.ExperimentConfig,
    topology_name: str,
    batch_size: int,
    compile_step: Compile,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compiles every phase of an experiment's schedule.

    Args:
      params: The experiment.
      topology_name: As "v5e:2x2".
      batch_size: Images on a chip.
      compile_step: What `compiler` returns.
      note: Called with a line before each compilation.

    Returns:
      `phases`, one object each: stride, dilation, steps, compiles, message, hbm_bytes and its parts, hbm_share, flops,
      bytes_accessed, hbm_bytes_moved, bounded_loops, unknown_loops, roofline_seconds, bound ("flops" or "memory", of
      the roofline), compiler_seconds, estimated_seconds (the longer of the two), and by it images_per_second and
      peak_share; and `chip_hours`, `chip_hours_without`, `saved` for the experiment's number of images with its
      schedule and at the last phase's tokens throughout (None where a phase does not compile), by the estimate and, in
      `roofline`, by the roofline.
      Also `global_batch`, the images of a step of the experiment; `chips`, on which they lie, and `hours` of its
      schedule on them, by the estimate (both None where `batch_size` does not divide them); and `evaluation`, why these
      chips cannot share the batches of its evaluation (None where they can).
    """
    chip = tpu_compiler.chip_of(topology_name)
    total = params.trainer.train_steps
    parts: list[tuple[Tokenization | None, int]] = [(None, total)]
    if hasattr(params.task, "retokenization"):
        schedule = schedules.schedule_of(params)
        parts = list(zip((phase.tokenization for phase in schedule.phases), schedule.steps_per_phase(total)))
    phases = []
    for tokenization, steps in parts:
        where = f"stride {tokenization.stride}, dilation {tokenization.dilation}" if tokenization else "the step"
        note(f"compiling {where} for {topology_name}, batch {batch_size} (minutes for a large network; then cached)")
        program = compile_step(tokenization, batch_size)
        phases.append(_phase(tokenization, steps, program, chip, batch_size))
    images = params.task.train_data.global_batch_size
    chips = None if images % batch_size else images // batch_size
    hours = _hours(phases, images, batch_size, "estimated_seconds")
    chip_hours = hours["chip_hours"]
    return dict(
        topology_name=topology_name,
        batch=batch_size,
        global_batch=images,
        chips=chips,
        phases=phases,
        **hours,
        hours=chip_hours / chips if chips and chip_hours is not None else None,
        roofline=_hours(phases, images, batch_size, "roofline_seconds"),
        evaluation=_undivided(params, "validation_data", chips) if chips else None,
    )


def run(
    topology: str | None,
    experiment: str,
    config_file: Sequence[str],
    params_override: str,
    topology_name: str,
    batch: int | None,
    largest_batch: bool,
    image_size: int | None,
    window: str | None,
    cache_dir: str | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """The command `asvit tpu-check`; its options, and what `check` returns, with `largest_batch` if asked for.

    Raises:
      UserError: The compiler is not installed, an unknown topology, or an experiment that does not exist, contradicts
        itself, or has a batch that the chips do not divide.
    """
    tpu_compiler.version()
    chip = tpu_compiler.chip_of(topology_name)
    params = train.configure(
        train_utils.ParseConfigOptions(experiment, list(config_file), params_override=params_override)
    )
    if not isinstance(params.task, batches.KINDS):
        raise UserError(f"tpu-check compiles networks that classify, detect or segment; {experiment} does not")
    params = copy.deepcopy(params)  # Not locked.
    backbone = params.task.model.backbone
    if not hasattr(backbone, "asvit") and not (topology is window is None):
        raise UserError(f"the networks of {experiment} are no As-ViT; leave out TOPOLOGY and --window")
    if topology is not None:
        backbone.override({"type": "asvit", "asvit": {"topology": topology}})
    if window is not None:
        backbone.override({"asvit": {"window": window}})
    if image_size is not None:
        # That of a YAML is what its training has.
        chooses_stride = not config_file and "base_stride" not in params_override
        _set_image_size(params, image_size, chooses_stride, note)
    if isinstance(params.task, detection.DenseTask):
        checks.check(params)
    if batch is None:
        batch = _batch_of_a_chip(params, topology_name)
    compile_step = compiler(params, topology_name, cache_dir)
    result = check(params, topology_name, batch, compile_step, note)
    if largest_batch:
        last = result["phases"][-1]
        tokenization = Tokenization(last["stride"], last["dilation"]) if last["stride"] else None
        note("looking for the largest batch: about three more compilations")
        step = 8 if batches.classifies(params.task) else 1  # Of large images few fit, and every one counts.
        result["largest_batch"] = find_largest_batch(compile_step, tokenization, chip, batch, step)
    return result


def _set_image_size(params: cfg.ExperimentConfig, side: int, chooses_stride: bool, note: Callable[[str], None]) -> None:
    params.task.model.input_size = [side, side, 3]
    for data in (params.task.train_data, params.task.validation_data):
        if hasattr(data, "output_size"):  # Of a segmenter; other tasks ask their model.
            data.output_size = [side, side]
    backbone = params.task.model.backbone
    # The levels of a feature pyramid stand for fixed strides.
    if not batches.classifies(params.task) or backbone.type != "asvit":
        return
    if chooses_stride:
        stride = grids.base_stride((side, side))
        backbone.override({"asvit": {"base_stride": stride, "stride": stride}})
    note(
        f"base stride {backbone.asvit.base_stride}: "
        + ("what asvit run chooses for this size" if chooses_stride else "the experiment's")
        + "; another by --params-override task.model.backbone.asvit.base_stride=N,task.model.backbone.asvit.stride=N"
    )


def _batch_of_a_chip(params: cfg.ExperimentConfig, topology_name: str) -> int:
    """A chip's share of an experiment's batch, on all chips of a topology; of a classifier's, one that suits all."""
    if batches.classifies(params.task):
        return _CLASSIFIER_BATCH
    inputs.check_batch_size("task.train_data", params.task.train_data)
    chips = tpu_compiler.chips_in(topology_name)
    for section in ("train_data", "validation_data"):
        problem = _undivided(params, section, chips)
        if problem:
            raise UserError(f"{problem}; choose another --topology_name, or the images on a chip with --batch")
    return params.task.train_data.global_batch_size // chips


def _undivided(params: cfg.ExperimentConfig, section: str, chips: int) -> str | None:
    """Why so many chips cannot share the batches of a section; None where they can."""
    data = getattr(params.task, section)
    if data is None or data.global_batch_size % chips == 0:
        return None
    return f"task.{section}.global_batch_size is {data.global_batch_size}, which {chips} chips do not divide"


def _phase(
    tokenization: Tokenization | None, steps: int, program: Program, chip: Chip, batch_size: int
) -> dict[str, Any]:
    row: dict[str, Any] = dict(
        stride=tokenization.stride if tokenization else None,
        dilation=tokenization.dilation if tokenization else None,
        steps=steps,
        **dataclasses.asdict(program),
    )
    if not program.compiles:
        return row
    roofline, own = program.roofline_seconds(chip), program.compiler_seconds(chip)
    seconds = max(roofline, own or 0.0)
    return row | dict(
        hbm_bytes=program.hbm_bytes,
        hbm_share=program.hbm_bytes / chip.hbm_bytes,
        roofline_seconds=roofline,
        bound="flops" if program.flops / chip.flops >= roofline else "memory",
        compiler_seconds=own,
        estimated_seconds=seconds,
        images_per_second=batch_size / seconds,
        peak_share=program.flops / chip.flops / seconds,
    )


def _hours(
    phases: Sequence[dict[str, Any]], global_batch: int, batch_size: int, seconds: str
) -> dict[str, float | None]:
    """Chip-hours of the whole schedule: a step of the experiment is `global_batch / batch_size` steps of one chip."""
    if not all(phase["compiles"] for phase in phases):
        return dict(chip_hours=None, chip_hours_without=None, saved=None)
    chips = global_batch / batch_size / 3600
    hours = sum(phase["steps"] * phase[seconds] for phase in phases) * chips
    without = sum(phase["steps"] for phase in phases) * phases[-1][seconds] * chips
    return dict(chip_hours=hours, chip_hours_without=without, saved=1 - hours / without if without else 0.0)


def find_largest_batch(
    compile_step: Compile, tokenization: Tokenization | None, chip: Chip, batch_size: int, step: int = 8
) -> dict[str, Any]:
    """The largest batch of one chip, a multiple of `step`.

    Memory is a line through that of two batches, halved until the larger one compiles; its answer is confirmed by a
    compilation, and lowered until one does, or raised until one does not.

    Args:
      compile_step: What `compiler` returns.
      tokenization: Tokenization of the phase with the most tokens.
      chip: Whose memory counts.
      batch_size: The larger of the two batches, where it fits.

    Returns:
      `batch` (None if not even `step` images fit), `hbm_bytes` then, `bytes_per_image` and `fixed_bytes` (of more than
      one image).
    """
    many = max(batch_size, 2)
    second = compile_step(tokenization, many)
    while not second.compiles and many > 2:  # What does not fit does not compile.
        many = max(many // 2, 2)
        second = compile_step(tokenization, many)
    few = many // 2
    first = compile_step(tokenization, few)
    if not second.compiles:
        return dict(batch=1, hbm_bytes=first.hbm_bytes) if first.compiles else dict(batch=None, message=first.message)
    if not first.compiles:
        return dict(batch=None, message=first.message)
    step = min(step, many)
    per_image = max((second.hbm_bytes - first.hbm_bytes) / (many - few), 1.0)
    fixed = second.hbm_bytes - per_image * many

    def fitting(size: int) -> Program | None:
        program = second if size == many else compile_step(tokenization, size)
        return program if program.compiles and program.hbm_bytes <= chip.hbm_bytes else None

    size = max(int((chip.hbm_bytes - fixed) / per_image) // step * step, step)
    found = fitting(size)
    grows = found is not None
    while found is None and size > step:
        size -= step
        found = fitting(size)
    while grows:  # Memory need not be a line.
        larger = fitting(size + step)
        grows = larger is not None
        size, found = (size + step, larger) if larger else (size, found)
    if found is None:
        return dict(batch=None, message=f"not even {step} images fit")
    return dict(batch=size, hbm_bytes=found.hbm_bytes, bytes_per_image=round(per_image), fixed_bytes=round(fixed))
