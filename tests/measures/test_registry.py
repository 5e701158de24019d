"""The interface of published measures: what is registered, what is refused in a line, what is undefined."""

import math
import re

import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT
from small_networks import CLASSES, block, images, linear, weights

from asvit_tf import UserError, choices
from asvit_tf.measures import proxies, registry
from asvit_tf.measures.registry import ATTENTION, FFN, Network, Programs, Trace

EYE, NAMES = np.eye(3), tuple(choices.PROXIES)
PICTURES, LABELS = images(4), [0, 1, 2, 0]
PAIRS = ("zico", "naswot", "l_swag")  # They compare images.


def test_every_measure_has_a_line_in_choices_and_a_file_and_says_where_it_is_from():
    proxies.load()
    assert sorted(registry.MEASURES) == sorted(NAMES)
    assert set(choices.PROXIES.values()) <= {1, -1}
    for name, found in registry.MEASURES.items():
        assert found.source
        assert found.function.__doc__, name
        assert choices.DIRECTIONS[name] == choices.PROXIES[name]


@pytest.mark.parametrize("name", ["snip", "no_such_measure"])
def test_a_name_is_registered_once_and_stands_in_choices(name):
    proxies.load()
    with pytest.raises(ValueError, match=r"one line in asvit_tf/choices\.py"):
        registry.measure(name, "nowhere")


def test_the_example_of_the_contributing_page_is_a_measure(monkeypatch):
    proxies.load()
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    monkeypatch.setitem(choices.PROXIES, "feature_size", 1)
    monkeypatch.setattr(registry, "MEASURES", dict(registry.MEASURES))
    exec(compile(example, "CONTRIBUTING.md", "exec"), {})
    network = block(weights())
    size = np.abs(network.call(PICTURES).features).mean()
    assert Programs(network).measure(["feature_size"], PICTURES)["feature_size"].value == pytest.approx(size)
    nothing = Programs(linear(EYE, np.zeros((3, 3)), EYE)).measure(["feature_size"], PICTURES)["feature_size"]
    assert nothing.reason == "all features are 0"


def without(network, **parts):
    """The network, with other parts of its trace or of itself."""
    of_trace = {name: parts.pop(name) for name in list(parts) if name in Trace._fields}
    call = parts.pop("call", network.call)
    return Network(
        **{
            "call": lambda x: call(x)._replace(**of_trace),
            "kernels": network.kernels,
            "others": network.others,
            "head": network.head,
            "bare": network.bare,
            **parts,
        }
    )


@pytest.mark.parametrize(
    ("name", "changes", "options", "message"),
    [
        ("expressivity", {"outputs": {}}, {}, "expressivity needs 1 named block outputs; this network names 0"),
        ("progressivity", {"outputs": {"a": tf.ones([4, 4])}}, {}, "needs 2 named block outputs; this network names 1"),
        ("trainability", {"outputs": {}}, {}, "trainability needs 1 named block outputs; this network names 0"),
        ("naswot", {"gates": {}}, {}, "naswot needs the inputs of the activation functions; this network names none"),
        ("l_swag", {"gates": {}}, {}, "l_swag needs the inputs of the activation functions; this network names none"),
        ("synflow", {"bare": None}, {}, "synflow is not defined for a network whose norms cannot be left out"),
        ("synflow", {"head": None}, {}, "the network has no head, and a measure of logits needs one"),
        ("dss", {"kernels": "ffn"}, {}, "dss is not defined for a network without attention"),
        ("dss", {"kernels": "attention"}, {}, "dss is not defined for a network without FFN"),
        ("dss", {"head": None}, {}, "dss is not defined for a network without head"),
        ("snip", {"head": None}, {}, "the network has no head, and a measure of logits needs one"),
        *((name, {}, {"labels": None}, f"{name} needs a label for each image") for name in ("snip", "zico", "l_swag")),
        ("gradient_norm", {}, {"labels": [1] * 4}, "gradient_norm needs labels of at least 2 classes; all 4 are 1"),
        ("zico", {}, {"labels": [1] * 4}, "zico needs labels of at least 2 classes; all 4 are 1"),
        ("snip", {}, {"labels": [0, 1]}, "snip needs a label for each of the 4 images, not 2"),
        ("snip", {}, {"labels": [0, 1, 2, CLASSES]}, "labels are 0 to 3; the head has classes 0 to 2"),
        ("snip", {}, {"labels": [-1, 1, 2, 0]}, "labels are -1 to 2; the head has classes 0 to 2"),
        *(
            (name, {}, {"images": PICTURES[:1], "labels": [0]}, f"{name} needs at least 2 images, not 1")
            for name in PAIRS
        ),
        ("speed", {}, {}, "unknown measure 'speed'; allowed are"),
    ],
)
def test_what_a_measure_is_not_defined_for_is_refused_in_a_line(name, changes, options, message):
    network = block(weights())
    role = changes.get("kernels")
    if role is not None:
        changes = {"kernels": [kernel for kernel in network.kernels if kernel.role == role]}
    before = [variable.numpy() for variable in network.variables]
    with pytest.raises(UserError) as raised:
        Programs(without(network, **changes)).measure([name], **{"images": PICTURES, "labels": LABELS, **options})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    for variable, value in zip(network.variables, before):  # Also where it failed halfway.
        np.testing.assert_array_equal(variable, value)


