"""Accuracy predicted from measures: the regression, the file, the score, and searches that use it."""

import dataclasses
import json
import math
import zlib

import numpy as np
import pytest

from asvit_tf import Topology, UserError, cli
from asvit_tf.choices import PREDICTED
from search.runs.search_settings import ImageSettings, ScoredRun
from search.scoring.battery import Battery
from search.scoring.predicting import PredictingScorer
from search.scoring.predictor import Line, Predictor
from search.scoring.settings import ScoringSettings
from search.study import regression

TINY = Topology.parse("4,2,2|2,1,2|2,1,2|2,1,2|8,8")
MEASURE = "length_distortion:released:identity"
SETTINGS = ScoringSettings(image_size=(16, 16), repeats=1, points=3, measures=())


def planted(count=30, seed=0, noise=0.01):
    generator = np.random.default_rng(seed)
    columns = {name: np.exp(3 * generator.standard_normal(count) + 5) for name in "abcd"}
    accuracy = (
        0.7 + 0.02 * np.log(columns["a"]) - 0.01 * np.log(columns["c"]) + noise * generator.standard_normal(count)
    )
    return columns, accuracy


def slow_fit(columns, accuracy, penalty):
    """Standardized logarithms; the penalty as rows of their own in a least squares problem."""
    logarithms = np.log(np.stack(list(columns.values()), axis=1))
    features = (logarithms - logarithms.mean(0)) / logarithms.std(0)
    y = accuracy - accuracy.mean()

    def solve(rows):
        stacked = np.concatenate([features[rows], math.sqrt(penalty) * np.eye(features.shape[1])])
        return np.linalg.lstsq(stacked, np.concatenate([y[rows], np.zeros(features.shape[1])]), rcond=None)[0]

    whole = np.arange(len(y))
    left_out = np.array([features[i] @ solve(np.delete(whole, i)) for i in whole])
    return features @ solve(whole) + accuracy.mean(), left_out


@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_the_line_is_that_of_least_squares_and_leaving_one_out_is_leaving_one_out(noise):
    columns, accuracy = planted(noise=noise)
    line, left_out = regression.fit(columns, tuple("abcd"), accuracy)
    fits = [slow_fit(columns, accuracy, penalty) for penalty in regression._PENALTIES]
    errors = [np.sum((accuracy - accuracy.mean() - fit[1]) ** 2) for fit in fits]
    best = int(np.argmin(errors))
    assert (best == 0) == (noise < 0.1)  # The more noise, the larger the penalty.
    expected, expected_left_out = fits[best]
    np.testing.assert_allclose(line(columns), expected, atol=1e-10)
    np.testing.assert_allclose(left_out, expected_left_out, atol=1e-10)
    assert noise > 0.1 or line.slopes[0] > 0 > line.slopes[2]


def test_columns_without_logarithms_or_information_are_not_used():
    columns, _ = planted()
    columns |= {
        "undefined": np.where(np.arange(30) % 4 == 3, np.nan, 1.0 + np.arange(30)),
        "zero": np.maximum(np.arange(30.0) - 9, 0),
        "constant": np.full(30, 2.0),
        "rounding": 6.28 + 1e-6 * np.arange(30),
    }
    names = [*columns, "missing"]
    assert regression.usable(columns, names, np.arange(30)) == tuple("abcd")
    columns["mostly"] = np.where(np.arange(30) == 3, np.nan, 1.0 + np.arange(30))
    assert regression.usable(columns, ["mostly"], np.arange(30)) == ("mostly",)
    accuracy = np.arange(30.0)
    fitted = regression.fit_usable(columns, ["a", "zero", "mostly"], accuracy, np.arange(30))
    assert fitted[0].names == ("a", "mostly")
    assert np.setdiff1d(np.arange(30), fitted[2]).tolist() == [3]
    half = {name: np.where(np.arange(30) % 6 == i, np.nan, 1.0 + np.arange(30)) for i, name in enumerate("xyz")}
    assert regression.usable(half, "xyz", np.arange(30)) == tuple("xyz")
    assert regression.fit_usable(half, "xyz", accuracy, np.arange(30)) is None  # Every second one lacks one of them.
    line = Line(("a", "mostly"), (1.0, 1.0), 0.0)
    assert np.flatnonzero(np.isnan(line(columns))).tolist() == [3]


def predictor_of(names=(MEASURE, "macs"), slopes=(0.1, 0.02), **changes):
    fields = dict(
        image_size=(16, 16), images=2, points=3, width=8, num_classes=10, topologies=100, evidence="tau +0.50"
    )
    return Predictor(Line(names, slopes, 0.3), **{**fields, **changes})


def test_a_predictor_survives_its_file(tmp_path):
    path = tmp_path / "predictor.json"
    path.write_text(json.dumps(predictor_of().as_dict()))
    assert Predictor.read(str(path)) == predictor_of()
    earlier = {name: value for name, value in predictor_of().as_dict().items() if name != "base_stride"}
    path.write_text(json.dumps(earlier))
    assert Predictor.read(str(path)).base_stride == 4
    good = predictor_of().as_dict()
    lines = [dict(names=["macs"], slopes=[]), dict(names=["speed"], slopes=[1]), dict(names=["macs"], slopes=["nan"])]
    lines += [dict(names=["rank_sum"], slopes=[1]), dict(names=["macs"] * 2, slopes=[1, 1])]
    lines.append(dict(names=["macs"], slopes=[10**400]))
    changes = [dict(line={**line, "constant": 0}) for line in lines]
    changes += [
        dict(num_classes="ten"),
        dict(width=0),
        dict(base_stride=0),
        dict(image_size=[16]),
        dict(topologies=None),
        dict(evidence=1),
    ]
    changes.append(dict(space="all"))
    for text in ("", "[]", "{}", "[" * 10**5, *(json.dumps({**good, **change}) for change in changes)):
        path.write_text(text)
        with pytest.raises(UserError, match=r"is no predictor.json that asvit study wrote"):
            Predictor.read(str(path))
    with pytest.raises(UserError, match=r"cannot read .*gone\.json"):
        Predictor.read(str(tmp_path / "gone.json"))


