"""An experiment as YAML that can be edited and given back: what differs from it as it is registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from official.core import config_definitions as cfg

from asvit_tf.dataloaders import experiment_yaml
from asvit_tf.tasks import classification, plans

# What the data, the topology, and the number of epochs decide.
_NOT_OF_A_RECIPE = (
    *(
        "task.class_names",
        "task.class_shares",
        "task.stored_side",
        "task.seed",
        "task.init_checkpoint",
        "task.init_checkpoint_modules",
    ),
    *("task.model.num_classes", "task.model.input_size", "task.evaluation.top_k"),
    *(f"task.model.backbone.asvit.{name}" for name in ("topology", "base_stride", "stride")),
    *(f"task.train_data.{name}" for name in ("input_path", "seed", "decode_jpeg_only")),
    "task.validation_data.input_path",
    *(f"trainer.{name}_interval" for name in ("summary", "checkpoint", "validation")),
    *(f"trainer.optimizer_config.learning_rate.{kind}.decay_steps" for kind in plans.ENDING),
    *(f"trainer.optimizer_config.warmup.{kind}.warmup_steps" for kind in plans.WARMUPS),
)
_OF_THE_DATA = (
    *("task.class_names", "task.stored_pixels", "task.init_checkpoint", "task.model.num_classes"),
    *("task.train_data.input_path", "task.validation_data.input_path"),
)
# What is edited most often; everything else is written where it differs from the experiment as it is registered.
_WRITTEN_ALWAYS = (
    "task.model.dropout_rate",
    "task.train_data.aug_rand_hflip",
    "task.losses.label_smoothing",
    "trainer.optimizer_config.optimizer.adamw.weight_decay_rate",
    "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate",
)


def differing_text(params: cfg.ExperimentConfig, usual: cfg.ExperimentConfig, comment: str) -> str:
    """An experiment as YAML: what differs from it as it is registered, but for what names data and weights.

    Args:
      params: The experiment.
      usual: As it is registered.
      comment: First line.
    """
    content = _without(params.as_dict(), _OF_THE_DATA)
    return experiment_yaml.text(_differences(content, usual.as_dict()), comment)


def recipe_text(params: cfg.ExperimentConfig) -> str:
    """A training as a recipe in YAML: what differs from the experiment as it is registered, but for what is another
    training's by its data and topology. Its epochs are the steps over those of a loop.
    """
    content = _without(params.as_dict(), _NOT_OF_A_RECIPE)
    differing = _differences(content, _without(classification.asvit_images().as_dict(), _WRITTEN_ALWAYS))
    return experiment_yaml.text(differing, "How asvit run trained; edit it, and give it to asvit run --recipe.")


def _without(content: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """An experiment's fields without some of them; of fields with several kinds, only the chosen one is there."""
    for path in paths:
        *sections, name = path.split(".")
        section: Any = content
        for part in sections:
            section = section.get(part) if isinstance(section, Mapping) else None
        if isinstance(section, dict):
            section.pop(name, None)
    return content


def _differences(content: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The fields whose values are not the usual ones."""
    differing: dict[str, Any] = {}
    for name, value in content.items():
        before = usual.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = _differences(value, before)
            if value:
                differing[name] = value
        elif value != before:
            differing[name] = value
    return differing
