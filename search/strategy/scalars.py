"""TensorBoard scalars of search and growth, under the names that the released search code uses, where it has one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from asvit_tf.choices import PROXIES

MEASURES = {
    "ntk_condition_number": "TE/NTK",
    "length_distortion": "TE/Exp",
    "curvature": "TE/Curvature",
    "length_distortion_with_curvature": "TE/ExpCurvature",
    **{name: f"TE/{name}" for name in PROXIES},
}
COUNTS = {"macs": "TE/flops", "parameters": "TE/params"}
POLICY = {"entropy": "reinforce/entropy", "reward": "reward/reward", "baseline": "reward/baseline"}


class Scalars:
    """Writes one step at a time.

    Args:
      directory: Receives an events file for each process that writes.
    """

    def __init__(self, directory: Path):
        self._directory = str(directory / "tensorboard")
        self._writer: Any = None  # Made for the first row: a run that only replays leaves no file.

    def write(self, row: Mapping[str, Any], index: int) -> None:
        """A row of a trace, at a position on the axis; what is missing or undefined is left out."""
        values = {tag: row["scores"].get(name) for name, tag in MEASURES.items()}
        values |= {tag: row.get(name) for name, tag in {**COUNTS, **POLICY}.items()}
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._directory)
        with self._writer.as_default():
            for tag, value in values.items():
                if value is not None:
                    tf.summary.scalar(tag, value, step=index)
        self._writer.flush()
