"""The commands search and grow; `search/reinforce.py` and `search/grow.py` run them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asvit_tf.choices import PREDICTED, RANKABLE, SEARCH_STRATEGIES, SEARCHED
from asvit_tf.cli.console import (
    AS_JSON,
    echo_skipped,
    only_result_on_stdout,
    print_json,
    quiet_tensorflow,
    scoring_hardware,
)
from asvit_tf.cli.options import (
    HARDWARE_OF_SCORES,
    IMAGES,
    MEASURING,
    Choice,
    PathName,
    Positive,
    together,
    worker_options,
)
from asvit_tf.design import grids
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError

if TYPE_CHECKING:
    from search.runs.search_settings import ScoredRun
    from search.scoring.predictor import Predictor


_SEARCHING = together(
    click.option("--save-dir", required=True, type=PathName(), help="Directory for results; continued if it exists."),
    click.option("--timestamp", default="none", show_default=True, help="Subdirectory of --save-dir, or none."),
    IMAGES,
    MEASURING,
    click.option(
        "--repeats",
        "--repeat",
        default=5,
        show_default=True,
        type=click.IntRange(min=1),
        help="Draws of weights that a score averages.",
    ),
    click.option(
        "--reward-types",
        help="ntk_exp, ntk, exp, or measures by name, with commas.  [default: ntk_exp, or predicted_accuracy with a "
        "predictor]",
    ),
    click.option(
        "--predictor", type=PathName(), help="predictor.json of asvit study, for the measure predicted_accuracy."
    ),
    click.option("--max-macs", type=Positive(), help="Most multiply-accumulates of an image, in billions."),
    click.option(
        "--num-classes",
        default=1000,
        show_default=True,
        type=click.IntRange(min=1),
        help="Classes of the classifier whose parameters are counted.",
    ),
    HARDWARE_OF_SCORES,
    worker_options(" that score topologies side by side; each has one of the GPUs, in turn"),
    AS_JSON,
)
# As in the released code.
_ALIASES = {"ntk_exp": SEARCHED, "exp": ("length_distortion",), "ntk": ("ntk_condition_number",)}


@click.command()
@_SEARCHING
@click.option(
    "--rand-seed",
    "--seed",
    "seed",
    default=8,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of policy, weights, circles and images.",
)
@click.option(
    "--strategy",
    default=SEARCH_STRATEGIES[0],
    show_default=True,
    type=Choice(SEARCH_STRATEGIES),
    help="What proposes topologies.",
)
@click.option("--total-steps", default=500, show_default=True, help="Updates of the policy.")
@click.option(
    "--samples-per-step",
    default=1,
    show_default=True,
    help="Topologies in one update, scored side by side by the workers.",
)
@click.option("--max-parameters", type=Positive(), help="Most parameters, in millions.")
@click.option("--learning-rate", default=0.08, show_default=True, type=Positive(), help="Learning rate of Adam.")
@click.option(
    "--ema-momentum",
    "--EMA-momentum",
    "ema_momentum",
    default=0.9,
    show_default=True,
    help="Momentum of the reward baseline.",
)
@click.option(
    "--te-buffer-size", "buffer_size", default=20, show_default=True, help="Recent values whose range scales a reward."
)
def search(seed: int, as_json: bool, **options: Any) -> None:
    """Searches a seed topology by training-free measures. Start it again, and it continues."""
    names = ("strategy", "total_steps", "samples_per_step", "learning_rate", "ema_momentum", "buffer_size")
    policy = _take(options, names)
    with only_result_on_stdout():
        quiet_tensorflow()
        from search.runs import searches
        from search.strategy.settings import SearchSettings

        directory, run = _run_of(options, seed)
        settings = SearchSettings(seed=seed, reward_types=run.scoring.measures, **policy)
        result = searches.search(directory, settings, run)
    if as_json:
        print_json(result)
        return
    click.echo(f"topology  {result['topology']}")
    for name, value in result["scores"].items():
        click.echo(f"  {name}  " + ("undefined" if value is None else f"{value:.6g}"))
    click.echo(f"  {result['parameters'] / 1e6:.2f} M parameters, {result['macs'] / 1e9:.2f} G multiply-accumulates")
    click.echo(f"steps     {result['steps']}, {result['failed']} topologies could not be scored")
    echo_skipped(result)
    click.echo(f"figure    {result['figure']}")


@click.command()
@_SEARCHING
@click.option(
    "--arch", required=True, help="Seed topology, or a named size; growth starts with one block a stage and --width."
)
@click.option(
    "--rand-seed",
    "--seed",
    "seed",
    default=27,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seed of weights, circles and images.",
)
@click.option("--width", default=32, show_default=True, type=click.IntRange(min=1), help="Width to start from.")
@click.option(
    "--proxy-divisor",
    default=4,
    show_default=True,
    type=click.IntRange(min=1),
    help="Candidates are scored at their width divided by this.",
)
@click.option(
    "--max-parameters", default=110.0, show_default=True, type=Positive(), help="Most parameters, in millions."
)
@click.option(
    "--stop-parameters", default=80.0, show_default=True, type=Positive(), help="Growth ends here, in millions."
)
@click.option("--targets", help="Sizes in millions, with commas: the nearest members become YAMLs in SAVE_DIR/configs.")
def grow(arch: str, seed: int, as_json: bool, targets: str | None, **options: Any) -> None:
    """Grows a seed topology, depth and width, into a family of sizes. Start it again, and it continues."""
    stop_parameters = round(options.pop("stop_parameters") * 1e6)
    growth = _take(options, ("width", "proxy_divisor"))
    topology = Topology.parse(arch)
    with only_result_on_stdout():
        quiet_tensorflow()
        from search.runs import searches
        from search.strategy.settings import GrowthSettings

        directory, run = _run_of(options, seed)
        settings = GrowthSettings(stop_parameters=stop_parameters, **growth)
        result = searches.grow(directory, topology, settings, targets, run)
    if as_json:
        print_json(result)
        return
    click.echo(f"{'parameters':>12}{'MACs':>12}  topology")
    for member in result["family"]:
        click.echo(f"{member['parameters'] / 1e6:>10.2f} M{member['macs'] / 1e9:>10.2f} G  {member['topology']}")
    for target, path in result["configs"].items():
        click.echo(f"{target} M: {path}")
    echo_skipped(result)
    click.echo("\n".join([*result["missed"], f"figure {result['figure']}"]))


def _take(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Takes these out of the options."""
    return {name: options.pop(name) for name in names}


