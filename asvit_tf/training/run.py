"""Trains or evaluates a Model Garden experiment with progressive re-tokenization.

    asvit train --experiment=asvit_digits --mode=train_and_eval --model_dir=DIR \
        --config_file=official_configs/digits_asvit_i32_cpu.yaml --params_override=...
"""

from __future__ import annotations

import copy
import os
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import gin
import tensorflow as tf
import tf_keras
from official.core import config_definitions as cfg
from official.core import exp_factory, train_utils
from tensorboard.backend.event_processing import event_accumulator

from asvit_tf import (
    registry_imports,  # noqa: F401
    storage,
)
from asvit_tf.choices import MODES, STRATEGIES
from asvit_tf.dataloaders import experiment_yaml, record_paths
from asvit_tf.design import savings
from asvit_tf.design.topology import Topology
from asvit_tf.errors import StoppedError, UserError
from asvit_tf.modeling import checkpoints
from asvit_tf.precision import mixed_precision, tensor_float_32
from asvit_tf.tasks import checks, classification, experiment_files, schedules
from asvit_tf.training import failures, step_log
from asvit_tf.training.display.log_file import LogFile, captured
from asvit_tf.training.display.screen import Screen, say
from asvit_tf.training.guard import Guard
from asvit_tf.training.session import Evaluation, Session, connected
from asvit_tf.training.step_log import StepLog


def run(
    params: cfg.ExperimentConfig,
    model_dir: str,
    mode: str,
    progress: bool = False,
    root: str | None = None,
    keeps_best: bool = False,
    evaluated: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Runs an experiment, continuing from the newest checkpoint in `model_dir`.

    Where a TPU worker is preempted, or a device lost, it connects again and continues from the newest checkpoint, as
    long as every new start gets further than the one before.

    Args:
      params: The experiment; its task must be As-ViT's.
      model_dir: Receives checkpoints, summaries, `params.yaml`, `blocks.jsonl` and `log.txt`; local or in the cloud.
      mode: One of `MODES`.
      progress: Show every block on standard error, on a terminal with a progress bar. What libraries print and log
        goes to `log.txt` in any case.
      root: A directory around `model_dir` that may be moved as a whole: `params.yaml` names paths inside it by where
        they are from there; None for `model_dir` itself.
      keeps_best: Save the best network of all evaluations of a classifier, too (`saving.best`), instead of what the
        trainer's `best_checkpoint_export_subdir` asks for. Not with several hosts.
      evaluated: Called with the step behind each evaluation; a `PausedError` ends the training there, to be continued.

    Returns:
      The metrics of an evaluation after the last step where `mode` evaluates; else {}.

    Raises:
      PausedError: That of `evaluated`; there is a checkpoint of its step, unless the guard holds its loss unsound.
      UserError: The experiment or its schedule is contradictory, data are missing or wrong, there is no checkpoint to
        evaluate, or the one to continue is damaged or of another network.
      StoppedError: The disk or the memory is full, a worker was lost for good, or the training diverged: its loss is no
        number, or stays at that of guessing.
    """
    check(params, model_dir, mode)
    phases = plan_of(params)
    params = copy.deepcopy(params)
    for data in (params.task.train_data, params.task.validation_data):
        if data is not None and data.input_path:
            data.input_path = record_paths.understood(data.input_path)
    params.trainer.recovery_max_trials = -1  # The Model Garden's answer to a NaN; `guard.Guard` has its own.
    if keeps_best:
        params.trainer.best_checkpoint_eval_metric = "accuracy"  # Which the trainer then reports as `best_accuracy`.
    lost_at: str | None = "nowhere"
    with mixed_precision(params.runtime.mixed_precision_dtype), tensor_float_32(True), captured() as log:
        if "train" in mode and phases:
            say(savings.plan_in_words(phases))
        while True:
            try:
                return _run_once(params, model_dir, mode, phases, log, progress, root, keeps_best, evaluated)
            except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
                newest = checkpoints.newest(model_dir)
                # Several hosts cannot connect again inside a process: their scheduler starts all of them anew.
                if params.runtime.distribution_strategy == "multi_worker_mirrored" or newest == lost_at:
                    raise StoppedError(
                        f"a worker was lost ({failures.reason(error)}); start again, on every host if there are "
                        f"several: training continues from {newest or 'its first step'}"
                    ) from error
                lost_at = newest
                say("a worker was lost; continuing from the newest checkpoint")
            except (tf.errors.OpError, MemoryError, OSError, RuntimeError) as error:
                explained = failures.explained(error, params, model_dir)
                if explained is None:
                    raise
                raise explained from error


def check(params: cfg.ExperimentConfig, model_dir: str, mode: str) -> None:
    """Refuses, before anything is built, what could only fail later.

    Args: as `run`.

    Raises:
      UserError: As `run`.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode!r} is not supported; allowed are {', '.join(MODES)}")
    if mode == "eval" and checkpoints.newest(model_dir) is None:
        raise UserError(f"no checkpoint in {model_dir}; train first")
    checks.check(params)
    if params.runtime.distribution_strategy not in STRATEGIES:
        raise UserError(
            f"runtime.distribution_strategy is {params.runtime.distribution_strategy!r}; allowed are "
            f"{', '.join(STRATEGIES)}"
        )
    if params.runtime.tpu is not None and params.runtime.distribution_strategy != "tpu":
        raise UserError(
            f"runtime.tpu is {params.runtime.tpu!r}, but runtime.distribution_strategy is "
            f"{params.runtime.distribution_strategy!r}: nothing would run on a TPU; set it to tpu, or leave --tpu out"
        )
    available = len(tf.config.list_physical_devices("GPU"))
    if params.runtime.distribution_strategy != "tpu" and params.runtime.num_gpus > available:
        raise UserError(
            f"runtime.num_gpus is {params.runtime.num_gpus}, this machine has {available}; on a CPU set it to 0 and "
            "runtime.mixed_precision_dtype to float32"
        )
    if mode == "continuous_eval" and re.search(r"[\\*?\[]", model_dir):
        raise UserError(f"TensorFlow waits for no checkpoints in {model_dir}: rename it without any of * ? [ \\")
    if "train" in mode:
        checks.check_learning_rate(params.trainer)
    if tf.io.gfile.exists(model_dir) and not tf.io.gfile.isdir(model_dir):
        raise UserError(f"{model_dir} is a file; model_dir must be a directory")
    if "train" in mode and params.task.init_checkpoint and checkpoints.newest(model_dir) is None:
        checkpoints.check_readable(params.task.init_checkpoint)
    for part, section in (("train", "train_data"), ("eval", "validation_data")):
        if part in mode:
            checks.check_data(params, section)