def test_results_by_a_predictor_of_an_earlier_version_stay_its():
    assert not {"base_stride", "space"} & predictor_of().identity().keys()
    assert zlib.crc32(json.dumps(predictor_of().identity()).encode()) == 1708963644  # As before these fields.
    later = predictor_of(base_stride=2, space="fitting").identity()
    assert (later["base_stride"], later["space"]) == (2, "fitting")


def test_a_search_stays_in_the_space_of_the_study():
    def heads(**changes):
        predictor = predictor_of(image_size=(32, 32), base_stride=2, width=32, **changes)
        scoring = ScoringSettings(
            image_size=(32, 32), base_stride=2, points=3, measures=(PREDICTED,), predictor=predictor
        )
        images = ImageSettings(dataset="noise", image_size=32, batch_size=2)
        sampled = ScoredRun(images, scoring).space
        assert sampled.width == 32
        return sampled.choices["num_heads"]

    assert heads(space="fitting") == (16, 32)  # 64 would be 8 in the first stage, of 4 channels.
    assert heads(space="published") == (16, 32, 64)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)


def test_a_score_is_the_line_over_the_studys_measures(images):
    from asvit_tf.design import counting

    settings = dataclasses.replace(SETTINGS, measures=(PREDICTED, "length_distortion"), predictor=predictor_of())
    score = PredictingScorer(settings, images).score(TINY)
    measured = Battery(SETTINGS, images).score(TINY).measures[MEASURE]
    macs = counting.count(TINY, (16, 16), 10).macs
    assert score.measures[PREDICTED] == pytest.approx(0.1 * math.log(measured) + 0.02 * math.log(macs) + 0.3)
    assert score.measures["length_distortion"] == measured
    assert list(score.measures) == [PREDICTED, "length_distortion"]

    # Two images that are the same have no condition number.
    singular = predictor_of(names=("ntk_condition_number:released:layer", "macs"))
    settings = dataclasses.replace(SETTINGS, measures=(PREDICTED,), predictor=singular)
    score = PredictingScorer(settings, np.repeat(images[:1], 2, axis=0)).score(TINY)
    assert score.measures == {PREDICTED: None}
    assert score.failures == {PREDICTED: 1}
    assert "ntk_condition_number:released:layer: the NTK is singular" in score.reasons[PREDICTED]


def test_a_search_by_predicted_accuracy(tmp_path, capsys):
    path = tmp_path / "predictor.json"
    path.write_text(json.dumps(predictor_of().as_dict()))
    command = ["search", "--save_dir", str(tmp_path / "out"), "--dataset", "noise", "--image_size", "16"]
    command += ["--batch_size", "2", "--repeats", "1", "--points", "3", "--total_steps", "1", "--json"]
    assert cli.main([*command, "--predictor", str(path)]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert list(result["scores"]) == [PREDICTED]
    assert math.isfinite(result["scores"][PREDICTED])
    assert "predicted accuracy: tau +0.50" in printed.err
    # Scored at the width of the study, 8, found at that of every search, 32.
    assert Topology.parse(result["topology"]).width == 32
    scored = [json.loads(line)["topology"] for line in (tmp_path / "out/scores.jsonl").read_text().splitlines()]
    assert scored
    assert all(Topology.parse(topology).widths[0] == 8 for topology in scored)

    path.write_text(json.dumps(predictor_of(slopes=(0.2, 0.02)).as_dict()))
    assert cli.main([*command, "--predictor", str(path)]) == 2  # The directory is of another one.
    assert "predictor was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predictor", "gone.json"], "cannot read gone.json"),
        (["--reward_types", "predicted_accuracy"], "predicted_accuracy needs a predictor"),
        (["--predictor", "GOOD", "--image_size", "32"], "images of 16 x 16 pixels, not 32 x 32"),
        (["--predictor", "GOOD", "--base-stride", "2"], "networks with a base stride of 4, not 2"),
        (["--predictor", "GOOD", "--batch_size", "4"], "NTK is of 2 images, not 4"),
        (["--predictor", "GOOD", "--points", "4"], "circles have 3 points, not 4"),
        (["--predictor", "GOOD", "--points", "3", "--radius", "unit"], "circles have radius sqrt_n, not unit"),
        (["--predictor", "GOOD", "--reward_types", "exp"], "predicted_accuracy is not among the reward types"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys):
    (tmp_path / "good.json").write_text(json.dumps(predictor_of().as_dict()))
    arguments = [str(tmp_path / "good.json") if word == "GOOD" else word for word in arguments]
    plain = ["--dataset", "noise", "--image_size", "16", "--batch_size", "2"]
    assert cli.main(["search", "--save_dir", str(tmp_path / "out"), *plain, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out/settings.json").exists()
