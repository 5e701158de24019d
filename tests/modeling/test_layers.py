import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import relative_error

from asvit_tf import choices
from asvit_tf.design import grids
from asvit_tf.measures import derivatives as autodiff
from asvit_tf.modeling import attention, blocks, layers

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
        "attention": (attention.WindowedAttention(2, 3), (4, 4, 7)),
        "stage of a block, padded": (blocks.Stage([blocks.Block(6, 2, 3, 2)], 2), (4, 3, 6)),
    }


def derivatives(layer, x, dx, ddx, engine="jet"):
    return tf.function(lambda: autodiff.derivatives(layer, x, [dx, ddx], engine), autograph=False)()


@pytest.mark.parametrize("engine", choices.ENGINES)
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
