"""Trains or evaluates a Model Garden experiment with progressive re-tokenization.

    python -m asvit_tf.train --experiment=asvit_digits --mode=train_and_eval --model_dir=DIR \
        --config_file=official_configs/digits_asvit_i32_cpu.yaml --params_override=...

The flags are the Model Garden's own: `--experiment`, `--mode` (train, eval, train_and_eval, continuous_eval, ...),
`--model_dir`, `--config_file` (may be repeated), `--params_override`, `--tpu`, `--gin_file`, `--gin_params`.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np
import tensorflow as tf
import tf_keras
import yaml
from absl import flags
from official.common import flags as model_garden_flags
from official.core import config_definitions as cfg
from official.core import task_factory, train_lib, train_utils
from official.vision.utils import summary_manager
from tensorboard.backend.event_processing import event_accumulator

from asvit_tf import (
    registry_imports,  # noqa: F401
    storage,
)
from asvit_tf.choices import MODES, STRATEGIES
from asvit_tf.dataloaders import inputs
from asvit_tf.design import savings
from asvit_tf.design.topology import Topology
from asvit_tf.errors import StoppedError, UserError
from asvit_tf.modeling import checkpoints
from asvit_tf.precision import mixed_precision
from asvit_tf.tasks import checks, classification, schedules
from asvit_tf.training import block_log, strategies
from asvit_tf.training.block_log import BlockLog
from asvit_tf.training.rollback import Guard
from asvit_tf.training.runner import ExperimentRunner
from asvit_tf.training.trainer import RetokenizingTrainer

_UNREADABLE = ("Invalid JPEG data", "Unknown image file format", "Invalid PNG data", "Input image is corrupt")


class _LastCheckpoint(Exception):
    """Raised out of a continuous evaluation, which by itself would wait for one more checkpoint, an hour as a rule."""


def run(params: cfg.ExperimentConfig, model_dir: str, mode: str, progress: bool = False) -> dict[str, float]:
    """Runs an experiment, continuing from the newest checkpoint in `model_dir`.

    Where a TPU worker is preempted, or a device lost, it connects again and continues from the newest checkpoint, as
    long as every new start gets further than the one before.

    Args:
      params: The experiment; its task must be As-ViT's.
      model_dir: Receives checkpoints, summaries, `params.yaml` and `blocks.jsonl`; local or in the cloud.
      mode: One of `MODES`.
      progress: Show a progress bar on standard error.

    Returns:
      The metrics of an evaluation after the last step where `mode` evaluates; else {}.

    Raises:
      UserError: The experiment or its schedule is contradictory, data are missing or wrong, there is no checkpoint to
        evaluate, or the one to continue is damaged or of another network.
      StoppedError: The disk is full, a worker was lost for good, or the loss is no number.
    """
    _check(params, model_dir, mode)
    phases = plan_of(params)
    if "train" in mode and phases:
        print(savings.plan_in_words(phases), file=sys.stderr)
    params = copy.deepcopy(params)
    params.trainer.recovery_max_trials = -1  # The Model Garden's answer to a NaN; `rollback.Guard` has its own.
    if params.task.seed is not None:
        tf_keras.utils.set_random_seed(params.task.seed)
    lost_at: str | None = "nowhere"
    with mixed_precision(params.runtime.mixed_precision_dtype):
        while True:
            try:
                return _run_once(params, model_dir, mode, progress, phases)
            except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
                newest = tf.train.latest_checkpoint(model_dir)
                # Several hosts cannot connect again inside a process: their scheduler starts all of them anew.
                if params.runtime.distribution_strategy == "multi_worker_mirrored" or newest == lost_at:
                    raise StoppedError(
                        f"a worker was lost ({_reason(error)}); start again, on every host if there are several: "
                        f"training continues from {newest or 'its first step'}"
                    ) from error
                lost_at = newest
                print("a worker was lost; continuing from the newest checkpoint", file=sys.stderr)
            except (tf.errors.OpError, OSError, RuntimeError) as error:
                explained = _explained(error, params, model_dir)
                if explained is None:
                    raise
                raise explained from error


def _check(params: cfg.ExperimentConfig, model_dir: str, mode: str) -> None:
    """Refuses, before anything is built, what could only fail later."""
    if mode not in MODES:
        raise UserError(f"mode {mode!r} is not supported; allowed are {', '.join(MODES)}")
    if mode == "eval" and tf.train.latest_checkpoint(model_dir) is None:
        raise UserError(f"no checkpoint in {model_dir}; train first")
    checks.check(params)
    if params.runtime.distribution_strategy not in STRATEGIES:
        raise UserError(
            f"runtime.distribution_strategy is {params.runtime.distribution_strategy!r}; allowed are "
            f"{', '.join(STRATEGIES)}"
        )
    available = len(tf.config.list_physical_devices("GPU"))
    if params.runtime.distribution_strategy != "tpu" and params.runtime.num_gpus > available:
        raise UserError(
            f"runtime.num_gpus is {params.runtime.num_gpus}, this machine has {available}; on a CPU set it to 0 and "
            "runtime.mixed_precision_dtype to float32"
        )
    if tf.io.gfile.exists(model_dir) and not tf.io.gfile.isdir(model_dir):
        raise UserError(f"{model_dir} is a file; model_dir must be a directory")
    if "train" in mode and params.task.init_checkpoint and tf.train.latest_checkpoint(model_dir) is None:
        checkpoints.check_readable(params.task.init_checkpoint)
    for part, section in (("train", "train_data"), ("eval", "validation_data")):
        if part in mode:
            checks.check_data(params.task, section)


def _reason(error: tf.errors.OpError) -> str:
    """What happened, without where in the graph it was noticed."""
    noise = ("Graph execution error", "Detected at", "File ", "<stack", "[[", "node ")
    lines = [line.strip() for line in error.message.splitlines()]
    lines = [line.split("[[")[0].strip() for line in lines if line and not line.startswith(noise)]
    return " ".join(lines[:2])[:300] or type(error).__name__


def _explained(error: Exception, params: cfg.ExperimentConfig, model_dir: str) -> Exception | None:
    """The same in one line, where its cause lies outside of the program."""
    text = str(error)
    explained = storage.write_error(error, model_dir)
    if isinstance(explained, StoppedError):
        newest = tf.train.latest_checkpoint(model_dir)
        return StoppedError(f"{explained}: training continues from {newest or 'its first step'}")
    if explained is not None:
        return explained
    if inputs.LABEL_PROBLEM in text:
        return UserError(f"{inputs.LABEL_PROBLEM}; allowed are 0 to {params.task.model.num_classes - 1}")
    if any(words in text for words in _UNREADABLE):
        return UserError(
            "an image of the data cannot be decoded; asvit prepare skips such files, and PNGs need "
            "decode_jpeg_only=false"
        )
    if isinstance(error, tf.errors.DataLossError):
        return UserError(f"the data are damaged: {_reason(error)}")
    return None


def _run_once(
    params: cfg.ExperimentConfig, model_dir: str, mode: str, progress: bool, phases: Sequence[savings.PlannedPhase]
) -> dict[str, float]:
    strategy = strategies.build(params.runtime)
    writes = strategy.extended.should_save_summary  # Of several workers one does.
    with contextlib.ExitStack() as stack:
        # All workers take part in saving the best checkpoint; those that do not write it save it where nobody looks.
        best_dir = model_dir if writes else stack.enter_context(tempfile.TemporaryDirectory())
        with strategy.scope():
            task = task_factory.get_task(params.task, logging_dir=model_dir)
            trainer = train_utils.create_trainer(
                params,
                task,
                train="train" in mode,
                evaluate="eval" in mode,
                checkpoint_exporter=train_lib.maybe_create_best_ckpt_exporter(params, best_dir),
                trainer_cls=RetokenizingTrainer,
            )
        newest = tf.train.latest_checkpoint(model_dir)
        if newest is not None:
            checkpoints.check_resumable(trainer.model, trainer.optimizer, newest)
        log = None
        if writes and "train" in mode:
            train_utils.serialize_config(params, model_dir)
            log = stack.enter_context(BlockLog(trainer, model_dir, params.trainer.train_steps, progress))
        guard: Guard | None = None
        if "train" in mode:
            # Detection and segmentation have no field for it.
            rule: Any = getattr(params.task, "guard", classification.Guard())
            guard = Guard(trainer, model_dir, params.trainer, rule.max_rollbacks, writes)
        metrics: dict[str, float] = {}

        def keep(output) -> None:
            metrics.clear()
            # Segmentation reports pictures too.
            metrics.update({name: float(value) for name, value in output.items() if np.ndim(value) == 0})
            if "validation_loss" not in metrics:
                raise UserError(
                    "nothing was evaluated: the data have fewer images than task.validation_data.global_batch_size, "
                    "and drop_remainder leaves the rest out"
                )
            if mode == "continuous_eval" and int(trainer.global_step.numpy()) >= params.trainer.train_steps:
                raise _LastCheckpoint

        def run_mode(mode: str) -> None:
            tf.summary.experimental.set_step(trainer.global_step)  # Pictures take whatever step there is.
            with checkpoints.damage_explained(newest):
                runner = ExperimentRunner(
                    distribution_strategy=strategy,
                    task=task,
                    mode=mode,
                    params=params,
                    model_dir=model_dir,
                    trainer=trainer,
                    save_summary=writes,
                    train_actions=[action for action in (log, guard) if action],
                    eval_actions=[keep],
                    # One that takes pictures where `allow_image_summary` asks for them.
                    eval_summary_manager=(
                        summary_manager.maybe_build_eval_summary_manager(params, model_dir) if writes else None
                    ),
                )
            if guard is not None and "train" in mode:
                guard.begin(runner.checkpoint_manager)
            with contextlib.suppress(_LastCheckpoint):
                runner.run()

        run_mode(mode)
        if "eval" in mode and not metrics:
            run_mode("eval")  # All steps had been trained before, and then training evaluates nothing.
    if guard:
        guard.end()
    if log and phases:
        summary = savings.summary(phases, block_log.read_blocks(model_dir))
        storage.write_json(os.path.join(model_dir, "retokenization.json"), summary)
    return metrics


def plan_of(params: cfg.ExperimentConfig) -> list[savings.PlannedPhase]:
    """What every phase of an experiment will cost; nothing where its task has no phases.

    Raises:
      UserError: The schedule does not fit the experiment.
    """
    if not hasattr(params.task, "retokenization"):
        return []
    model = params.task.model
    backbone = model.backbone.get()
    return savings.plan(
        Topology.parse(backbone.topology),
        schedules.schedule_of(params),
        params.trainer.train_steps,
        tuple(model.input_size[:2]),
        model.num_classes,
        position_embedding=backbone.position_embedding,
        representation=backbone.representation,
        window=backbone.window,
    )


def read_evaluations(model_dir: str | os.PathLike, metric: str = "accuracy") -> list[tuple[int, float]]:
    """Step and a metric of every evaluation, from the TensorBoard summaries of a training."""
    accumulator = event_accumulator.EventAccumulator(
        os.path.join(model_dir, "validation"), size_guidance={"tensors": 0}
    )
    accumulator.Reload()
    if metric not in accumulator.Tags()["tensors"]:
        return []
    events = {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(metric)}
    return sorted(events.items())


def start(arguments: Sequence[str]) -> dict[str, float]:
    """Runs what the Model Garden's flags say, and returns the metrics of the last evaluation.

    Args:
      arguments: Flags, with - or _ between words.

    Raises:
      UserError: A flag is unknown or missing, or names an experiment or a file that does not exist.
    """
    values = flags.FLAGS
    if "experiment" not in values:
        model_garden_flags.define_flags()
        flags.mark_flags_as_required(["experiment", "mode", "model_dir"])
    for name in values:
        values[name].unparse()  # Flags are global: what an earlier call set must not stay.
    try:
        values(["asvit train", *map(_underscores, arguments)])
        if values.gin_file or values.gin_params:
            gin.parse_config_files_and_bindings(values.gin_file, values.gin_params)
    except (flags.Error, OSError, ValueError) as error:
        raise UserError(str(error)) from error
    return run(configure(values), values.model_dir, values.mode, progress=True)


def configure(options: flags.FlagValues | train_utils.ParseConfigOptions) -> cfg.ExperimentConfig:
    """The experiment that the Model Garden's options name, with files and overrides applied.

    Raises:
      UserError: There is no such experiment, file or field.
    """
    try:
        return train_utils.parse_configuration(options, print_return=False)
    except (tf.errors.OpError, OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(str(error)) from error
    except LookupError as error:  # After KeyError, which is one too.
        raise UserError(
            f"unknown experiment {options.experiment!r}; this package's are asvit_digits, asvit_imagenet, "
            "retinanet_asvit_coco, cascadercnn_asvit_coco and segmentation_asvit_coco"
        ) from error


def _underscores(argument: str) -> str:
    """`--model-dir=a-b` as `--model_dir=a-b`."""
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument
