"""Attention in windows, block and stage, against loops and formulas."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from helpers import relative_error

from asvit_tf import choices
from asvit_tf.design import grids
from asvit_tf.measures import derivatives
from asvit_tf.modeling import attention, blocks, draws

RNG = np.random.default_rng(0)


def direct_attention(layer, x, edge):
    """Windowed attention by loops over windows, tokens outside the grid left out."""
    qkv = layer.qkv(x).numpy().reshape(*x.shape[:3], 3, layer.num_heads, layer.head_dim)
    output = np.zeros((*x.shape[:3], layer.num_heads, layer.head_dim))
    for top, left in itertools.product(range(0, x.shape[1], edge[0]), range(0, x.shape[2], edge[1])):
        window = np.s_[:, top : top + edge[0], left : left + edge[1]]
        tokens = qkv[window]
        q, k, v = (tokens[:, :, :, i].reshape(len(x), -1, layer.num_heads, layer.head_dim) for i in range(3))
        scores = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(layer.head_dim)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        output[window] = np.einsum("bhnm,bmhd->bnhd", weights, v).reshape(output[window].shape)
    return layer.proj(output.reshape(*x.shape[:3], -1).astype(np.float32))


@pytest.mark.parametrize(
    ("splits", "fixed_edge", "grid", "edge"),
    [
        (1, None, (5, 4), (5, 4)),
        (2, None, (6, 4), (3, 2)),
        (2, None, (5, 7), (3, 4)),
        (4, None, (6, 3), (2, 1)),
        (8, None, (1, 1), (1, 1)),
        (8, None, (2, 5), (1, 1)),
        (2, 3, (7, 6), (3, 3)),
        (2, 9, (4, 5), (4, 5)),
    ],
)
def test_attention_against_a_direct_loop(splits, fixed_edge, grid, edge):
    layer = attention.WindowedAttention(2, 3)
    windows = grids.Windows.cut(grid, splits, fixed_edge)
    assert windows.edges == edge
    x = tf.constant(RNG.standard_normal((2, *grid, 8)), tf.float32)
    layer(x, windows)
    for variable in layer.weights:
        variable.assign(RNG.standard_normal(variable.shape))
    expected = direct_attention(layer, x, edge)
    assert relative_error(layer(x, windows), expected) < 1e-5
    if not windows.padded:
        cut = attention.from_windows(layer(attention.to_windows(x, windows)), windows)
        assert relative_error(cut, expected) < 1e-5


@pytest.mark.parametrize("grid", [(4, 6), (5, 7)], ids=["divided", "padded"])
def test_a_stage_is_its_blocks_one_after_another(grid):
    """Cut into windows once for all blocks, or by each for itself: as attention by loops, and the rest by the token."""
    stage = blocks.Stage([blocks.Block(6, 2, 3, 2), blocks.Block(6, 2, 3, 2)], 2)
    x = tf.constant(RNG.standard_normal((2, *grid, 6)), tf.float32)
    stage(x)
    for variable in stage.weights:
        variable.assign(RNG.standard_normal(variable.shape))
    expected = x
    for block in stage.blocks:
        expected += direct_attention(block.attention, block.norm1(expected), tuple(-(-side // 2) for side in grid))
        expected += block.fc2(tf.nn.gelu(block.fc1(block.norm2(expected)), approximate=False))
    assert relative_error(stage(x), expected) < 1e-5


def test_stochastic_depth_drops_whole_branches_in_training_only():
    block = blocks.Block(6, 2, 3, 2, drop_rate=0.5, seed=1)
    x = tf.constant(RNG.standard_normal((64, 2, 2, 6)), tf.float32)
    unchanged = [bool(np.all(row == 0)) for row in (block(x, training=True) - x).numpy()]
    assert 5 < sum(unchanged) < 30  # Both branches: a quarter of 64.
    assert not np.any(np.all((block(x, training=False) - x).numpy() == 0, axis=(1, 2, 3)))


def whole(query, key, value, bias):
    return attention.attend(query, key, value, bias)


def chunked(query, key, value, bias):
    """The first of the axes a chunk at a time."""
    if bias is not None:
        bias = tf.constant(np.broadcast_to(bias, (query.shape[0], 1, query.shape[1])))
    return attention.attend_in_chunks(query, key, value, bias)


MASKED = np.where(np.arange(5) == 3, -1e9, 0.0)
RULES = pytest.mark.parametrize(
    ("rule", "bias"),
    [(rule, bias) for rule in (whole, chunked) for bias in (None, MASKED)],
    ids=["whole", "whole masked", "chunked", "chunked masked"],
)
MODES = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, autograph=False),
    "compiled": lambda function: tf.function(function, autograph=False, jit_compile=True),
}


@RULES
@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_attention_are_those_of_its_formula(rule, bias, mode):
    """First by the layer's own rule, second through it; against TensorFlow's gradients of the plain formula."""
    inputs = [tf.constant(RNG.standard_normal((2, 5, 3))) for _ in range(3)]
    cotangent = tf.constant(RNG.standard_normal((2, 5, 3)))

    def plain(query, key, value):
        scores = query @ tf.transpose(key, (0, 2, 1))
        return tf.nn.softmax(scores if bias is None else scores + bias) @ value

    def both(function):
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                output = function(*inputs)
            first = inner.gradient(output, inputs, output_gradients=cotangent)
            total = tf.add_n([tf.reduce_sum(tf.sin(gradient)) for gradient in first])
        return [output, *first, *outer.gradient(total, inputs)]

    ours = MODES[mode](lambda: both(lambda *arguments: rule(*arguments, bias)))()
    for actual, expected in zip(ours, both(plain), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", choices.ENGINES)
def test_measures_see_whole_scores(engine):
    """Outside of training, where curves are followed, a layer without kept scores is the other one."""
    x, dx, ddx = (tf.constant(RNG.standard_normal((2, 1, 6, 5)), tf.float32) for _ in range(3))
    whole, chunked = (attention.WindowedAttention(2, 3, seed=1, scores=scores) for scores in ("whole", "chunked"))
    for layer in (whole, chunked):
        layer(x)
    chunked.set_weights(whole.get_weights())

    def along(layer):
        return tf.function(lambda: derivatives.derivatives(layer, x, [dx, ddx], engine), autograph=False)()

    for actual, expected in zip(along(chunked), along(whole), strict=True):
        np.testing.assert_array_equal(actual, expected)


@RULES
@pytest.mark.parametrize("offset", [0.0, 200.0])
@pytest.mark.parametrize("mode", MODES)
def test_attention_in_bfloat16_is_the_formula_up_to_its_rounding(rule, bias, offset, mode):
    """Weights that are divided by their sum only after the product; also where all scores of a row are large."""
    query, key = (RNG.integers(-1, 2, (2, 5, 4)).astype(np.float64) for _ in range(2))
    query[..., 3], key[..., 3] = offset, 1
    exact = [tf.constant(array) for array in (query, key, *RNG.standard_normal((2, 2, 5, 4)))]
    narrow = [tf.cast(array, tf.bfloat16) for array in exact]
    exact = [tf.cast(array, tf.float64) for array in narrow]  # Both start from the same numbers; scores are whole.

    def run(rule, inputs, cotangent):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = rule(*inputs, bias)
        return [output, *tape.gradient(output, inputs, output_gradients=cotangent)]

    ours = MODES[mode](lambda: run(rule, narrow[:3], narrow[3]))()
    for actual, expected in zip(ours, run(whole, exact[:3], exact[3]), strict=True):
        assert actual.dtype == tf.bfloat16
        assert np.all(np.isfinite(tf.cast(actual, tf.float64)))
        assert relative_error(tf.cast(actual, tf.float64), expected) < 0.05


@pytest.mark.parametrize("rule", [whole, chunked])
def test_attention_in_float16_keeps_its_range(rule):
    """784 tokens, whose sums of values and small gradients float16 cannot hold; against the same in float64."""
    mean, small = 100.0, 4e-5
    query, key, value, cotangent = RNG.standard_normal((4, 1, 784, 8)) / 10
    narrow = [tf.cast(array, tf.float16) for array in (query, key, mean + value, small * (1 + cotangent))]
    exact = [tf.cast(array, tf.float64) for array in narrow]

    def run(rule, inputs, cotangent):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = rule(*inputs, None)
        return [output, tape.gradient(output, inputs[2], output_gradients=cotangent)]

    for actual, expected in zip(run(rule, narrow[:3], narrow[3]), run(whole, exact[:3], exact[3]), strict=True):
        assert actual.dtype == tf.float16
        assert relative_error(tf.cast(actual, tf.float64), expected) < 0.05


def trained_by(block, x, windows, step):
    """Output and gradients of a training step, draws included."""
    with draws.of_step(3, step), tf.GradientTape() as tape:
        tape.watch(x)
        output = block(x, windows, training=True)
        loss = tf.reduce_sum(tf.sin(output))
        return [output, *tape.gradient(loss, [x, *block.trainable_variables])]


@pytest.mark.parametrize(
    "options", [{"scores": "chunked"}, {"recomputed": True}, {"scores": "chunked", "recomputed": True}]
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("grid", [(4, 6), (5, 7)], ids=["divided", "padded"])
def test_a_block_that_keeps_less_is_the_same(options, mode, grid):
    """Scores in chunks, the inside computed again: values and gradients, skipped branches among them."""
    x = tf.constant(RNG.standard_normal((16, *grid, 6)), tf.float32)
    windows = grids.Windows.cut(grid, 2)
    plain, saving = (blocks.Block(6, 2, 3, 2, drop_rate=0.5, seed=1, **each) for each in ({"scores": "whole"}, options))
    for block in (plain, saving):
        block(x, windows)
    for variable, same in zip(plain.weights, saving.weights, strict=True):
        variable.assign(RNG.standard_normal(variable.shape) / 2)
        same.assign(variable)
    step = tf.Variable(7, dtype=tf.int64)
    # Compiled, draws are others.
    expected, ours = (
        MODES[mode](lambda block=block: trained_by(block, x, windows, step))() for block in (plain, saving)
    )
    assert np.any(np.all((expected[0] - x).numpy() == 0, axis=(1, 2, 3)))
    for actual, theirs in zip(ours, expected, strict=True):
        assert relative_error(actual, theirs) < 1e-6


def test_scores_are_kept_of_small_windows_only(monkeypatch):
    """By "auto" in training; evaluation and export keep nothing anyway."""
    layer = attention.WindowedAttention(2, 3, scores="auto")
    seen = []
    monkeypatch.setattr(attention.WindowedAttention, "_in_chunks", lambda self, q, *_: seen.append(q.shape[2]) or q)
    for tokens, training in [(511, True), (512, True), (512, False), (512, None)]:
        layer(tf.zeros((1, 1, tokens, 6)), training=training)
    assert seen == [512]
