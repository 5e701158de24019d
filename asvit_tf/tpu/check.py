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
      Where nothing is classified, also `chips`, that a step of the experiment takes, and `hours` of its schedule on
      them, by the estimate (both None where `batch_size` does not divide the experiment's batch).
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
    result = dict(
        topology_name=topology_name,
        batch=batch_size,
        phases=phases,
        **_hours(phases, images, batch_size, "estimated_seconds"),
        roofline=_hours(phases, images, batch_size, "roofline_seconds"),
    )
    if not batches.classifies(params.task):
        chips = None if images % batch_size else images // batch_size
        chip_hours = result["chip_hours"]
        result |= dict(chips=chips, hours=chip_hours / chips if chips and chip_hours is not None else None)
    return result


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
        params.task.model.input_size = [image_size, image_size, 3]
        for data in (params.task.train_data, params.task.validation_data):
            if hasattr(data, "output_size"):  # Of a segmenter; other tasks ask their model.
                data.output_size = [image_size, image_size]
        # The levels of a feature pyramid stand for fixed strides.
        if batches.classifies(params.task) and hasattr(backbone, "asvit"):
            stride = grids.base_stride((image_size, image_size))
            backbone.override({"asvit": {"base_stride": stride, "stride": stride}})
    if isinstance(params.task, detection.DenseTask):
        checks.check(params)
    if batch is None:
        batch = _batch_of_a_chip(params, topology_name)
    compile_step = compiler(params, topology_name, cache_dir)
    result = check(params, topology_name, batch, compile_step, note)
    if largest_batch:
        last = result["phases"][-1]
        tokenization = Tokenization(last["stride"], last["dilation"]) if last["stride"] else None
        note("looking for the largest batch: two more compilations")
        step = 8 if batches.classifies(params.task) else 1  # Of large images few fit, and every one counts.
        result["largest_batch"] = find_largest_batch(compile_step, tokenization, chip, batch, step)
    return result


def _batch_of_a_chip(params: cfg.ExperimentConfig, topology_name: str) -> int:
    """A chip's share of an experiment's batch, on all chips of a topology; of a classifier's, one that suits all."""
    if batches.classifies(params.task):
        return _CLASSIFIER_BATCH
    inputs.check_batch_size("task.train_data", params.task.train_data)
    images, chips = params.task.train_data.global_batch_size, tpu_compiler.chips_in(topology_name)
    if images % chips:
        raise UserError(
            f"task.train_data.global_batch_size is {images}, which the {chips} chips of {topology_name} do not divide; "
            "choose another --topology_name, or the images on a chip with --batch"
        )
    return images // chips


def in_words(result: dict[str, Any], profile: bool = False) -> str:
    """What `run` returns as a table for a terminal; with `profile`, also what takes most of each phase."""
    lines = [
        f"{result['topology_name']}, {result['batch']} images on a chip",
        f"{'stride':>6}{'dilation':>10}{'HBM':>11}{'share':>7}{'GFLOP':>9}{'GB moved':>10}{'roofline':>11}{'bound':>8}"
        f"{'estimate':>11}{'images/s':>10}{'of peak':>9}",
    ]
    for phase in result["phases"]:
        where = f"{phase['stride'] or '':>6}{phase['dilation'] or '':>10}"
        if not phase["compiles"]:
            lines.append(f"{where}  does not compile: {phase['message']}")
            continue
        lines.append(
            f"{where}{phase['hbm_bytes'] / 2**30:>7.2f} GiB{phase['hbm_share']:>7.0%}{phase['flops'] / 1e9:>9.0f}"
            f"{phase['hbm_bytes_moved'] / 1e9:>10.2f}{phase['roofline_seconds'] * 1e3:>8.2f} ms{phase['bound']:>8}"
            f"{phase['estimated_seconds'] * 1e3:>8.2f} ms{phase['images_per_second']:>10.0f}{phase['peak_share']:>9.0%}"
        )
    if "chips" in result:
        lines += _hours_in_words(result)
    elif result["chip_hours"] is not None:
        lines.append(
            f"whole schedule: {result['chip_hours']:.1f} chip-hours; all tokens throughout "
            f"{result['chip_hours_without']:.1f}; saved {result['saved']:.1%} (by the roofline "
            f"{result['roofline']['saved']:.1%} of {result['roofline']['chip_hours_without']:.1f})"
        )
    lines += dict.fromkeys(line for line in map(_loops_in_words, result["phases"]) if line)
    largest = result.get("largest_batch")
    if largest:
        lines.append(f"largest batch of one chip: {largest['batch'] or largest['message']}")
    for phase in result["phases"] if profile else ():
        lines.append(f"stride {phase['stride'] or '-'}: share of the compiler's cycles, GB moved, instructions")
        for kind in phase["profile"]:
            share = kind["cycles"] / max(phase["cycles"], 1)
            lines.append(f"{share:>7.1%}{kind['hbm_bytes'] / 1e9:>8.2f}{kind['count']:>5} x {kind['kind']}")
    return "\n".join(lines)


def _loops_in_words(phase: dict[str, Any]) -> str:
    """Which loops of a program make its estimate less sure; an empty line without such."""
    parts = {
        "of unknown trip count, counted once": phase["unknown_loops"],
        "that may end early, counted as often as they can run": phase["bounded_loops"],
    }
    counted = [f"{number} {kind}" for kind, number in parts.items() if number]
    return f"loops in the estimate: {'; '.join(counted)}" if counted else ""


def _hours_in_words(result: dict[str, Any]) -> list[str]:
    """The schedule of what has one phase."""
    if result["chip_hours"] is None:
        return []
    line = f"whole schedule: {result['chip_hours']:.1f} chip-hours"
    if result["hours"] is not None:
        line += f"; {result['hours']:.1f} hours on {result['chips']} chips"
    return [line]


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
    compilation, and lowered until one does.

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
    size = int((chip.hbm_bytes - fixed) / per_image) // step * step
    while size > 0:
        program = second if size == many else compile_step(tokenization, size)
        if program.compiles and program.hbm_bytes <= chip.hbm_bytes:
            return dict(
                batch=size, hbm_bytes=program.hbm_bytes, bytes_per_image=round(per_image), fixed_bytes=round(fixed)
            )
        size -= step
    return dict(batch=None, message=f"not even {step} images fit")