def _run_once(
    params: cfg.ExperimentConfig,
    model_dir: str,
    mode: str,
    phases: Sequence[savings.PlannedPhase],
    log: LogFile,
    progress: bool,
    root: str | None,
    keeps_best: bool,
    evaluated: Callable[[int], None] | None,
) -> dict[str, float]:
    """Runs a mode on one connection to the devices; returns the metrics of the last evaluation."""
    # TensorFlow needs some seed where its operations are deterministic; Python's generator is the caller's.
    seed = random.randrange(2**31) if params.task.seed is None else params.task.seed
    tf_keras.utils.set_random_seed(seed)
    with connected(params, model_dir, mode, keeps_best) as session:
        if session.writes:
            log.open(model_dir)
        with Screen(session.trainer, phases, shows=progress and session.writes) as screen:
            evaluation = Evaluation(session, screen, evaluated)
            if "train" in mode:
                _train(session, mode, evaluation, screen, phases, root)
            else:
                session.runner(mode, [], evaluation).run()
            if "eval" in mode and not evaluation.metrics:
                # All steps had been trained before, and then training evaluates nothing.
                session.runner("eval", [], evaluation).run()
    return evaluation.metrics


def _train(
    session: Session,
    mode: str,
    evaluation: Evaluation,
    screen: Screen,
    phases: Sequence[savings.PlannedPhase],
    root: str | None,
) -> None:
    """Trains, guarded, with every block written down; writes what re-tokenization saved at the end."""
    params, model_dir = session.params, session.model_dir
    actions: list[Callable] = []
    if session.writes:
        write_params(params, model_dir, root)
        actions.append(StepLog(session.trainer, model_dir, screen))
    # Detection and segmentation have no field for it.
    rule: Any = getattr(params.task, "guard", classification.GuardConfig())
    guard = Guard(session.trainer, model_dir, params.trainer, rule.max_rollbacks, session.writes)
    runner = session.runner(mode, [*actions, guard], evaluation)
    guard.begin(runner.checkpoint_manager)
    screen.begin(session.step())
    runner.run()
    guard.end()
    if session.writes and phases:
        summary = savings.summary(phases, step_log.read_blocks(model_dir))
        storage.write_json(os.path.join(model_dir, "retokenization.json"), summary)


def write_params(params: cfg.ExperimentConfig, model_dir: str, root: str | None = None) -> None:
    """Writes `params.yaml`, what `asvit export` reads; `root` as of `run`."""
    content = params.as_dict()
    if "://" not in model_dir:
        content = experiment_yaml.to_here(content, root or model_dir, model_dir)
    tf.io.gfile.makedirs(model_dir)
    storage.write_text(os.path.join(model_dir, "params.yaml"), experiment_yaml.text(content, "Written by asvit train."))


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


def start(
    *,
    experiment: str,
    mode: str,
    model_dir: str,
    config_file: Sequence[str] = (),
    params_override: Sequence[str] = (),
    tpu: str | None = None,
    tf_data_service: str | None = None,
    gin_file: Sequence[str] = (),
    gin_params: Sequence[str] = (),
) -> dict[str, float]:
    """Runs what the options of `asvit train` say, and returns the metrics of the last evaluation.

    Args: the command's options (`asvit train --help`); `run` explains mode and model_dir.

    Raises:
      UserError: An option names an experiment, a file or a field that does not exist; and what `run` raises.
    """
    try:
        if gin_file or gin_params:
            gin.parse_config_files_and_bindings(list(gin_file), list(gin_params))
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    options = train_utils.ParseConfigOptions(experiment, list(config_file), tpu, tf_data_service)
    return run(configure(options, params_override), model_dir, mode, progress=True)


def configure(options: train_utils.ParseConfigOptions, overrides: Sequence[str] = ()) -> cfg.ExperimentConfig:
    """The experiment that the Model Garden's options name, locked.

    Args:
      options: Files are applied in order, then the options' own override.
      overrides: Further ones, in order: `a.b=c,...`, YAML, or files.

    Raises:
      UserError: There is no such experiment, file or field.
    """
    try:
        registered = exp_factory.get_exp_config(options.experiment)
    except LookupError as error:
        raise UserError(
            f"unknown experiment {options.experiment!r}; this package's are asvit_images (also asvit_digits), "
            "asvit_imagenet, retinanet_asvit_coco, cascadercnn_asvit_coco and segmentation_asvit_coco"
        ) from error
    try:
        params = experiment_files.Parser(options).parse()
        for override in overrides:
            experiment_files.override_by_text(params, override)
        experiment_files.check_types(params, registered)
        params.validate()
    except (tf.errors.OpError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(str(error)) from error
    params.lock()
    return params
