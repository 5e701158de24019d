"""How the network of one run is trained: by the run's settings, its data, the weights it begins with, the devices."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from official.core import config_definitions as cfg

from asvit_tf.dataloaders import classification as data
from asvit_tf.design.topology import Topology
from asvit_tf.storage import write_text
from asvit_tf.tasks import plans, written_recipes
from asvit_tf.training import run as train
from asvit_tf.training.runtimes import Runtime
from search.runs import designing, speeds, timetable
from search.runs.settings import RunSettings
from search.runs.timetable import Timetable


@dataclasses.dataclass(frozen=True)
class Planning:
    """The experiments of one run.

    Attributes:
      directory: Of the run.
      settings: Of the run.
      runtime: Devices.
      kept: The network to start from; None for a searched one.
    """

    directory: Path
    settings: RunSettings
    runtime: Runtime
    kept: designing.Kept | None

    def plan(self, dataset: data.Dataset | None = None) -> plans.Plan:
        """How the network is trained."""
        names = {field.name for field in dataclasses.fields(plans.Plan)} & {
            field.name for field in dataclasses.fields(RunSettings)
        }
        plan = plans.Plan(
            **{name: getattr(self.settings, name) for name in names - {"image_size", "base_stride", "init_checkpoint"}},
            image_size=self.settings.size,
            base_stride=self.settings.stride,
            overrides=self.settings.params_override,
        )
        if self.kept is None:
            return plan
        same = dataset is None or dataset.class_names == self.kept.class_names
        return dataclasses.replace(
            plan,
            base_stride=self.kept.base_stride,
            init_checkpoint=self.kept.checkpoint,
            init_modules="all" if same else "backbone",
        )

    def check(self, dataset: data.Dataset) -> None:
        """Refuses, before anything takes long, what training would refuse behind search and growth.

        Raises:
          UserError: As `run.run` of the training.
        """
        topology = designing.smallest(self.settings) if self.kept is None else self.kept.topology
        params = plans.classifier(self.plan(dataset), dataset, topology)
        self.runtime.name_devices(params)
        train.check(params, str(self.directory / "train"), "train_and_eval")
        train.plan_of(params)
        written_recipes.recipe_text(params)
        for images in (dataset.validation_examples, dataset.test_examples):
            if images:
                self.runtime.check_images(images)

    def experiment(self, dataset: data.Dataset, topology: Topology, epochs: int | None = None) -> cfg.ExperimentConfig:
        """What trains the network; its recipe is written down, to be edited and given back."""
        plan = self.plan(dataset)
        params = plans.classifier(
            plan if epochs is None else dataclasses.replace(plan, epochs=epochs), dataset, topology
        )
        write_text(self.directory / "recipe.yaml", written_recipes.recipe_text(params))
        self.runtime.apply(params, dataset.validation_examples)
        return params

    def with_base_stride(self, dataset: data.Dataset, table: Timetable, say: Callable[[str], None]) -> Planning:
        """The same, with a base stride by the time that training will have."""
        settings = self.settings

        def small(stride: int) -> cfg.ExperimentConfig:
            tried = dataclasses.replace(settings, base_stride=stride)
            plan = dataclasses.replace(self.plan(), base_stride=stride)
            params = plans.classifier(plan, dataset, designing.smallest(tried))
            self.runtime.apply(params, dataset.validation_examples)
            return params

        asked = (settings.stride, settings.size, small, dataset.validation_examples)
        decide = functools.partial(speeds.base_stride, *asked, enough_epochs=settings.epochs, say=say)
        decided = dataclasses.replace(settings, base_stride=table.base_stride(decide))
        return dataclasses.replace(self, settings=decided)

    def choose(
        self, dataset: data.Dataset, family: list[dict[str, Any]], say: Callable[[str], None], seconds: float
    ) -> timetable.Choice:
        """The member to train, and its epochs, in the seconds that are left."""
        experiment = functools.partial(self.experiment, dataset)
        asked = self.settings.epochs
        return speeds.choose(family, experiment, dataset.validation_examples, seconds, enough_epochs=asked, say=say)
