"""What is computed again for the gradient is what was computed before, wherever it runs."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import relative_error, two_devices

from asvit_tf.modeling import blocks, draws
from asvit_tf.modeling.recomputation import recomputed
from asvit_tf.precision import mixed_precision

RNG = np.random.default_rng(0)
# Zeros of both signs, small and large numbers, and what is none.
ODD = [0.0, -0.0, 6.2e-5, 2e-38, -2e-38, 6e4, 3e38, -3e38, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("incoming", [0.0, 1.5, -1e-45, np.inf, np.nan])
@pytest.mark.parametrize("dtype", [tf.float64, tf.float32, tf.bfloat16, tf.float16], ids=lambda dtype: dtype.name)
def test_the_inputs_are_the_same_bits_whatever_the_gradient_is(dtype, incoming):
    seen = []
    x = tf.cast(tf.constant(ODD, tf.float64), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = recomputed(lambda x: seen.append(x) or tf.identity(x))(x)
    incoming = tf.fill([len(ODD)], tf.cast(incoming, dtype))
    gradient = tape.gradient(output, x, output_gradients=incoming)
    assert gradient.numpy().tobytes() == incoming.numpy().tobytes()
    first, again = (each.numpy() for each in seen)
    assert again.tobytes() == first.tobytes()


def test_no_images():
    x = tf.zeros((0, 3))
    with tf.GradientTape() as tape:
        tape.watch(x)
        output = recomputed(tf.sin)(x)
    assert tape.gradient(output, x).shape == (0, 3)


@pytest.mark.parametrize("compiled", [False, True])
def test_variables_and_second_derivatives(compiled):
    """Of sum(sin(w x^2)), by hand."""
    x, w = tf.constant([0.3, 0.7], tf.float64), tf.Variable([1.1, 0.2], dtype=tf.float64)

    @tf.function(autograph=False, jit_compile=compiled)
    def both():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                total = tf.reduce_sum(recomputed(lambda x: tf.sin(w * x * x))(x))
            first = inner.gradient(total, [x, w])
        return *first, outer.gradient(first[0], x)

    inside = w * x * x
    expected = (
        2 * w * x * tf.cos(inside),
        x * x * tf.cos(inside),
        2 * w * tf.cos(inside) - (2 * w * x) ** 2 * tf.sin(inside),
    )
    for actual, formula in zip(both(), expected, strict=True):
        np.testing.assert_allclose(actual, formula, rtol=1e-12)


def two_blocks():
    """The same blocks twice, the second one computed again."""
    pair = [blocks.Block(6, 2, 3, 2, drop_rate=0.5, seed=1, recomputed=again) for again in (False, True)]
    for block in pair:
        block(tf.zeros((1, 2, 4, 6)))
    values = [RNG.standard_normal(variable.shape) / 2 for variable in pair[0].weights]
    for block in pair:
        block.set_weights(values)
    return pair


def gradients(block, x, step):
    with draws.of_step(3, step), tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(tf.cast(block(x, training=True), tf.float32)))
    return tape.gradient(loss, block.trainable_variables)


@pytest.mark.parametrize("policy", ["float32", "bfloat16"])
def test_each_replica_computes_again_what_it_computed(policy):
    """Under a strategy of two devices, skipped branches included: gradients of the sum over replicas."""
    strategy, step = two_devices(), tf.Variable(7, dtype=tf.int64)
    images = tf.constant(RNG.standard_normal((2, 8, 2, 4, 6)), tf.float32)
    with mixed_precision(policy), strategy.scope():
        pair = two_blocks()

        @tf.function(autograph=False)
        def summed():
            def of_replica(block):
                replica = tf.distribute.get_replica_context().replica_id_in_sync_group
                x = tf.cast(tf.gather(images, replica), block.compute_dtype)
                return gradients(block, x, step)

            def total(block):
                results = strategy.run(of_replica, (block,))
                return [strategy.reduce("SUM", each, axis=None) for each in results]

            return [total(block) for block in pair]

        kept, again = summed()
    assert all(np.any(np.asarray(each)) for each in kept)
    for actual, expected in zip(again, kept, strict=True):
        assert actual.dtype == tf.float32
        assert relative_error(actual, expected) < 1e-6


def test_nothing_inside_is_kept_outside_of_a_graph():
    """A tape that is asked for what is inside does not know it."""
    inside = []
    w = tf.Variable(2.0)

    def function(x):
        inside.append(w * x)
        return tf.sin(inside[-1])

    with tf.GradientTape(persistent=True) as tape:
        output = recomputed(function)(tf.constant(0.5))
    assert tape.gradient(inside[0], w) is None
    np.testing.assert_allclose(tape.gradient(output, w), 0.5 * np.cos(1.0), rtol=1e-6)