def _run_of(options: Mapping[str, Any], seed: int) -> tuple[Path, ScoredRun]:
    """The directory, and the settings that search and growth share, from their flags (`_SEARCHING`)."""
    from search.runs.search_settings import ImageSettings, ScoredRun, SizeSettings, WorkerSettings
    from search.scoring.predictor import Predictor
    from search.scoring.settings import ScoringSettings

    def of(settings: type) -> dict[str, Any]:
        fields = {field.name for field in dataclasses.fields(settings)}
        return {name: value for name, value in options.items() if name in fields}

    images = ImageSettings(**of(ImageSettings))
    predictor = None if options["predictor"] is None else Predictor.read(options["predictor"])
    fitting = predictor.base_stride if predictor else grids.base_stride(images.size)
    scoring = {
        **of(ScoringSettings),
        "image_size": images.size,
        "base_stride": options["base_stride"] or fitting,
        "seed": seed,
        "measures": _measures(options["reward_types"], predictor),
        "predictor": predictor,
    }
    run = ScoredRun(
        images,
        ScoringSettings(**scoring),
        SizeSettings(**of(SizeSettings)),
        WorkerSettings(options["workers"], options["worker_threads"], cluster=options["cluster"]),
    )
    gpus = scoring_hardware(options["hardware"]).worker_gpus()
    run = dataclasses.replace(run, workers=dataclasses.replace(run.workers, gpus=gpus))
    directory = Path(options["save_dir"])
    return (directory if options["timestamp"] == "none" else directory / options["timestamp"]), run


def _measures(text: str | None, predictor: Predictor | None) -> tuple[str, ...]:
    """Measures by name or by the released code's words for them.

    Raises:
      UserError: One is unknown.
    """
    if text is None:
        text = "ntk_exp" if predictor is None else PREDICTED
    words = [word.strip() for word in text.split(",")]
    names = tuple(dict.fromkeys(name for word in words for name in _ALIASES.get(word, (word,))))
    for name in names:
        if name not in RANKABLE:
            raise UserError(f"unknown measure {name!r}; allowed are {', '.join((*_ALIASES, *RANKABLE))}")
    return names
