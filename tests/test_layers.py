import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from conftest import relative_error

from asvit_tf import autodiff, grids, layers

RNG = np.random.default_rng(0)
STEMS = list(itertools.product((4, 8, 16), (1, 2, 3, 5), (4, 5, 6, 7, 8)))


def direct_stem(images, kernel, stride, dilation, cotangent):
    """Convolution by loops in float64, with the gradients of sum(output * cotangent)."""
    batch, height, width, _ = images.shape
    size, _, _, channels = kernel.shape
    rows, columns = -(-height // stride), -(-width // stride)
    span = (size - 1) * dilation + 1
    top = max((rows - 1) * stride + span - height, 0) // 2
    left = max((columns - 1) * stride + span - width, 0) // 2
    output = np.zeros((batch, rows, columns, channels))
    image_gradient, kernel_gradient = np.zeros(images.shape), np.zeros(kernel.shape)
    for row, column, dy, dx in itertools.product(range(rows), range(columns), range(size), range(size)):
        y, x = row * stride + dy * dilation - top, column * stride + dx * dilation - left
        if 0 <= y < height and 0 <= x < width:
            output[:, row, column] += images[:, y, x] @ kernel[dy, dx]
            image_gradient[:, y, x] += cotangent[:, row, column] @ kernel[dy, dx].T
            kernel_gradient[dy, dx] += images[:, y, x].T @ cotangent[:, row, column]
    return output, image_gradient, kernel_gradient


@pytest.mark.parametrize("jit_compile", [False, True], ids=["eager", "xla"])
@pytest.mark.parametrize(("stride", "dilation", "size"), STEMS)
def test_stem_convolution_against_a_direct_loop(stride, dilation, size, jit_compile):
    images = RNG.standard_normal((2, 35, 22, 3)).astype(np.float32)
    kernel = RNG.standard_normal((size, size, 3, 4)).astype(np.float32)
    cotangent = RNG.standard_normal((2, -(-35 // stride), -(-22 // stride), 4)).astype(np.float32)

    def run(images, kernel):
        with tf.GradientTape() as tape:
            tape.watch((images, kernel))
            output = layers.sampled_conv2d(images, kernel, stride, dilation)
            total = tf.reduce_sum(output * cotangent)
        return output, *tape.gradient(total, (images, kernel))

    if jit_compile:
        run = tf.function(run, jit_compile=True)
    actual = run(tf.constant(images), tf.constant(kernel))
    expected = direct_stem(*(array.astype(np.float64) for array in (images, kernel)), stride, dilation, cotangent)
    for one, other in zip(actual, expected):
        assert one.shape == other.shape
        assert relative_error(one, other) < 1e-5


def unfolded_merging(x, gamma, beta, kernel, epsilon=layers.NORM_EPSILON):
    """Patch merging the long way: build every patch, normalize it, multiply."""
    size, _, channels, width = kernel.shape
    paddings = [grids.same_padding(side, size, 2) for side in x.shape[1:3]]
    padded = tf.pad(x, [(0, 0), *paddings, (0, 0)])
    rows, columns = -(-x.shape[1] // 2), -(-x.shape[2] // 2)
    taps = [
        padded[:, dy : dy + 2 * rows - 1 : 2, dx : dx + 2 * columns - 1 : 2]
        for dy, dx in itertools.product(range(size), range(size))
    ]
    patches = tf.concat(taps, -1)  # [B, rows, columns, k * k * C]
    mean = tf.reduce_mean(patches, -1, keepdims=True)
    variance = tf.reduce_mean((patches - mean) ** 2, -1, keepdims=True)
    normalized = (patches - mean) / tf.sqrt(variance + epsilon)
    flat = size * size * channels
    return (normalized * tf.reshape(gamma, [flat]) + tf.reshape(beta, [flat])) @ tf.reshape(kernel, [flat, width])


@pytest.mark.parametrize("offset", [0.0, 5.0, 1e3])
@pytest.mark.parametrize(
    ("size", "grid"), [(2, (4, 6)), (3, (5, 5)), (4, (7, 4)), (4, (1, 1)), (2, (1, 3)), (5, (6, 6))]
)
def test_patch_merging_equals_normalized_patches(size, grid, offset):
    layer = layers.PatchMerging(7, size)
    x = tf.constant(RNG.standard_normal((3, *grid, 4)) + offset, tf.float32)
    layer(x)
    for variable in layer.weights:
        variable.assign(RNG.standard_normal(variable.shape))
    wide = [tf.cast(value, tf.float64) for value in (x, layer.gamma, layer.beta, layer.kernel)]
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(tf.sin(layer(x)))
    actual = (layer(x), *tape.gradient(total, (x, layer.gamma, layer.beta, layer.kernel)))
    with tf.GradientTape() as tape:
        tape.watch(wide)
        output = unfolded_merging(*wide)
        total = tf.reduce_sum(tf.sin(output))
    for one, other in zip(actual, (output, *tape.gradient(total, wide))):
        assert relative_error(one, other) < 1e-4


def finite_differences(fn, x, dx, ddx, step=1e-4):
    """y' and y'' of fn along the curve x + t dx + t^2/2 ddx, fourth order in float64."""
    points = [fn(x + t * dx + t * t / 2 * ddx).numpy() for t in (np.arange(-2, 3) * step)]
    first = (points[0] - 8 * points[1] + 8 * points[3] - points[4]) / (12 * step)
    second = (-points[0] + 16 * points[1] - 30 * points[2] + 16 * points[3] - points[4]) / (12 * step**2)
    return first, second


def double_layers():
    """Every layer of the network in float64, with an input grid for each."""
    return {
        "norm": (layers.LayerNorm(), (2, 2, 6)),
        "stem": (layers.Stem(5, 4, 4, 1), (9, 8, 3)),
        "stem, dilated": (layers.Stem(5, 3, 8, 3), (17, 16, 3)),
        "position embedding": (layers.PositionEmbedding((4, 4)), (3, 2, 5)),
        "merging": (layers.PatchMerging(5, 3), (4, 3, 6)),
        "attention": (layers.WindowedAttention(2, 3), (4, 4, 7)),
        "stage of a block, padded": (layers.Stage([layers.Block(6, 2, 3, 2)], 2), (4, 3, 6)),
    }


def derivatives(layer, x, dx, ddx, engine="jet"):
    return tf.function(lambda: autodiff.derivatives(layer, x, [dx, ddx], engine), autograph=False)()


@pytest.mark.parametrize("engine", autodiff.ENGINES)
@pytest.mark.parametrize("name", double_layers().keys())
def test_first_and_second_derivatives_by_finite_differences(name, engine, clean_policy):
    tf_keras.mixed_precision.set_global_policy("float64")
    layer, shape = double_layers()[name]
    x, dx, ddx = (tf.constant(RNG.standard_normal((2, *shape))) for _ in range(3))
    layer(x)
    for variable in layer.weights:
        variable.assign(RNG.standard_normal(variable.shape))
    _, first, second = derivatives(layer, x, dx, ddx, engine)
    expected_first, expected_second = finite_differences(layer, x, dx, ddx)
    assert relative_error(first, expected_first) < 1e-7
    assert relative_error(second, expected_second) < 1e-5


def test_derivatives_see_a_stopped_mean(clean_policy):
    """The check above is able to fail: with the gradient of the mean stopped, as in tf_keras, it does."""

    class Stopped(layers.LayerNorm):
        def call(self, x):
            centred = x - tf.stop_gradient(tf.reduce_mean(x, axis=-1, keepdims=True))
            variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
            return centred * tf.math.rsqrt(variance + self.epsilon) * self.gamma + self.beta

    tf_keras.mixed_precision.set_global_policy("float64")
    x, dx, ddx = (tf.constant(RNG.standard_normal((2, 2, 2, 6))) for _ in range(3))
    _, _, second = derivatives(Stopped(), x, dx, ddx)
    assert relative_error(second, finite_differences(Stopped(), x, dx, ddx)[1]) > 0.1


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
    layer = layers.WindowedAttention(2, 3)
    windows = grids.Windows.cut(grid, splits, fixed_edge)
    assert windows.edges == edge
    x = tf.constant(RNG.standard_normal((2, *grid, 8)), tf.float32)
    layer(x, windows)
    for variable in layer.weights:
        variable.assign(RNG.standard_normal(variable.shape))
    expected = direct_attention(layer, x, edge)
    assert relative_error(layer(x, windows), expected) < 1e-5
    if not windows.padded:
        cut = layers.from_windows(layer(layers.to_windows(x, windows)), windows)
        assert relative_error(cut, expected) < 1e-5


@pytest.mark.parametrize("grid", [(4, 6), (5, 7)], ids=["divided", "padded"])
def test_a_stage_is_its_blocks_one_after_another(grid):
    """Cut into windows once for all blocks, or by each for itself: as attention by loops, and the rest by the token."""
    stage = layers.Stage([layers.Block(6, 2, 3, 2), layers.Block(6, 2, 3, 2)], 2)
    x = tf.constant(RNG.standard_normal((2, *grid, 6)), tf.float32)
    stage(x)
    for variable in stage.weights:
        variable.assign(RNG.standard_normal(variable.shape))
    expected = x
    for block in stage.blocks:
        expected += direct_attention(block.attention, block.norm1(expected), tuple(-(-side // 2) for side in grid))
        expected += block.fc2(tf.nn.gelu(block.fc1(block.norm2(expected)), approximate=False))
    assert relative_error(stage(x), expected) < 1e-5


@pytest.mark.parametrize(
    ("target", "source"), [((8, 8), (8, 8)), ((2, 2), (8, 8)), ((3, 4), (8, 6)), ((14, 9), (8, 6))]
)
def test_position_embedding_resizes_like_tensorflow(target, source):
    layer = layers.PositionEmbedding(source)
    zeros = tf.zeros((1, *target, 5))
    actual = layer(zeros)
    expected = tf.image.resize(layer.embedding, target, antialias=True)
    assert relative_error(actual, expected) < 1e-5
    if target == source:
        np.testing.assert_array_equal(actual, layer.embedding)


def test_stochastic_depth_drops_whole_branches_in_training_only():
    block = layers.Block(6, 2, 3, 2, drop_rate=0.5, seed=1)
    x = tf.constant(RNG.standard_normal((64, 2, 2, 6)), tf.float32)
    unchanged = [bool(np.all(row == 0)) for row in (block(x, training=True) - x).numpy()]
    assert 5 < sum(unchanged) < 30  # Both branches: a quarter of 64.
    assert not np.any(np.all((block(x, training=False) - x).numpy() == 0, axis=(1, 2, 3)))


@pytest.mark.parametrize("bias", [None, np.where(np.arange(5) == 3, -1e9, 0.0)], ids=["", "masked"])
def test_gradients_of_attention_are_those_of_its_formula(bias):
    """First by the layer's own rule, second through it; against TensorFlow's gradients of the plain formula."""
    inputs = [tf.constant(RNG.standard_normal((2, 5, 3))) for _ in range(3)]
    cotangent = tf.constant(RNG.standard_normal((2, 5, 3)))

    def plain(query, key, value):
        scores = query @ tf.transpose(key, (0, 2, 1))
        return tf.nn.softmax(scores if bias is None else scores + bias) @ value

    def derivatives(function):
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                output = function(*inputs)
            first = inner.gradient(output, inputs, output_gradients=cotangent)
            total = tf.add_n([tf.reduce_sum(tf.sin(gradient)) for gradient in first])
        return [output, *first, *outer.gradient(total, inputs)]

    for run in (lambda function: derivatives(function), lambda function: tf.function(derivatives)(function)):
        ours = run(lambda *arguments: layers.attend(*arguments, bias))
        for actual, expected in zip(ours, run(plain), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [None, np.where(np.arange(5) == 3, -1e9, 0.0)], ids=["", "masked"])
@pytest.mark.parametrize("offset", [0.0, 200.0])
def test_attention_in_bfloat16_is_the_formula_up_to_its_rounding(bias, offset):
    """Weights that are divided by their sum only after the product; also where all scores of a row are large."""
    query, key = (RNG.integers(-1, 2, (2, 5, 4)).astype(np.float64) for _ in range(2))
    query[..., 3], key[..., 3] = offset, 1
    exact = [tf.constant(array) for array in (query, key, *RNG.standard_normal((2, 2, 5, 4)))]
    narrow = [tf.cast(array, tf.bfloat16) for array in exact]
    exact = [tf.cast(array, tf.float64) for array in narrow]  # Both start from the same numbers; scores are whole.

    def run(inputs, cotangent):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = layers.attend(*inputs, bias)
        return [output, *tape.gradient(output, inputs, output_gradients=cotangent)]

    for actual, expected in zip(run(narrow[:3], narrow[3]), run(exact[:3], exact[3]), strict=True):
        assert actual.dtype == tf.bfloat16
        assert np.all(np.isfinite(tf.cast(actual, tf.float64)))
        assert relative_error(tf.cast(actual, tf.float64), expected) < 0.05
