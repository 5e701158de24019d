"""Trains or evaluates a Model Garden experiment with progressive re-tokenization.

    python -m asvit_tf.train --experiment=asvit_digits --mode=train_and_eval --model_dir=DIR \
        --config_file=official_configs/digits_asvit_i32_cpu.yaml --params_override=...

The flags are the Model Garden's own: `--experiment`, `--mode` (train, eval, train_and_eval, continuous_eval, ...),
`--model_dir`, `--config_file` (may be repeated), `--params_override`, `--tpu`, `--gin_file`, `--gin_params`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import gin
import tensorflow as tf
import tf_keras
import tqdm
from absl import flags
from official.common import distribute_utils
from official.common import flags as model_garden_flags
from official.core import config_definitions as cfg
from official.core import task_factory, train_lib, train_utils
from official.modeling import performance
from tensorboard.backend.event_processing import event_accumulator

from asvit_tf import (
    configs,
    registry_imports,  # noqa: F401
    savings,
)
from asvit_tf.errors import UserError
from asvit_tf.jsonfiles import write_json
from asvit_tf.topology import Topology
from asvit_tf.trainer import Block, RetokenizingTrainer


class _BlockLog:
    """Train action: appends the trainer's new blocks to `blocks.jsonl` and TensorBoard, and moves a progress bar."""

    def __init__(self, trainer: RetokenizingTrainer, model_dir: str, total_steps: int, progress: bool):
        self._trainer = trainer
        self._writer = tf.summary.create_file_writer(os.path.join(model_dir, "retokenization"))
        self._path = os.path.join(model_dir, savings.BLOCKS_FILE)
        self._total_steps = total_steps
        self._progress = progress
        self._bar: tqdm.tqdm | None = None

    def __call__(self, output) -> None:
        blocks: list[Block] = list(self._trainer.blocks)
        self._trainer.blocks.clear()
        with tf.io.gfile.GFile(self._path, "a") as file:
            for block in blocks:
                row = dataclasses.asdict(block)
                # A line break first: what a killed run left unfinished must not swallow this row.
                file.write("\n" + json.dumps({**row.pop("metrics"), **row}))
        with self._writer.as_default():
            for block in blocks:
                tf.summary.scalar("retokenization/stride", block.stride, step=block.step)
                name = "traced_step_seconds" if block.traced else "step_seconds"
                tf.summary.scalar(f"retokenization/{name}", block.seconds / block.steps, step=block.step)
        self._writer.flush()
        if self._progress and blocks:
            self._show(blocks)

    def _show(self, blocks: Sequence[Block]) -> None:
        if self._bar is None:
            start = blocks[0].step - blocks[0].steps
            self._bar = tqdm.tqdm(total=self._total_steps, initial=start, desc="train", unit="step", mininterval=0)
        last = blocks[-1]
        self._bar.set_postfix_str(f"stride {last.stride}, loss {last.metrics['training_loss']:.3f}", refresh=False)
        self._bar.update(sum(block.steps for block in blocks))
        if last.step >= self._total_steps:
            self._bar.close()


def run(params: cfg.ExperimentConfig, model_dir: str, mode: str, progress: bool = False) -> dict[str, float]:
    """Runs an experiment, continuing from the newest checkpoint in `model_dir`.

    Args:
      params: The experiment; its task must be As-ViT's.
      model_dir: Receives checkpoints, summaries, `params.yaml` and `blocks.jsonl`.
      mode: "train", "eval", "train_and_eval" or "continuous_eval".
      progress: Show a progress bar on standard error.

    Returns:
      The metrics of an evaluation after the last step where `mode` evaluates; else {}.

    Raises:
      UserError: The schedule does not fit the experiment, or there is no checkpoint to evaluate.
    """
    phases = plan_of(params)  # Before any long work: it refuses a schedule that does not fit.
    if mode == "eval" and tf.train.latest_checkpoint(model_dir) is None:
        raise UserError(f"no checkpoint in {model_dir}; train first")
    if "train" in mode:
        train_utils.serialize_config(params, model_dir)
        print(savings.plan_in_words(phases), file=sys.stderr)
    if params.task.seed is not None:
        tf_keras.utils.set_random_seed(params.task.seed)
    if params.runtime.mixed_precision_dtype:
        performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
    strategy = distribute_utils.get_distribution_strategy(
        distribution_strategy=params.runtime.distribution_strategy,
        all_reduce_alg=params.runtime.all_reduce_alg,
        num_gpus=params.runtime.num_gpus,
        tpu_address=params.runtime.tpu,
    )
    with strategy.scope():
        task = task_factory.get_task(params.task, logging_dir=model_dir)
        trainer = train_utils.create_trainer(
            params,
            task,
            train="train" in mode,
            evaluate="eval" in mode,
            checkpoint_exporter=train_lib.maybe_create_best_ckpt_exporter(params, model_dir),
            trainer_cls=RetokenizingTrainer,
        )
    metrics: dict[str, float] = {}

    def keep(output) -> None:
        metrics.clear()
        metrics.update({name: float(value) for name, value in output.items()})

    def run_mode(mode: str) -> None:
        train_lib.run_experiment(
            distribution_strategy=strategy,
            task=task,
            mode=mode,
            params=params,
            model_dir=model_dir,
            trainer=trainer,
            train_actions=[_BlockLog(trainer, model_dir, params.trainer.train_steps, progress)],
            eval_actions=[keep],
        )

    run_mode(mode)
    if "eval" in mode and not metrics:
        run_mode("eval")  # All steps had been trained before, and then training evaluates nothing.
    if "train" in mode:
        summary = savings.summary(phases, savings.read_blocks(model_dir))
        write_json(Path(model_dir) / "retokenization.json", summary)
    return metrics


def plan_of(params: cfg.ExperimentConfig) -> list[savings.PlannedPhase]:
    """What every phase of an experiment will cost."""
    model = params.task.model
    backbone = model.backbone.get()
    return savings.plan(
        Topology.parse(backbone.topology),
        configs.schedule_of(params),
        params.trainer.train_steps,
        tuple(model.input_size[:2]),
        model.num_classes,
        position_embedding=backbone.position_embedding,
        representation=backbone.representation,
        window=backbone.window,
    )


def read_evaluations(model_dir: str | os.PathLike) -> list[tuple[int, float]]:
    """Step and accuracy of every evaluation, from the TensorBoard summaries of a training."""
    accumulator = event_accumulator.EventAccumulator(
        os.path.join(model_dir, "validation"), size_guidance={"tensors": 0}
    )
    accumulator.Reload()
    if "accuracy" not in accumulator.Tags()["tensors"]:
        return []
    events = {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in accumulator.Tensors("accuracy")}
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
        params = train_utils.parse_configuration(values, print_return=False)
    except LookupError as error:
        raise UserError(f"unknown experiment {values.experiment!r}; asvit_digits is this package's") from error
    except (flags.Error, tf.errors.NotFoundError, OSError, KeyError, ValueError) as error:
        raise UserError(str(error)) from error
    return run(params, values.model_dir, values.mode, progress=True)


def _underscores(argument: str) -> str:
    """`--model-dir=a-b` as `--model_dir=a-b`."""
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument


if __name__ == "__main__":
    print(json.dumps(start(sys.argv[1:])))
