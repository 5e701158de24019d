"""The benchmarks that choose a measure and judge it: halves, signs, regressions, what they refuse. No measuring."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner

from search.scoring.names import column_names
from search.strategy.space import PUBLISHED
from search.study.statistics import tau_b

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SIZES = ("parameters", "macs")


@pytest.fixture(scope="module")
def benchmarks():
    names = ("split_halves", "vit_bench", "measured_sets", "choose_measure")
    sys.path.insert(0, str(BENCHMARKS))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(BENCHMARKS))
    for name in names:
        del sys.modules[name]


def topologies(count, width=32):
    generator = np.random.default_rng(0)
    drawn = [[int(generator.integers(len(options))) for options in PUBLISHED.choices.values()] for _ in range(count)]
    return tuple(str(PUBLISHED.topology_at(indices)).replace(",32", f",{width}") for indices in drawn)


def networks(benchmarks, name, count=120, seed=0, width=32, better=1.0):
    """SNIP says which is better, and parameters which is worse, or better; everything else is noise."""
    generator = np.random.default_rng(seed)
    columns = {column: np.exp(generator.standard_normal(count)) for column in (*column_names(), *SIZES)}
    true = np.log(columns["snip"]) - 0.5 * better * np.log(columns["parameters"])
    accuracy = 0.7 + 0.01 * (true + 0.3 * generator.standard_normal(count))
    return benchmarks.measured_sets.Networks(name, columns, accuracy, topologies(count, width))


def test_a_regression_on_sizes_that_say_nothing_says_nothing_and_not_the_reverse(benchmarks, monkeypatch):
    """Accuracies that do not correlate with the sizes have a tau of -0.7 with predictions of each network from all
    others."""
    halves, ones = benchmarks.split_halves, np.ones((1, 60))
    monkeypatch.setattr(halves, "SPLITS", 6)
    taus = {"noise": [], "residual": [], "sizes": []}
    for seed in range(20):
        generator = np.random.default_rng(seed)
        known, noise = generator.standard_normal((60, 2)), generator.standard_normal(60)
        design = np.concatenate([known, np.ones((60, 1))], axis=1)
        kinds = dict(noise=noise, residual=noise - design @ np.linalg.lstsq(design, noise, rcond=None)[0])
        columns = dict(zip(SIZES, np.exp(known.T)))
        for kind, accuracy in dict(**kinds, sizes=known[:, 1] + 0.2 * noise).items():
            taus[kind] += list(halves.taus_within(halves.predicted_by(SIZES, columns, accuracy), accuracy, ones))
    assert abs(np.mean(taus["noise"])) < 0.05  # Three standard errors.
    assert min(taus["residual"]) > -0.3
    assert min(taus["sizes"]) > 0.7


def test_a_half_is_judged_by_a_line_of_the_other_half_only(benchmarks):
    halves = benchmarks.split_halves
    columns = {name: np.exp(np.random.default_rng(1).standard_normal(30)) for name in SIZES}
    accuracy = np.random.default_rng(2).standard_normal(30)
    before = halves.predicted_by(SIZES, columns, accuracy)
    _, judged = next(halves.halves(30))
    changed = accuracy.copy()
    changed[judged] = changed[judged][::-1] + 5
    after = halves.predicted_by(SIZES, columns, changed)
    np.testing.assert_array_equal(before[0], after[0])
    assert np.flatnonzero(np.isfinite(before[0])).tolist() == sorted(judged)
    assert not np.array_equal(before[1], after[1], equal_nan=True)
    taus = [tau_b(part[np.isfinite(part)], accuracy[np.isfinite(part)]) for part in before]
    (mean,) = halves.taus_within(before, accuracy, np.ones((1, 30)))
    assert mean == pytest.approx(np.mean(taus))


def test_a_regression_of_noise_is_no_worse_a_candidate_than_noise(benchmarks, monkeypatch):
    """Ranks that do not correlate with those of the sizes; by leaving each network out, tau would be below -0.6."""
    monkeypatch.setattr(benchmarks.split_halves, "SPLITS", 6)
    places = np.linspace(-1, 1, 60)
    columns = dict(parameters=places, macs=np.random.default_rng(0).permutation(60))
    one, other = (benchmarks.measured_sets.Networks(name, columns, np.abs(places)) for name in ("one", "other"))
    regression = benchmarks.choose_measure._regression
    assert -0.3 < regression("on sizes", ["parameters"], [one])["taus"]["one"] < 0.1
    opposite = other._replace(columns={**columns, "parameters": -places})
    found = regression("on sizes", list(SIZES), [one, opposite])
    assert list(found["taus"]) == ["one", "other"]
    assert found["weights"]["parameters"] == pytest.approx(0, abs=0.01)


def test_no_topology_that_judges_has_chosen_in_any_study_of_any_order_and_width(benchmarks):
    half, choices_of = benchmarks.measured_sets.half, benchmarks.measured_sets.choices_of
    photographs = networks(benchmarks, "photographs")
    digits = networks(benchmarks, "digits", count=150, seed=1, width=16)
    digits = digits._replace(topologies=digits.topologies[::-1])
    chose = {choices_of(topology) for each in (digits, photographs) for topology in half(each, False).topologies}
    judging = half(photographs, True)
    assert not chose & set(map(choices_of, judging.topologies))
    assert 40 < len(judging.topologies) < 80
    assert judging.name == "photographs, judging"
    rows = [photographs.topologies.index(topology) for topology in judging.topologies]
    np.testing.assert_array_equal(judging.accuracy, photographs.accuracy[rows])
    np.testing.assert_array_equal(judging.columns["snip"], photographs.columns["snip"][rows])
    # More topologies, and another order, move none to the other half.
    more = half(networks(benchmarks, "photographs", count=150), True)
    assert more.topologies[: len(judging.topologies)] == judging.topologies


@pytest.fixture
def studies(benchmarks, monkeypatch):
    """Two directories that are read as studies, and ViT-Bench with a set of twelve networks measured at 64 pixels."""
    found = {name: networks(benchmarks, name, seed=seed) for seed, name in enumerate(("digits", "photographs"))}
    monkeypatch.setattr(benchmarks.choose_measure, "study", lambda directory, name: found[name])
    monkeypatch.setattr(benchmarks.choose_measure, "DRAWS", 50)
    monkeypatch.setattr(benchmarks.split_halves, "SPLITS", 4)
    monkeypatch.setattr(benchmarks.vit_bench, "specification", specification)
    return found


def specification(name, row):
    size = row["hidden_dim"]
    return SimpleNamespace(
        parameters=lambda image_size, classes: 1000 + size**2, macs=lambda image_size: 10 + size, depth=size, width=size
    )


def bench_row(index, **changes):
    values = np.exp(np.random.default_rng(index).standard_normal(len(column_names())))
    measures = dict(zip(column_names(), values.tolist()))
    made = dict(images="a", repeats=1, points=10, seed=0)
    return {**dict(set="pit", index=index, image_size=64, **made, measures=measures), **changes}


def written(tmp_path, rows):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    generator = np.random.default_rng(5)
    bench = {"pit": [dict(hidden_dim=8 + i % 5, cifar_acc=generator.random()) for i in range(12)]}
    (tmp_path / "bench.json").write_text(json.dumps(bench))
    return ["--vit_bench", str(tmp_path / "rows.jsonl"), "--data", str(tmp_path / "bench.json")]


def run(benchmarks, *arguments):
    return CliRunner().invoke(benchmarks.choose_measure.main, [str(argument) for argument in arguments])


def chosen(benchmarks, tmp_path):
    studies = ("--digits", tmp_path, "--photographs", tmp_path)
    return run(benchmarks, "choose", *studies, "--output", tmp_path / "choice.json")


def refusal(result):
    """The line of an error."""
    assert result.exit_code == 2, result.output
    return result.output.strip().splitlines()[-1]


def test_what_was_chosen_is_judged_elsewhere_once(benchmarks, studies, tmp_path):
    assert chosen(benchmarks, tmp_path).exit_code == 0
    choice = json.loads((tmp_path / "choice.json").read_text())
    assert {"snip", "parameters"} <= choice["chosen"]["weights"].keys()
    assert (choice["signs"]["snip"], choice["signs"]["parameters"]) == (1.0, -1.0)
    halves = {name: benchmarks.measured_sets.half(each, False) for name, each in studies.items()}
    everyone = set(map(benchmarks.measured_sets.choices_of, halves["digits"].topologies))
    assert set(choice["topologies"]) == everyone
    result = run(
        benchmarks, "judge", "--choice", tmp_path / "choice.json", "--photographs", tmp_path,
        *written(tmp_path, map(bench_row, range(12))),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "| photographs, judging |" in result.output
    assert "| pit, cifar | 12 |" in result.output
    assert "is there, and a choice is made once" in refusal(chosen(benchmarks, tmp_path))


@pytest.mark.parametrize("change", ["signs", "topologies", "chosen"])
def test_a_choice_that_was_changed_judges_nothing(change, benchmarks, studies, tmp_path):
    chosen(benchmarks, tmp_path)
    path = tmp_path / "choice.json"
    choice = json.loads(path.read_text())
    content = {name: choice[name] for name in benchmarks.choose_measure.CHOICE}
    arguments = ("judge", "--choice", path, "--photographs", tmp_path, *written(tmp_path, [bench_row(0)]))
    path.write_text(json.dumps({**choice, change: choice[change] | {"new": 1.0} if change != "topologies" else []}))
    assert "its hash differs" in refusal(run(benchmarks, *arguments))
    path.write_text(json.dumps({name: part for name, part in choice.items() if name != change}))
    assert "another version wrote it" in refusal(run(benchmarks, *arguments))
    judging = benchmarks.measured_sets.half(studies["photographs"], True).topologies
    content["topologies"] = [*content["topologies"], benchmarks.measured_sets.choices_of(judging[0])]
    path.write_text(json.dumps({**content, "sha256": benchmarks.choose_measure.hashed(content)}))
    assert "1 topologies of" in refusal(run(benchmarks, *arguments))


def test_rivals_are_turned_as_the_choosing_sets_turn_them(benchmarks, studies):
    chooser = benchmarks.choose_measure
    sets = [benchmarks.measured_sets.half(each, False) for each in studies.values()]
    signs = chooser.signs_of(sets)
    found = list(chooser.candidates(sets, signs))
    best = next(each for each in found if each["kind"] == "measure" and "snip" in each["weights"])
    choice = dict(candidates=found, chosen=best, signs=signs)
    result = chooser.judged(choice, benchmarks.measured_sets.half(studies["photographs"], True))
    parameters = result["against"]["parameters"]
    assert parameters["tau"] > 0.15  # Fewer are better.
    assert parameters["difference"] == pytest.approx(result["tau"] - parameters["tau"])
    low, high = parameters["interval"]
    assert low <= parameters["difference"] <= high
    # Where more are better, the rival is wrong: what turns it is the choosing sets, not those that judge.
    other = chooser.judged(choice, networks(benchmarks, "other", seed=9, better=-1.0))
    assert other["against"]["parameters"]["tau"] == pytest.approx(-0.25, abs=0.15)


def test_against_a_regression_that_is_fitted_there_halves_are_compared(benchmarks, studies):
    """The chosen one is the logarithm of the size that the accuracy is: no difference in any half or sample."""
    there = networks(benchmarks, "there", seed=3)
    there = there._replace(accuracy=np.log(there.columns["macs"]))
    sizes = dict(kind=benchmarks.choose_measure.ON_SIZES, weights={"parameters": 1.0})
    choice = dict(candidates=[sizes], chosen=dict(weights={"macs": 1.0}), signs=dict.fromkeys(column_names(), 1.0))
    choice["signs"] |= dict.fromkeys(SIZES, 1.0)
    found = benchmarks.choose_measure.judged(choice, there)["against"]["ridge on the sizes, fitted here"]
    assert found["tau"] > 0.95
    assert 0 <= found["difference"] < 0.05
    assert found["difference"] == pytest.approx(1 - found["tau"])


def test_another_image_size_is_refused_with_those_that_are_there(benchmarks, studies, tmp_path):
    chosen(benchmarks, tmp_path)
    rows = [bench_row(0), bench_row(1, image_size=224)]
    arguments = ("judge", "--choice", tmp_path / "choice.json", "--photographs", tmp_path, *written(tmp_path, rows))
    assert refusal(run(benchmarks, *arguments, "--image_size", 32)).endswith("there are rows of 64, 224")


@pytest.mark.parametrize("change", [dict(images="b"), dict(repeats=2), dict(points=5), dict(seed=1)])
def test_no_table_mixes_images_or_settings(change, benchmarks, studies, tmp_path):
    bench = benchmarks.vit_bench
    rows = [*map(bench_row, range(11)), bench_row(11, **change)]
    with pytest.raises(click.UsageError, match=f"{next(iter(change))} of the rows differ"):
        bench.of_size(rows, 64)
    earlier = [{name: value for name, value in row.items() if name not in change} for row in rows[:11]]
    with pytest.raises(click.UsageError, match="differ: "):
        bench.of_size([*earlier, rows[0]], 64)
    assert bench.of_size(earlier, 64) == earlier
    command = ["--data", written(tmp_path, rows)[3], "--results", str(tmp_path / "rows.jsonl"), "--tables"]
    result = CliRunner().invoke(bench.main, [*command, "--image_size", "64"])
    assert "of the rows differ" in refusal(result)
    large = [bench_row(i, image_size=224, **change) for i in range(11)]
    if "images" in change:  # They differ with the size anyway.
        assert "11 networks at 64 and at 224" in "\n".join(bench.alike([*rows[:11], *large]))
    else:
        with pytest.raises(click.UsageError, match="of the rows differ"):
            list(bench.alike([*rows[:11], *large]))


def test_a_sample_of_other_images_is_another(benchmarks):
    images = np.zeros((2, 4, 4, 3), np.float32)
    made = benchmarks.vit_bench.made_by(images, repeats=2)
    assert (made["repeats"], made["points"], made["seed"]) == (2, 10, 0)
    assert made == benchmarks.vit_bench.made_by(images.copy(), 2)
    assert made["images"] != benchmarks.vit_bench.made_by(images + 1, 2)["images"]


def test_tables_of_rows_that_lack_a_measure_and_az_nas_by_hand(benchmarks, studies, tmp_path):
    bench = benchmarks.vit_bench
    rows = [bench_row(i) for i in range(12)]
    ranks = {"expressivity": [0, 1, 2], "trainability": [2, 1, 0], "progressivity": [2, 0, 1]}
    for i, row in enumerate(rows):
        del row["measures"]["l_swag"]  # Written before there was such a measure.
        row["measures"] |= {name: float(order[i]) for name, order in ranks.items() if i < 3}
    specs = [specification("pit", dict(hidden_dim=dim)) for dim in (8, 10, 9)]
    # Ranks from the worst, of 3: 1, 2, 3; then 3, 2, 1; then the MACs', 1, 3, 2. No progressivity.
    expected = np.log([1 * 3 * 1 / 27, 2 * 2 * 3 / 27, 3 * 1 * 2 / 27])
    np.testing.assert_allclose(bench.columns_of(rows[:3], specs)["az_nas"], expected)
    assert np.isnan(bench.columns_of(rows[:3], specs)["l_swag"]).all()
    content = json.loads(Path(written(tmp_path, rows)[3]).read_text())
    lines = list(bench.tables(content, rows, 64))
    (line,) = [line for line in lines if line.startswith("| regression on the sizes, each half from the other |")]
    assert "[" in line
    assert any(line.startswith("| L-SWAG | none |") for line in lines)