NOTHING = np.zeros((3, 3))


@pytest.mark.parametrize(
    ("name", "network", "pictures", "reason"),
    [
        ("expressivity", linear(NOTHING, EYE, EYE), PICTURES, "all tokens of first are alike"),
        ("progressivity", linear(EYE, NOTHING, EYE), PICTURES, "all tokens of second are alike"),
        ("expressivity", linear(EYE, EYE, EYE), PICTURES * np.nan, "the output of first is not finite"),
        ("trainability", linear(np.full((3, 3), np.inf), EYE, EYE), PICTURES, "the derivative of first is not finite"),
        ("trainability", linear(EYE, NOTHING, EYE), PICTURES, "second does not depend on its input"),
        ("trainability", linear(np.ones((3, 4)), np.ones((4, 5)), np.ones((5, 2))), PICTURES, "no block has an output"),
        ("naswot", linear(EYE, EYE, EYE), PICTURES[[0, 1, 0]], "images 0 and 2 switch all units alike"),
        ("naswot", linear(EYE, EYE, EYE), PICTURES * np.nan, "what an activation function is given is not finite"),
        ("zico", linear(EYE, EYE, NOTHING), PICTURES, "do not differ between the images"),
        ("l_swag", linear(EYE, EYE, NOTHING), PICTURES, "do not differ between the images"),
        ("zico", linear(EYE, EYE, EYE), PICTURES * np.nan, "are not finite"),
        ("snip", linear(EYE, EYE, EYE), PICTURES * np.nan, "the result is not finite"),
        ("gradient_norm", linear(EYE, EYE, EYE), PICTURES * np.nan, "the result is not finite"),
        ("synflow", linear(EYE, NOTHING, EYE), PICTURES, "nothing flows"),
        ("synflow", linear(1e38 * EYE, 1e38 * EYE, EYE), PICTURES, "beyond float32"),
        ("dss", linear(1e38 * EYE, 1e38 * EYE, EYE, (ATTENTION, FFN)), PICTURES, "is not finite"),
    ],
)
def test_what_is_undefined_has_a_reason_and_no_rank(name, network, pictures, reason):
    labels = (np.arange(len(pictures)) % 2).tolist()
    measured = Programs(network).measure([name], pictures, labels)[name]
    assert math.isnan(measured.value)
    assert reason in measured.reason


@pytest.mark.parametrize("name", ["expressivity", "progressivity", "trainability", "naswot", "dss"])
def test_a_decomposition_that_fails_is_undefined_and_stops_no_other(name, monkeypatch):
    def failing(*arguments):
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    network = block(weights())
    before = [variable.numpy() for variable in network.variables]
    for function in ("eigvalsh", "norm"):
        monkeypatch.setattr(np.linalg, function, failing)
    found = Programs(network).measure([name, "snip"], PICTURES, LABELS)
    assert math.isnan(found[name].value)
    assert found[name].reason == "a decomposition failed: Eigenvalues did not converge"
    assert found["snip"].value > 0
    for variable, value in zip(network.variables, before):
        np.testing.assert_array_equal(variable, value)


def test_a_network_that_a_measure_needs_no_more_of_than_its_outputs():
    """Two values from `call`, as others' networks return them; images of any size."""
    kernel = tf.Variable(np.ones((3, 3), np.float32))

    def features(pictures):
        out = pictures @ kernel
        return tf.reduce_mean(out, axis=(1, 2)), {"first": out, "second": 2.0 * out}

    network = Network(lambda pictures: Trace(*features(pictures)), [], [kernel])
    found = Programs(network).measure(["expressivity", "trainability"], PICTURES)
    assert all(math.isfinite(each.value) for each in found.values())
