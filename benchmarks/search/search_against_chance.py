"""Does the search find a topology better than chance? The found one against random ones of similar cost.

    python benchmarks/search/search_against_chance.py --save_dir DIR [--predictor FILE | --arch TOPOLOGY] [--steps 200]
    python benchmarks/search/search_against_chance.py --save_dir DIR --data_path FOLDER [--strategy evolution]

REINFORCE with its released settings, or another strategy of `asvit search`, searches at the study's image size and
width on the study's images, by its released measures or by the accuracy that a study's predictor expects (or a topology
is given); ten random topologies of the same space with multiply-accumulates within 10 % of the found one's are drawn;
all are trained by the study's recipe with three seeds. Images are the study's digits, or a folder with one subfolder
for each class. The data and the search lie in DIR, rows go to benchmarks/results/search_against_chance.jsonl (or the
file that --results names) as they are finished; started again, it continues.
"""

import contextlib
import dataclasses
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np
import tqdm

from asvit_tf.choices import PREDICTED, SEARCH_STRATEGIES, SEARCHED
from asvit_tf.design.topology import Topology
from asvit_tf.journals import Journal, workspace
from search.scoring.predictor import Predictor
from search.study import result as study_result
from search.study.settings import EARLIER, StudySettings
from search.study.statistics import percentiles

RESULTS = Path(__file__).parents[1] / "results" / "search_against_chance.jsonl"
SIMILAR = 0.1
TRIES = 100_000


def recipe(settings, num_classes):
    """All that an accuracy depends on besides the topology and the seed; of before there was a choice, as it was."""
    names = ("dataset", "epochs", "batch_size", "learning_rate", "gradient_clip_norm", "image_size")
    later = [name for name in ("base_stride", "initialization") if getattr(settings, name) != EARLIER[name]]
    folder = {} if settings.data_path is None else dict(data_path=settings.data_path, num_classes=num_classes)
    return {**{name: getattr(settings, name) for name in (*names, *later)}, **folder}


def macs(settings, topology, num_classes):
    return study_result.sizes(settings.size, topology, num_classes, settings.stride)["macs"]


def random_ones(settings, found, count, num_classes):
    """Different topologies whose multiply-accumulates are within a tenth of the found one's."""
    generator = np.random.default_rng([settings.seed, 1])
    its, drawn = macs(settings, found, num_classes), {}
    for _ in range(TRIES):
        if len(drawn) == count:
            return list(drawn.values())
        indices = [int(generator.integers(len(options))) for options in settings.sampled.choices.values()]
        topology = settings.sampled.topology_at(indices)
        if topology != found and abs(macs(settings, topology, num_classes) / its - 1) <= SIMILAR:
            drawn.setdefault(str(topology), topology)
    raise click.ClickException(f"{len(drawn)} of {TRIES} random topologies are of similar size, {count} are needed")


def searched(directory, settings, images, num_classes, steps, strategy, predictor):
    """The topology that a strategy finds on these images; scored, as it is trained, at the study's width."""
    from search.scoring.predicting import scorer_of
    from search.scoring.score import Remembered
    from search.scoring.settings import ScoringSettings
    from search.strategy import loop
    from search.strategy.limits import Limits
    from search.strategy.settings import SearchSettings

    measures = SEARCHED if predictor is None else (PREDICTED,)
    chosen = ScoringSettings(
        image_size=settings.size,
        base_stride=settings.stride,
        seed=settings.seed,
        measures=measures,
        predictor=predictor,
    )
    if predictor is not None:
        chosen = dataclasses.replace(chosen, repeats=settings.repeats)
    chosen.check_images(len(images))
    base = scorer_of(chosen, images)
    limits = Limits(image_size=settings.size, num_classes=num_classes, base_stride=settings.stride)
    options = SearchSettings(total_steps=steps, seed=settings.seed, reward_types=measures, strategy=strategy)
    identity = dict(image_size=settings.size, seed=settings.seed, steps=steps, measures=measures, strategy=strategy)
    if predictor is not None:
        identity["predictor"] = predictor.identity()
    with workspace(directory / "search", identity, {"strategy": SEARCH_STRATEGIES[0]}) as owned:
        remembered = Remembered(base, owned / "scores.jsonl")

        result = loop.search(owned, options, remembered, limits, settings.sampled, progress=True)
    return Topology.parse(result["topology"])


