"""As-ViT as published measures see it, and these measures in scores of a search and a study."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from asvit_tf import AsViT, Topology, UserError, choices, cli
from asvit_tf.measures import complexity, ntk
from asvit_tf.measures.registry import ATTENTION, FFN, OTHER, STEM, Programs
from asvit_tf.modeling import initialization
from search.scoring import names
from search.scoring.battery import Battery
from search.scoring.networks import CLASSES, network_of
from search.scoring.settings import ScoringSettings
from search.scoring.training_free import TrainingFreeScorer
from search.strategy import ranking
from search.study import result
from search.study.settings import StudySettings

TOPOLOGY = Topology.parse("4,2,2,2|2,1,2|2,3,2|2,1,2|16,8")  # A stage of two blocks; windows that do not divide a grid.
SETTINGS = ScoringSettings((16, 16), 1, points=3, seed=5, base_stride=2)
IMAGES = np.random.default_rng(0).standard_normal((3, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def backbone():
    inputs = tf_keras.layers.InputSpec(shape=[None, 16, 16, 3])
    made = AsViT(TOPOLOGY, inputs, position_embedding=False, base_stride=2, seed=1)
    initialization.draw_linear(made, np.random.default_rng(1), "lecun")
    return made


def test_the_network_is_the_backbone(backbone):
    network = network_of(backbone)
    whole = tf.function(backbone, autograph=False)(IMAGES)
    trace = tf.function(network.call, autograph=False)(tf.constant(IMAGES))
    np.testing.assert_array_equal(trace.features, whole["pre_logits"][:, 0, 0])
    blocks = [f"stage_{i}.block_{j}" for i, depth in enumerate(TOPOLOGY.depths) for j in range(depth)]
    assert list(trace.outputs) == [f"{name}.{part}" for name in blocks for part in ("attention", "ffn")]
    assert list(trace.gates) == blocks
    assert backbone.normalization == "layer"
    assert all(block.observer is None for stage in backbone.stages for block in stage.blocks)
    # What is last in a stage is its output, with its tokens in the order of windows.
    for index, name in enumerate(("stage_0.block_1", "stage_1.block_0", "stage_2.block_0", "stage_3.block_0")):
        tokens, grid = trace.outputs[f"{name}.ffn"].numpy(), whole[str(2 + index)].numpy()
        np.testing.assert_array_equal(np.sort(tokens.ravel()), np.sort(grid.ravel()))
    for name, output in trace.outputs.items():
        assert trace.entries[name].shape == output.shape
        assert not np.array_equal(trace.entries[name], output)


def test_without_norms_it_is_the_backbone_without_norms(backbone):
    bare = tf.function(network_of(backbone).bare, autograph=False)(tf.constant(IMAGES))
    with backbone.normalized_by("identity"):
        whole = tf.function(backbone, autograph=False)(IMAGES)
    np.testing.assert_array_equal(bare.features, whole["pre_logits"][:, 0, 0])


def test_kernels_and_others_are_all_variables_and_have_their_roles(backbone):
    network = network_of(backbone)
    everything = [*(kernel.variable for kernel in network.kernels), *network.others]
    assert {v.ref() for v in everything} == {v.ref() for v in backbone.trainable_variables}
    assert len(everything) == len(backbone.trainable_variables)
    roles = [kernel.role for kernel in network.kernels]
    blocks = sum(TOPOLOGY.depths)
    assert {role: roles.count(role) for role in roles} == {STEM: 1, OTHER: 3, ATTENTION: 2 * blocks, FFN: 2 * blocks}
    assert all(kernel.variable.shape.rank in (2, 4) for kernel in network.kernels)
    assert {layer.kernel.ref() for layer in initialization.linear_layers(backbone)} < {
        kernel.variable.ref() for kernel in network.kernels
    }


def test_every_measure_is_defined_for_it_and_leaves_its_weights(backbone):
    network = network_of(backbone)
    network.head.assign(initialization.drawn(tuple(network.head.shape), np.random.default_rng(2)))
    before = [variable.numpy() for variable in backbone.trainable_variables]
    found = Programs(network).measure(choices.PROXIES, IMAGES, [0, 1, CLASSES - 1], seed=3)
    assert all(math.isfinite(measured.value) for measured in found.values())
    for variable, value in zip(backbone.trainable_variables, before):
        np.testing.assert_array_equal(variable, value)


def scored(*measures, **changes):
    settings = dataclasses.replace(SETTINGS, measures=measures, **changes)
    return TrainingFreeScorer(settings, IMAGES).score(TOPOLOGY)


def test_scores_have_them_with_their_seconds_and_change_no_other():
    alone = scored("length_distortion", "ntk_condition_number", repeats=2)
    both = scored("synflow", "length_distortion", "zico", "ntk_condition_number", repeats=2)
    assert all(both.measures[name] == value for name, value in alone.measures.items())
    assert list(both.measures) == ["synflow", "length_distortion", "zico", "ntk_condition_number"]
    assert both.split["synflow"] > 0
    assert both.split["published"] >= both.split["zico"] > 0
    assert both.errors["zico"] > 0  # Two draws of the weights differ.


def test_a_study_takes_what_a_search_takes(monkeypatch):
    """The other programs of a study are not traced here."""
    alone = scored("trainability", "synflow", "snip")
    other = types.SimpleNamespace(**dict.fromkeys(choices.CIRCLE_MEASURES, 1.0), undefined=None)
    monkeypatch.setattr(complexity, "compile_measure", lambda *_, **__: lambda circle: other)
    monkeypatch.setattr(ntk, "compile_gram", lambda *_: lambda images: np.eye(len(images)))
    battery = Battery(SETTINGS, IMAGES, ("trainability", "synflow", "snip")).score(TOPOLOGY)
    assert list(battery.measures) == [*names.measure_names(), "trainability", "synflow", "snip"]
    assert {name: battery.measures[name] for name in alone.measures} == alone.measures
    assert battery.split["synflow"] > 0


def test_a_study_names_them():
    assert names.column_names() == [*names.measure_names(), *choices.PROXIES]
    assert all(names.direction(name) == direction for name, direction in choices.PROXIES.items())
    assert names.in_words("l_swag") == "L-SWAG"
    assert names.in_words("gradient_norm") == "gradient norm"
    row = dict(topology=str(TOPOLOGY), measures={"zico": 3.0, "synflow": None}, seconds={"zico": 0.5, "snip": 0.7})
    columns = result.columns_of(StudySettings(), [row] * 3, num_classes=10)
    assert columns["zico"].tolist() == [3.0] * 3
    assert np.isnan(columns["synflow"]).all()
    assert np.isnan(columns["dss"]).all()  # A row of an earlier version.
    assert [result._seconds(name, [row] * 3) for name in ("zico", "dss")] == [0.5, None]


def test_a_growth_takes_the_larger_value_of_each():
    rows = [{"synflow": 1.0, "zico": 5.0}, {"synflow": 2.0, "zico": 5.0}, {"synflow": 2.0, "zico": 4.0}]
    assert ranking.choose(rows) == 1


def test_one_image_is_refused_before_anything_is_built():
    with pytest.raises(UserError, match="zico needs at least 2 images, not 1"):
        TrainingFreeScorer(dataclasses.replace(SETTINGS, measures=("zico",)), IMAGES[:1])


def test_the_command_prints_values_and_seconds(capsys):
    command = ["complexity", str(TOPOLOGY), "--image_size", "16", "--repeats", "1", "--batch_size", "3"]
    assert cli.main([*command, "--measures", "synflow, snip", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["synflow"] > 0
    assert printed["turning_number"] is None
    assert "length_distortion" not in printed
    assert set(printed["seconds"]) == {"trace", "forward", "published", "synflow", "snip"}
    assert cli.main([*command, "--measures", "snip,length_distortion"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["measure", "mean", "standard", "error", "seconds"]
    assert [line.split()[0] for line in lines[2:4]] == ["snip", "length_distortion"]
    assert all(float(line.split()[-1]) >= 0 for line in lines[2:4])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["complexity", "seed", "--measures", "speed"], "unknown measure 'speed'; allowed are all, length_distortion"),
        (["complexity", "seed", "--measures", ""], "unknown measure ''"),
        (["search", "--save_dir", "DIR", "--dataset", "noise", "--reward_types", "synflow,speed"], "'speed'; allowed"),
    ],
)
def test_unknown_names_are_one_line(command, message, tmp_path, capsys):
    assert cli.main([word.replace("DIR", str(tmp_path / "out")) for word in command]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_search_goes_by_them(tmp_path, capsys):
    command = ["search", "--save_dir", str(tmp_path), "--dataset", "noise", "--image_size", "16", "--batch_size", "2"]
    command += [
        "--total_steps",
        "2",
        "--repeats",
        "1",
        "--points",
        "3",
        "--reward_types",
        "naswot,expressivity",
        "--json",
    ]
    assert cli.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["scores"]) == {"naswot", "expressivity"}
    assert all(value > 0 for value in found["scores"].values())
