"""What a training writes down after every block of steps: a line of `blocks.jsonl`, TensorBoard, a progress bar."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence

import tensorflow as tf
import tqdm

from asvit_tf.design import savings
from asvit_tf.storage import jsonable
from asvit_tf.training.trainer import Block, RetokenizingTrainer


def read_blocks(model_dir: str | os.PathLike) -> list[dict]:
    """What `BlockLog` wrote there (see `savings.parse_blocks`); none where no training was."""
    path = os.path.join(model_dir, savings.BLOCKS_FILE)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return savings.parse_blocks(file.read())


class BlockLog:
    """Train action: appends the trainer's new blocks to `blocks.jsonl` and TensorBoard, and moves a progress bar.

    Args:
      trainer: Whose blocks; they are taken from it.
      model_dir: Where to write.
      total_steps: Of the training.
      progress: Show the bar, on standard error.
    """

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
                file.write("\n" + json.dumps(jsonable({**row.pop("metrics"), **row}), allow_nan=False))
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
        self._bar.n = last.step  # Not a sum of steps: a training that is set back trains some of them again.
        self._bar.refresh()

    def __enter__(self) -> BlockLog:
        return self

    def __exit__(self, *exception) -> None:
        # So that whatever is said next stands below the bar.
        if self._bar is not None:
            self._bar.close()