def report(rows, found, others, seeds):
    """Lines for docs/study.md."""
    accuracies = {name: [row["accuracy"] for row in rows if row["topology"] == name] for name in (found, *others)}
    failed = [name for name, values in accuracies.items() if None in values or len(values) < seeds]
    for name in failed:
        yield f"failed, not ranked: {name}: {accuracies.pop(name)}"
    if found in failed or len(accuracies) < 3:
        return
    means = {name: statistics.fmean(values) for name, values in accuracies.items()}
    for name, mean in sorted(means.items(), key=lambda item: -item[1]):
        label = "found " if name == found else "random"
        yield f"{label} {name:<44} {mean:.4f} ({', '.join(f'{value:.4f}' for value in accuracies[name])})"
    chance = [mean for name, mean in means.items() if name != found]
    rank = 1 + sum(mean > means[found] for mean in chance)
    difference = means[found] - statistics.fmean(chance)
    generator = np.random.default_rng(0)
    others = [np.array(values) for name, values in accuracies.items() if name != found]

    def again(values):
        """Mean over seeds drawn anew."""
        return generator.choice(values, len(values)).mean()

    drawn = []
    for _ in range(2000):  # Both what chance put among the random ones, and what it did to every training.
        resampled = [again(others[i]) for i in generator.integers(len(others), size=len(others))]
        drawn.append(again(accuracies[found]) - np.mean(resampled))
    yield f"found {means[found]:.4f}, deviation over seeds {statistics.stdev(accuracies[found]):.4f}"
    yield f"random: mean {statistics.fmean(chance):.4f}, deviation over topologies {statistics.stdev(chance):.4f}"
    low, high = percentiles(np.array(drawn))
    yield f"found less the mean of random {difference:+.4f}, interval of that mean difference [{low:+.4f}, {high:+.4f}]"
    # Were the found one a random one too, every rank would be as likely.
    yield f"rank {rank} of {len(means)}: by chance with a probability of {rank / len(means):.3f}"


@click.command()
@click.option("--arch", help="Topology to compare, instead of searching one.")
@click.option("--data_path", type=click.Path(exists=True), help="Folder, one subfolder a class.  [default: digits]")
@click.option("--strategy", default=SEARCH_STRATEGIES[0], show_default=True, type=click.Choice(SEARCH_STRATEGIES))
@click.option("--predictor", type=click.Path(), help="Of a study, to search by.")
@click.option("--results", default=str(RESULTS), show_default=True, type=click.Path(), help="Receives the rows.")
@click.option("--steps", default=200, show_default=True, help="Of the search.")
@click.option("--others", default=10, show_default=True, type=click.IntRange(min=2), help="Random topologies.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=2), help="Trainings of each.")
@click.option("--epochs", default=StudySettings.epochs, show_default=True)
@click.option("--space", default=StudySettings.space, show_default=True)
@click.option("--base_stride", type=int, help="[default: by the image size]")
@click.option("--width", default=StudySettings.width, show_default=True)
@click.option("--initialization", default=StudySettings.initialization, show_default=True)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--save_dir", required=True, type=click.Path(), help="Holds the data and the search.")
def main(arch, data_path, strategy, predictor, results, steps, others, seeds, workers, save_dir, **options):
    from search.runs.search_settings import WorkerSettings
    from search.runs.workers import Pool
    from search.study import run as study
    from search.study import work as study_work

    if data_path is not None:
        options.update(dataset=None, data_path=os.path.abspath(data_path))
    settings = StudySettings(**options)
    directory = Path(save_dir).resolve()  # A worker may have another working directory.
    by = None if predictor is None else Predictor.read(predictor)
    with contextlib.ExitStack() as stack:
        stack.enter_context(workspace(directory, settings.identity(), EARLIER))
        images, shares, _ = study.prepare(directory, settings)
        classes = len(shares)
        if arch is None:
            found = searched(directory, settings, images, classes, steps, strategy, by)
        else:
            found = Topology.parse(arch)
        compared = list(map(str, (found, *random_ones(settings, found, others, classes))))
        by_search = strategy if arch is None else None
        key = dict(strategy=by_search, macs=macs(settings, found, classes), recipe=recipe(settings, classes))
        journal = Journal(Path(results))
        done = {(row["topology"], row["seed"]) for row in journal.rows if row["recipe"] == key["recipe"]}
        numbers = range(settings.seed, settings.seed + seeds)
        calls = [
            (settings, str(directory), topology, seed)
            for seed in numbers
            for topology in compared
            if (topology, seed) not in done
        ]
        for row in tqdm.tqdm(Pool(WorkerSettings(workers, 1)).map(study_work.train_again, calls), total=len(calls)):
            journal.append({**row, "found": row["topology"] == compared[0], **key})
    rows = [
        row
        for row in journal.rows
        if row["recipe"] == key["recipe"] and row["topology"] in compared and row["seed"] in numbers
    ]
    rows = study_result.without_guessing(rows, shares)
    print(json.dumps(dict(found=compared[0], macs=key["macs"], epochs=settings.epochs, seeds=seeds)))
    print("\n".join(report(rows, compared[0], compared[1:], seeds)))


if __name__ == "__main__":
    main()
