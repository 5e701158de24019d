"""What a training writes down after every block of steps: a line of `blocks.jsonl`, TensorBoard, the screen."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import tensorflow as tf

from asvit_tf.design import savings
from asvit_tf.storage import jsonable
from asvit_tf.training.display.screen import Screen
from asvit_tf.training.trainer import RetokenizingTrainer, StepBlock


def read_blocks(model_dir: str | os.PathLike) -> list[dict]:
    """What `StepLog` wrote there (see `savings.parse_blocks`); none where no training was."""
    path = os.path.join(model_dir, savings.BLOCKS_FILE)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return savings.parse_blocks(file.read())


class StepLog:
    """Train action: appends the trainer's new blocks to `blocks.jsonl` and TensorBoard, and shows them.

    Args:
      trainer: Whose blocks; they are taken from it.
      model_dir: Where to write.
      screen: Where to show them.
    """

    def __init__(self, trainer: RetokenizingTrainer, model_dir: str, screen: Screen):
        self._trainer = trainer
        self._writer = tf.summary.create_file_writer(os.path.join(model_dir, "retokenization"))
        self._path = os.path.join(model_dir, savings.BLOCKS_FILE)
        self._screen = screen

    def __call__(self, output: Any) -> None:
        blocks: list[StepBlock] = list(self._trainer.blocks)
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
        for block in blocks:
            self._screen.trained(block)
