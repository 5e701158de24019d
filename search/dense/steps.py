"""Steps that the runs of detectors and of segmenters share: each leaves one result, and is not repeated then."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from asvit_tf.hardware.choice import Chosen
from asvit_tf.serving import export
from asvit_tf.storage import write_json, write_text
from asvit_tf.tasks import plans
from asvit_tf.training import run as train
from asvit_tf.training.display.log_file import captured
from asvit_tf.training.runtimes import Runtime
from search.runs.designing import Kept, once

PAGE = "report.html"


class Steps:
    """One run's directory.

    Args:
      directory: For everything; owned by this process.
      say: Receives a line at the start of each step.
      chosen: Devices.
      batch_size: As asked for; None where the data decide.
      init_checkpoint: Directory of the network to start from.

    Attributes:
      seconds: By step.
      kept: The network to start from.
    """

    def __init__(
        self,
        directory: Path,
        say: Callable[[str], None],
        chosen: Chosen,
        batch_size: int | None,
        init_checkpoint: str | None,
    ):
        self.directory = directory
        self.say = say
        self.kind = chosen.kind
        self.runtime = Runtime(chosen, batch_size)
        self.kept = None if init_checkpoint is None else Kept.of(init_checkpoint)
        self.seconds: dict[str, float] = {}

    @property
    def finished(self) -> dict[str, Any] | None:
        """What a finished run wrote, with paths: kept are names, because the directory may be moved."""
        written = self.directory / "result.json"
        if not written.exists():
            return None
        result = json.loads(written.read_text(encoding="utf-8"))
        return {**result, **{key: str(self.directory / result[key]) for key in ("saved_model", "report")}}

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the result of the run, and returns it as `finished` does."""
        write_json(self.directory / "result.json", result)
        written = self.finished
        assert written is not None
        return written

    def timed(self, name: str, step: Callable, *arguments: Any) -> Any:
        """What a step returns; its seconds are kept."""
        start = time.perf_counter()
        result = step(*arguments)
        self.seconds[name] = time.perf_counter() - start
        return result

    def write_recipe(self, params: cfg.ExperimentConfig, registered: cfg.ExperimentConfig, command: str) -> None:
        """Writes the experiment down, to be edited and given to `asvit train`."""
        text = plans.differing_text(params, registered, f"How asvit {command} trained.")
        write_text(self.directory / "recipe.yaml", text)

    def train(self, params: cfg.ExperimentConfig, key: str) -> dict[str, Any]:
        """The metrics of the last evaluation; `key` is one of them."""
        epochs = params.trainer.train_steps // params.trainer.steps_per_loop
        self.say(f"training: {epochs} epochs of {params.trainer.steps_per_loop} steps")

        def trained(path: Path) -> dict[str, Any]:
            metrics = train.run(params, str(path), "train_and_eval", progress=True, root=str(self.directory))
            write_json(path / "result.json", metrics)
            return metrics

        return once(self.directory / "train", trained, key)

    def export(self, params: cfg.ExperimentConfig) -> Path:
        """The SavedModel."""
        saved_model = self.directory / "saved_model"
        if not saved_model.exists():
            self.say("exporting")
            with captured():
                export.export(params, str(self.directory / "train"), str(saved_model))
        return saved_model

    @property
    def checkpoint(self) -> Path:
        """Directory of the training's checkpoints."""
        return self.directory / "train"

    @property
    def parameters(self) -> int:
        """Of the exported network."""
        reader = tf.train.load_checkpoint(str(self.directory / "saved_model" / "variables" / "variables"))
        shapes = reader.get_variable_to_shape_map()
        return sum(int(np.prod(shape)) for name, shape in shapes.items() if "VARIABLE_VALUE" in name)

    def curves(self, names: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
        """Measures of the training's evaluations, by step; those that there are."""
        found = {name: train.read_evaluations(self.checkpoint, name) for name in names}
        return {name: points for name, points in found.items() if points}
