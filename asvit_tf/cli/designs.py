"""The commands describe, without TensorFlow, and complexity: what is known of a topology before training."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from asvit_tf.choices import PROXIES, RELEASED_MEASURES, SHAPE_MEASURES
from asvit_tf.cli.console import (
    AS_JSON,
    Choice,
    echo_skipped,
    only_result_on_stdout,
    print_json,
    quiet_tensorflow,
    scoring_hardware,
)
from asvit_tf.cli.options import BASE_STRIDE, HARDWARE_OF_SCORES, IMAGES, MEASURING
from asvit_tf.design import counting, grids, retokenization, savings
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError


@click.command()
@click.argument("topology")
@click.option("--image-size", default=224, show_default=True, help="Pixels per side.")
@BASE_STRIDE
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
    type=Choice(list(retokenization.PRESETS)),
    default="thirds",
    show_default=True,
    help="Schedule whose phases are counted.",
)
@AS_JSON
def describe(
    topology: str,
    image_size: int,
    base_stride: int | None,
    num_classes: int,
    position_embedding: bool,
    preset: str,
    as_json: bool,
) -> None:
    """Prints shapes, parameters and multiply-accumulates of TOPOLOGY, a topology string or a named size."""
    parsed = Topology.parse(topology)
    size = (image_size, image_size)
    counting.check_sizes(size, num_classes)
    options: dict[str, Any] = dict(
        base_stride=base_stride or grids.base_stride(size), position_embedding=position_embedding
    )
    counted = counting.count(parsed, size, num_classes, **options)
    shares = 300  # Epochs; the shares of the presets are whole numbers of them.
    schedule = retokenization.Schedule.preset(
        preset,
        shares,
        parsed.stages[0].kernel_size,
        transition=0,
        image_size=size,
        base_stride=options["base_stride"],
    )
    phases = savings.plan(parsed, schedule, shares, size, num_classes, **options)
    result: dict[str, Any] = dict(
        topology=str(parsed),
        image_size=image_size,
        num_classes=num_classes,
        **options,
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
    rule = "given" if base_stride else "4 from 96 pixels a side, 2 from 32, 1 below"
    click.echo(
        f"{parsed}\n{image_size} x {image_size} pixels, base stride {options['base_stride']} ({rule})\n"
        f"{'stage':<7}{'tokens':<11}{'width':<7}{'depth':<7}{'heads x dim':<13}{'window':<9}"
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


@click.command()
@click.argument("topology")
@IMAGES
@MEASURING
@click.option(
    "--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Draws of weights and circles."
)
@click.option(
    "--seed", default=8, show_default=True, type=click.IntRange(min=0), help="Seed of weights, circles and images."
)
@click.option(
    "--measures",
    help="Measures by name, with commas, or all.  [default: those along the circle, and the NTK condition number]",
)
@HARDWARE_OF_SCORES
@AS_JSON
def complexity(
    topology: str,
    measures: str | None,
    dataset: str | None,
    data_path: str | None,
    data_dir: str | None,
    batch_size: int,
    image_size: int,
    base_stride: int | None,
    seed: int,
    hardware: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Measures TOPOLOGY without training: length distortion, curvature, both, NTK condition number, or --measures.

    TOPOLOGY is a topology string or a named size. Prints means over the repeats, with their standard errors, and the
    seconds of a repeat; measures that share a computation are each given its seconds.
    """
    chosen_measures = _measures(measures)
    parsed = Topology.parse(topology)
    if dataset is None and data_path is None:
        dataset = "noise"
    with only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf.dataloaders import images
        from asvit_tf.measures import complexity
        from search.scoring.settings import ScoringSettings
        from search.scoring.training_free import TrainingFreeScorer

        size = (image_size, image_size)
        source = images.Source.of_flags(dataset, data_path, data_dir)
        scoring_hardware(hardware)
        sample, skipped = images.sample(source, batch_size, size, seed, progress=True)
        stride = base_stride or grids.base_stride(size)
        chosen = ScoringSettings(image_size=size, base_stride=stride, seed=seed, measures=chosen_measures, **settings)
        score = TrainingFreeScorer(chosen, sample, profile=True).score(parsed)
    third = score.measures.get("length_distortion_with_curvature")
    turning = None if third is None else complexity.turning_number(third)
    # Fewer points lie opposite each other, and any odd map fits them.
    nonlinearity, axis_ratio = (score.measures.get(name) if chosen.points >= 5 else None for name in SHAPE_MEASURES)
    parts = ("trace", "forward", "measures", "ntk", "published", *PROXIES)
    seconds = {name: score.split[name] for name in parts if name in score.split}
    result = dict(
        topology=str(parsed),
        **score.measures,
        turning_number=turning,
        linear=None if nonlinearity is None else complexity.is_linear(nonlinearity),
        standard_errors=score.errors,
        undefined={name: dict(repeats=count, reason=score.reasons[name]) for name, count in score.failures.items()},
        **skipped.as_dict(),
        seconds=seconds,
    )
    if as_json:
        print_json(result)
        return
    click.echo(f"{parsed}\n{'measure':<34}{'mean':>14}{'standard error':>17}{'seconds':>10}")
    for name, value in score.measures.items():
        error = score.errors[name]
        columns = "undefined" if value is None else f"{value:.6g}", "" if error is None else f"{error:.2g}"
        part = name if name in PROXIES else "ntk" if name == "ntk_condition_number" else "measures"
        click.echo(f"{name:<34}{columns[0]:>14}{columns[1]:>17}{seconds[part]:>10.2f}")
    for name, count in score.failures.items():
        click.echo(f"{name}: undefined in {count} of {chosen.repeats} repeats: {score.reasons[name]}")
    if turning is not None and nonlinearity is not None and axis_ratio is not None:
        click.echo(complexity.in_words(turning, nonlinearity, axis_ratio))
    elif turning is not None:
        click.echo(f"turning number {turning:.4f}")
    whole = {name: value for name, value in seconds.items() if name not in PROXIES}
    click.echo("seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in whole.items()))
    echo_skipped(result)


def _measures(text: str | None) -> tuple[str, ...]:
    """Measures by name.

    Raises:
      UserError: One is unknown.
    """
    own = (*RELEASED_MEASURES, *SHAPE_MEASURES)
    if text is None:
        return own
    allowed = (*own, *PROXIES)
    if text.strip() == "all":
        return allowed
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in names:
        if name not in allowed:
            raise UserError(f"unknown measure {name!r}; allowed are all, {', '.join(allowed)}")
    return names
