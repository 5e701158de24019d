"""The command `asvit describe`. No TensorFlow."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from asvit_tf.cli.console import AS_JSON, print_json
from asvit_tf.design import counting, retokenization, savings
from asvit_tf.design.topology import Topology


@click.command()
@click.argument("topology")
@click.option("--image-size", default=224, show_default=True, help="Pixels per side.")
@click.option("--num-classes", default=1000, show_default=True, help="Classes of the head.")
@click.option(
    "--position-embedding/--no-position-embedding",
    default=True,
    show_default=True,
    help="Count the position embedding.",
)
@click.option(
    "--retokenization",
    "preset",
    type=click.Choice(list(retokenization.PRESETS)),
    default="thirds",
    show_default=True,
    help="Schedule whose phases are counted.",
)
@AS_JSON
def describe(
    topology: str, image_size: int, num_classes: int, position_embedding: bool, preset: str, as_json: bool
) -> None:
    """Prints shapes, parameters and multiply-accumulates of TOPOLOGY, a topology string or a named size."""
    parsed = Topology.parse(topology)
    size = (image_size, image_size)
    counted = counting.count(parsed, size, num_classes, position_embedding=position_embedding)
    shares = 300  # Epochs; the shares of the presets are whole numbers of them.
    schedule = retokenization.Schedule.preset(
        preset, shares, parsed.stages[0].kernel_size, transition=0, image_size=size
    )
    phases = savings.plan(parsed, schedule, shares, size, num_classes, position_embedding=position_embedding)
    result: dict[str, Any] = dict(
        topology=str(parsed),
        image_size=image_size,
        num_classes=num_classes,
        position_embedding=position_embedding,
        parameters=counted.parameters,
        macs=counted.macs,
        stages=[dataclasses.asdict(stage) for stage in counted.stages],
        retokenization=dict(
            preset=preset,
            phases=[
                dict(
                    stride=phase.stride,
                    dilation=phase.dilation,
                    token_grid=phase.token_grid,
                    share_of_steps=phase.steps / shares,
                    macs=phase.macs,
                    share=phase.share,
                )
                for phase in phases
            ],
            saved=savings.planned_saving(phases),
        ),
    )
    if as_json:
        print_json(result)
        return
    click.echo(
        f"{parsed}\n{'stage':<7}{'tokens':<11}{'width':<7}{'depth':<7}{'heads x dim':<13}{'window':<9}"
        f"{'parameters':>12}{'MACs':>16}"
    )
    for number, stage in enumerate(counted.stages, start=1):
        click.echo(
            f"{number:<7}{_by(stage.token_grid):<11}{stage.width:<7}{stage.depth:<7}"
            f"{f'{stage.num_heads} x {stage.head_dim}':<13}{_by(stage.window):<9}"
            f"{stage.parameters:>12,}{stage.macs:>16,}"
        )
    click.echo(f"{'total':<54}{counted.parameters:>12,}{counted.macs:>16,}")
    click.echo(f"\nre-tokenization {preset!r} over {shares} epochs:\n{savings.plan_in_words(phases)}")


def _by(sides: tuple[int, int]) -> str:
    return f"{sides[0]} x {sides[1]}"
