"""The engines against finite differences in float64, operation by operation, and against each other."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from helpers import relative_error

from asvit_tf import UserError
from asvit_tf.measures import derivatives as autodiff
from asvit_tf.measures import jets

RNG = np.random.default_rng(0)
X, DX, DDX = (tf.constant(RNG.uniform(0.3, 1.2, (2, 4, 4, 3))) for _ in range(3))  # float64
KERNEL = tf.constant(RNG.standard_normal((3, 3, 3, 2)))
MATRIX = tf.constant(RNG.standard_normal((3, 5)))

FUNCTIONS = {
    "erf": tf.math.erf,
    "erfc": tf.math.erfc,
    "exp": tf.exp,
    "log": tf.math.log,
    "relu": lambda x: tf.nn.relu(x - 0.7),
    "rsqrt": tf.math.rsqrt,
    "sigmoid": tf.sigmoid,
    "sin": tf.sin,
    "cos": tf.cos,
    "softplus": tf.nn.softplus,
    "sqrt": tf.sqrt,
    "square": tf.square,
    "tanh": tf.tanh,
    "gelu": lambda x: tf.nn.gelu(x, approximate=False),
    "softmax": lambda x: tf.nn.softmax(3 * x),
    "add, subtract, broadcast": lambda x: 1.0 - (x[:, :1] + x) - (2.0 + tf.reduce_mean(x)) + tf.add_n([x, x, x]),
    "constant minus": lambda x: tf.ones([4, 4, 3], tf.float64) - x[:1],
    "multiply": lambda x: x * x[:, :1] * 3.0,
    "divide": lambda x: x / (1 + x[..., :1]) + 1 / x + x / 2,
    "attention": lambda x: tf.matmul(tf.nn.softmax(tf.matmul(x[..., :2], x[..., 1:], transpose_b=True)), x * x),
    "attention to constants": lambda x: tf.matmul(tf.nn.softmax(3 * x), MATRIX[None, None]),
    "constant attention": lambda x: tf.matmul(tf.nn.softmax(MATRIX[:, :4]), x),
    "transposed": lambda x: tf.matmul(x[:, :, :1], x[:, :, 1:2], transpose_a=True) @ x[:, :, :3],
    "matmul": lambda x: tf.matmul(x, x, transpose_b=True) @ (x @ MATRIX),
    "matmul of rank 3": lambda x: tf.matmul(tf.reshape(x, [2, 16, 3]), tf.reshape(x, [2, 3, 16])),
    "einsum": lambda x: tf.einsum("bhwc,bhvc->bhwv", x, tf.einsum("bhwc,cd->bhwd", x, MATRIX)[..., :3]),
    "tensordot": lambda x: tf.tensordot(x, MATRIX, 1),
    "convolution": lambda x: tf.nn.bias_add(tf.nn.conv2d(x, KERNEL, 2, "SAME"), [1.0, 2.0]),
    "moving kernel": lambda x: tf.nn.conv2d(x, x[0, :3, :3, :, None], 1, "VALID"),
    "pooling": lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"),
    "shapes": lambda x: tf.transpose(tf.pad(tf.reshape(x, [2, 8, 6]), [(0, 0), (1, 1), (0, 0)]), [2, 0, 1])[
        :3, :, None
    ],
    "gather": lambda x: tf.gather(x, [3, 0, 0], axis=1),
    "several outputs": lambda x: tf.subtract(*tf.unstack(x, axis=0)) * tf.split(x, 2, axis=0)[1],
    "joined": lambda x: tf.concat([x, tf.ones_like(x), tf.stack([x, x])[1]], axis=-1),
    "sums": lambda x: tf.reduce_sum(x, axis=(1, 2)) * tf.reduce_mean(x, axis=(1, 2)),
    "statistics": lambda x: (x - tf.reduce_mean(x, -1, keepdims=True)) / tf.math.reduce_std(x, -1, keepdims=True),
    "integers": lambda x: x * tf.cast(tf.cast(10 * x, tf.int32), tf.float64),
    "attention, batch of values 1": lambda x: tf.matmul(tf.nn.softmax(3 * x), x[:1, :, :3]),
    "no influence": lambda x: tf.stop_gradient(x) + tf.ones_like(x),
}


def along(t):
    return X + t * DX + t**2 / 2 * DDX


def derivatives(fn, engine, x=X, dxs=(DX, DDX)):
    return tf.function(lambda: autodiff.derivatives(fn, x, dxs, engine), autograph=False)()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_rule_against_finite_differences(name):
    fn = FUNCTIONS[name]
    y, dy, ddy = tf.function(lambda: jets.derivatives(fn, X, [DX, DDX]), autograph=False)()
    np.testing.assert_allclose(y, fn(X), rtol=1e-12)
    if name == "no influence":
        np.testing.assert_array_equal(dy, 0 * y)
        np.testing.assert_array_equal(ddy, 0 * y)
        return
    h = 1e-4
    after, before = (fn(along(t)).numpy() for t in (h, -h))
    assert relative_error(dy, (after - before) / (2 * h)) < 1e-6
    slope_after, slope_before = (jets_slope(fn, t) for t in (h, -h))
    scale = max(np.abs(ddy).max(), 1e-3)  # Some have no second derivative.
    assert np.abs(ddy - (slope_after - slope_before) / (2 * h)).max() < 1e-6 * scale
    np.testing.assert_allclose(derivatives(fn, "jet", dxs=(DX,))[1], dy, rtol=1e-12)


def jets_slope(fn, t):
    """y' at t; the curve's own velocity there is DX + t DDX."""
    return derivatives(fn, "jet", along(t), (DX + t * DDX,))[1].numpy()


@pytest.mark.parametrize("engine", ["accumulator", "tape"])
@pytest.mark.parametrize("name", ["gelu", "softmax", "matmul", "convolution", "statistics", "no influence"])
def test_engines_agree(name, engine):
    tolerance = 1e-7 if name == "gelu" else 1e-10  # TensorFlow's own slope of erf has a constant in float32.
    for ours, theirs in zip(derivatives(FUNCTIONS[name], "jet"), derivatives(FUNCTIONS[name], engine)):
        np.testing.assert_allclose(theirs, ours, rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize(
    ("fn", "rule"),
    [
        (tf.math.lgamma, "Lgamma"),
        (lambda x: tf.where(x > 0.7, x**2, tf.sin(x)), "Pow"),
        (lambda x: tf.where(x > 0.7, x * x, tf.sin(x)), "SelectV2"),
        (lambda x: tf.reduce_logsumexp(x, axis=-1), "."),
        (lambda x: tf.einsum("bhwc->bhw", x * x), "Einsum with 1 inputs"),
    ],
    ids=["lgamma", "power", "where", "logsumexp", "einsum of one"],
)
def test_functions_without_rules_go_to_another_engine(fn, rule):
    with pytest.raises(jets.NoRuleError, match=rule):
        tf.function(lambda: jets.derivatives(fn, X, [DX]), autograph=False)()
    h = 1e-4
    after, before = (fn(along(t)).numpy() for t in (h, -h))
    _, dy, ddy = derivatives(fn, "jet")
    assert relative_error(dy, (after - before) / (2 * h)) < 1e-6
    assert relative_error(ddy, (after - 2 * fn(X).numpy() + before) / h**2) < 1e-4
    np.testing.assert_allclose(derivatives(fn, "jet", dxs=(DX,))[1], dy, rtol=1e-10)


@pytest.mark.parametrize(("dxs", "engine"), [((DX,), "accumulator"), ((DX, DDX), "tape")], ids=["first", "second"])
def test_a_slower_engine_is_named_once_for_each_operation(dxs, engine, caplog):
    autodiff._note.cache_clear()
    with caplog.at_level(logging.WARNING):
        derivatives(tf.sin, "jet", dxs=dxs)
        assert caplog.messages == []
        for fn in (tf.math.lgamma, tf.math.sinh, lambda x: tf.math.lgamma(2 * x)):
            derivatives(fn, "jet", dxs=dxs)
        derivatives(tf.math.cosh, engine, dxs=dxs)  # That engine was asked for.
    lgamma, sinh = caplog.messages
    assert "operation Lgamma" in lgamma
    assert "operation Sinh" in sinh
    for message in (lgamma, sinh):
        assert f"slower engine {engine} " in message
        assert "\n" not in message


def test_unknown_engine():
    with pytest.raises(UserError, match=r"'reverse'.*jet, accumulator, tape"):
        derivatives(tf.sin, "reverse")


@pytest.mark.parametrize("name", ["a rule for each operation", "tf.cumsum has none"])
def test_product_between_two_tensors_of_a_graph(name, caplog):
    """Of what lies between them only: the second factor depends on the input too, but not through the first tensor."""
    through = tf.tanh if name.startswith("a rule") else tf.cumsum

    @tf.function(autograph=False)
    def program(x, dx):
        first = tf.sin(x)
        return first, autodiff.product(first, through(first) * tf.exp(x), dx)

    first, moved = program(X, DX)
    h = 1e-4
    after, before = (through(first + t * DX) * tf.exp(X) for t in (h, -h))
    assert relative_error(moved, (after - before) / (2 * h)) < 1e-6
    nothing = tf.function(lambda x, dx: autodiff.product(tf.sin(x), tf.exp(x), dx), autograph=False)
    np.testing.assert_array_equal(nothing(X, DX), np.zeros(X.shape))
