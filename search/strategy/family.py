"""The grown family at stated sizes: the nearest member for each target, as a Model Garden YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asvit_tf.dataloaders import experiment_yaml
from asvit_tf.design.topology import STRIDE
from asvit_tf.errors import UserError
from asvit_tf.storage import write_text
from search.strategy.limits import Limits

_NEAR = 0.1  # A member serves a target if it has so much more or less, relative to the target.
# Stochastic depth by parameters, in millions: the usual rates for networks of these sizes.
_STOCHASTIC_DEPTH = ((40, 0.2), (70, 0.3), (float("inf"), 0.5))

_COMMENT = """\
{topology}
{millions:.2f} M parameters, {giga_macs:.2f} G multiply-accumulates at {rows} x {columns}; grown for {target:g} M.

The hardware is another file: tpu.yaml (with --tpu=NAME) or gpu.yaml.
asvit train --experiment=asvit_imagenet --mode=train_and_eval --model_dir=DIR --config_file=THIS_FILE \\
  --config_file=official_configs/gpu.yaml \\
  --params_override=task.train_data.input_path=TRAIN*,task.validation_data.input_path=VALID*
"""


def parse_targets(text: str | None, least: int, most: int) -> tuple[float, ...]:
    """Targets in millions of parameters from "29,53,88"; none from None.

    Args:
      text: Numbers, separated by commas.
      least, most: Parameters where the family starts and stops.

    Raises:
      UserError: Not numbers, or out of reach.
    """
    if text is None:
        return ()
    try:
        targets = tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UserError(f"targets is {text!r}; expected millions of parameters, as in 29,53,88") from None
    for target in targets:
        if not least / (1 + _NEAR) <= target * 1e6 <= most * (1 + _NEAR):
            raise UserError(
                f"target {target:g} M is out of reach: this growth starts at {least / 1e6:.2f} M and stops at "
                f"{most / 1e6:.2f} M; see --stop_parameters and --max_parameters"
            )
    return targets


def nearest(family: Sequence[Mapping[str, Any]], target: float) -> Mapping[str, Any]:
    """The member whose parameters are nearest to `target` millions."""
    return min(family, key=lambda member: abs(member["parameters"] - target * 1e6))


def write_configs(
    directory: Path, family: Sequence[Mapping[str, Any]], targets: Sequence[float], limits: Limits
) -> tuple[dict[str, str], list[str]]:
    """Writes a YAML for each target that a member is near to.

    Args:
      directory: Receives `asvit_29m.yaml` and so on.
      family: What growth returns.
      targets: Millions of parameters.
      limits: Whose image size and classes were counted.

    Returns:
      Path by target, and a line for each target that no member is near to.
    """
    written, missed = {}, []
    for target in targets:
        member = nearest(family, target)
        millions = member["parameters"] / 1e6
        if abs(millions - target) > _NEAR * target:
            missed.append(f"no member is within {_NEAR:.0%} of {target:g} M; the nearest has {millions:.2f} M")
            continue
        directory.mkdir(exist_ok=True)
        path = directory / f"asvit_{target:g}m.yaml"
        write_text(path, _yaml(member, target, limits))
        written[f"{target:g}"] = str(path)
    return written, missed


def _yaml(member: Mapping[str, Any], target: float, limits: Limits) -> str:
    """The experiment of a member, and in its comment what it is, its size, and how it is trained."""
    rows, columns = limits.image_size
    millions = member["parameters"] / 1e6
    comment = _COMMENT.format(
        topology=member["topology"],
        millions=millions,
        giga_macs=member["macs"] / 1e9,
        rows=rows,
        columns=columns,
        target=target,
    )
    rate = next(rate for limit, rate in _STOCHASTIC_DEPTH if millions < limit)
    asvit = dict(topology=member["topology"], stochastic_depth=rate)
    if limits.base_stride != STRIDE:
        asvit.update(base_stride=limits.base_stride, stride=limits.base_stride)
    backbone = dict(type="asvit", asvit=asvit)
    model = dict(num_classes=limits.num_classes, input_size=[rows, columns, 3], backbone=backbone)
    return experiment_yaml.text(dict(task=dict(model=model)), comment)
