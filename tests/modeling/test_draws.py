"""Draws that are functions of (seed, step), and stochastic depth that uses them."""

import numpy as np
import pytest
import tensorflow as tf
from helpers import two_devices

from asvit_tf.modeling import draws

RATE = 0.3


def kept(layer, seed, step, images=4000):
    """Factor of each image behind two calls of a layer in a step, as one traced program of XLA draws it."""
    branch = tf.ones((images, 2, 2, 3))

    @tf.function(jit_compile=True)
    def program():
        with draws.of_step(seed, step):
            return layer(branch, training=True), layer(branch, training=True)

    factors = [np.asarray(output) for output in program()]
    for output in factors:
        np.testing.assert_array_equal(output, np.broadcast_to(output[:, :1, :1, :1], output.shape))  # Whole images.
    return [output[:, 0, 0, 0] for output in factors]


def agreement(one, other):
    """Share of images that two draws treat alike; of independent ones p^2 + (1 - p)^2."""
    return np.mean((one > 0) == (other > 0))


def test_stochastic_depth_by_its_formula():
    layer = draws.StochasticDepth(RATE)
    step = tf.Variable(5, dtype=tf.int64)
    first, second = kept(layer, 0, step)
    assert set(np.unique(first)) == {np.float32(0), np.float32(1) / np.float32(1 - RATE)}
    deviation = np.sqrt(RATE * (1 - RATE) / len(first))
    assert np.mean(first == 0) == pytest.approx(RATE, abs=4 * deviation)
    np.testing.assert_array_equal(kept(draws.StochasticDepth(RATE), 0, step), [first, second])
    independent = RATE**2 + (1 - RATE) ** 2
    other_seed = kept(layer, 1, step)[0]
    step.assign(6)
    others = [second, other_seed, kept(layer, 0, step)[0]]
    assert [agreement(first, other) for other in others] == pytest.approx([independent] * 3, abs=0.04)


def test_a_program_traced_once_draws_by_the_step_it_runs_at():
    layer, step = draws.StochasticDepth(RATE), tf.Variable(0, dtype=tf.int64)

    @tf.function
    def program():
        with draws.of_step(0, step):
            return layer(tf.ones((200, 1, 1, 1)), training=True)

    at = []
    for number in range(3):
        step.assign(number)
        at.append(program().numpy())
    step.assign(1)
    np.testing.assert_array_equal(program(), at[1])
    assert not np.array_equal(at[0], at[1])


def test_replicas_draw_differently():
    strategy, layer = two_devices(), draws.StochasticDepth(RATE)
    with strategy.scope():
        step = tf.Variable(3, dtype=tf.int64, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

        def replica():
            return layer(tf.ones((4000, 1, 1, 1)), training=True)

        @tf.function
        def program():
            with draws.of_step(0, step):
                return strategy.experimental_local_results(strategy.run(replica))

        one, other = (output.numpy() for output in program())
        again = program()
    assert agreement(one, other) == pytest.approx(RATE**2 + (1 - RATE) ** 2, abs=0.04)
    np.testing.assert_array_equal([output.numpy() for output in again], [one, other])


def test_without_training_or_rate_nothing_is_skipped():
    branch, step = tf.ones((50, 1, 1, 1)), tf.Variable(0)
    with draws.of_step(0, step):
        np.testing.assert_array_equal(draws.StochasticDepth(RATE)(branch, training=False), branch)
        np.testing.assert_array_equal(draws.StochasticDepth(0.0)(branch, training=True), branch)


def test_derived_seeds_are_different_and_allowed():
    seeds = [draws.derived_seed(*numbers) for numbers in [(0,), (1,), (0, 0), (0, 1), (1, 0), (-1, 0), (2**31, 5)]]
    assert len(set(seeds)) == len(seeds)
    assert all(1 <= seed < 2**31 for seed in seeds)
