"""Published measures of a linear network of two layers, against values that are derived by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from small_networks import linear

from asvit_tf.measures import passes
from asvit_tf.measures.passes import GradientStatistics
from asvit_tf.measures.proxies import zico
from asvit_tf.measures.registry import ATTENTION, FFN, Network, Programs, Run, Trace, UndefinedError

EYE = np.eye(3)
AXES = np.concatenate([EYE, -EYE])[None, None]  # One image of six tokens, one each way along every axis.
# Two images of one token each, of two classes, for which u = (1, -1, 0) is at right angles to both features. With the
# head (u, -u) both logits are 0, so the gradient by the features is -u for label 0 and u for label 1; by the head it is
# (-1/2, 1/2) and (1/2, -1/2) times the features.
FIRST, SECOND = (1.0, 1.0, 1.0), (2.0, 2.0, -3.0)
PAIR, LABELS = np.array([FIRST, SECOND])[:, None, None], [0, 1]
HEAD = np.array([[1.0, -1.0], [-1.0, 1.0], [0.0, 0.0]])


def value(name, network, images, labels=None):
    measured = Programs(network).measure([name], images, labels)[name]
    assert measured.reason is None
    return measured.value


def test_entropy_of_axes_is_the_logarithm_of_their_number():
    """Covariance I / 3 behind the first layer, without the third axis behind the second: log 3, then log 2."""
    network = linear(EYE, np.diag([1.0, 1.0, 0.0]), np.ones((3, 2)))
    assert value("expressivity", network, AXES) == pytest.approx(math.log(6), rel=1e-6)
    assert value("progressivity", network, AXES) == pytest.approx(math.log(2) - math.log(3), rel=1e-5)


def test_the_least_step_counts_not_the_mean_nor_the_whole():
    """Two axes, three, one: log 2, log 3, 0; the steps are log 3/2 and -log 3."""

    def call(images):
        axes = {"two": [1.0, 1.0, 0.0], "three": [1.0, 1.0, 1.0], "one": [0.0, 0.0, 1.0]}
        return Trace(images[:, 0, 0], {name: images * tf.constant(kept) for name, kept in axes.items()})

    assert value("progressivity", Network(call, []), AXES) == pytest.approx(-math.log(3), rel=1e-6)
    assert value("expressivity", Network(call, []), AXES) == pytest.approx(math.log(6), rel=1e-6)


def test_entropy_of_unequal_axes():
    """Covariance diag(4, 1, 0) / 3: shares 0.8 and 0.2."""
    network = linear(np.diag([2.0, 1.0, 0.0]), EYE, np.ones((3, 2)))
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    assert value("expressivity", network, AXES) == pytest.approx(2 * entropy, rel=1e-6)


def test_the_identity_is_perfectly_trainable_and_twice_it_is_not():
    """sigma = 1 exactly, however few tokens: 0. sigma = 2 in both layers: -2 - 1 / 2 + 2."""
    assert value("trainability", linear(EYE, EYE, np.ones((3, 2))), AXES[:, :, :1]) == pytest.approx(0, abs=1e-6)
    many = np.zeros((1, 300, 300, 3))
    assert value("trainability", linear(2 * EYE, -2 * EYE, np.ones((3, 2))), many) == pytest.approx(-0.5, abs=0.02)


def test_every_layer_of_a_chain_carries_the_whole_flow():
    """R = 1^T |A| |B| |H| 1 = 18, and each of three layers has sum |w| dR/d|w| = R."""
    network = linear(np.diag([2.0, -1.0, 0.0]), -np.ones((3, 3)), np.ones((3, 2)))
    assert value("synflow", network, AXES) == pytest.approx(math.log(3 * 18), rel=1e-6)


def test_a_long_chain_does_not_leave_float32():
    """Flow of 1e50 in all."""
    network = linear(1e25 * EYE, 1e25 * EYE, EYE)
    assert value("synflow", network, AXES) == pytest.approx(math.log(9) + 50 * math.log(10), rel=1e-6)


def test_singular_values_of_attention_and_saliency_of_the_rest():
    """The gradient by |A| is 1 (|B| |H| 1)^T = 1 (2, 2, 2)^T, whose norm is 6; |A| = diag(2, 1, 1) has 4: 24. By |B|
    and |H| the saliency is the sum of the logits, 8, each."""
    network = linear(np.diag([2.0, -1.0, 1.0]), -EYE, np.ones((3, 2)), (ATTENTION, FFN))
    assert value("dss", network, AXES) == pytest.approx(24 + 8 + 8, rel=1e-6)


def test_gradient_of_the_head_alone():
    """With both columns of the head u, the logits of an image are equal and nothing reaches the layers before. By the
    head the gradient is (f_2 - f_1) (1/4, -1/4)^T for features f."""
    u = np.array([1.0, 2.0, 0.5])
    network = linear(EYE, EYE, np.stack([u, u], axis=1))
    difference = np.subtract(SECOND, FIRST)  # (1, 1, -4)
    norm = np.linalg.norm(difference) * math.hypot(0.25, 0.25)
    assert value("gradient_norm", network, PAIR, LABELS) == pytest.approx(norm, rel=1e-6)
    snip = 2 * 0.25 * np.sum(np.abs(difference) * u)
    assert value("snip", network, PAIR, LABELS) == pytest.approx(snip, rel=1e-6)


def test_variation_of_two_gradients():
    """Row r of a gradient is -x_1r v for the first image and x_2r v for the second one, with v = u (or a half and minus
    a half behind the head): mean |g| / std g = (|x_1r| + |x_2r|) / |x_1r + x_2r|, which is 1, 1 and 4 / 2. Two numbers
    of v are not 0, so each of three layers has 2 (1 + 1 + 2)."""
    assert value("zico", linear(EYE, EYE, HEAD), PAIR, LABELS) == pytest.approx(3 * math.log(8), rel=1e-6)


def test_deviation_of_two_gradients_and_two_patterns():
    """1 / std g = 2 / (|x_1r + x_2r| |v|): 2 (2/3 + 2/3 + 2/2) for two layers, and twice that for the head. The signs
    of the three units are (+, +), (+, +) and (+, -): two patterns."""
    slopes = 2 * math.log(14 / 3) + math.log(28 / 3)
    assert value("l_swag", linear(EYE, EYE, HEAD), PAIR, LABELS) == pytest.approx(2 * slopes, rel=1e-6)


def test_a_gradient_that_is_zero_but_for_rounding_does_not_count():
    """Gradients of two images by three weights: 2 and 4, 1 and -1, 1e-8 and -1e-8; the deviation is 1, 1 and 1e-8. An
    eps of 4 is 5e-7, so the third one is rounding: 3 / 1 + 1 / 1 and 1 + 1 are left."""
    gradients = np.array([[2.0, 1.0, 1e-8], [4.0, -1.0, -1e-8]], np.float32)

    def statistics(of):
        parts = of.mean(axis=0), np.abs(of).mean(axis=0), of.std(axis=0), np.abs(of).max()
        return GradientStatistics(*map(tf.constant, parts))

    run = SimpleNamespace(network=linear(EYE, EYE, HEAD))
    layer = statistics(gradients)
    assert zico.log_sum(run, 0, layer.size, layer) == pytest.approx(math.log(4), rel=1e-6)
    assert zico.log_sum(run, 0, 1.0, layer) == pytest.approx(math.log(2), rel=1e-6)
    small = statistics(1e-10 * gradients[:, :2])  # Beside others as small it counts.
    assert zico.log_sum(run, 0, small.size, small) == pytest.approx(math.log(4), rel=1e-6)
    with pytest.raises(UndefinedError, match="do not differ between the images"):
        zico.log_sum(run, 0, 1.0, layer._replace(deviation=tf.constant([0.0, 1e-8, 4e-7])))
    with pytest.raises(UndefinedError, match="are not finite"):
        zico.log_sum(run, 0, 1.0, statistics(gradients * np.array([1.0, np.nan, 1.0], np.float32)))


def test_the_largest_gradient_is_that_of_any_image_and_weight():
    """By the head, `largest` is 1/2 times the largest number of both features, 3 of the second image."""
    network = linear(EYE, EYE, HEAD)
    found = Programs(network)
    run = Run(network, tf.constant(PAIR, tf.float32), tf.constant(LABELS, tf.int64), 0, found._program)
    assert passes.GRADIENTS.compute(run)[-1].largest.numpy() == pytest.approx(1.5, rel=1e-6)


def test_two_of_three_units_agree():
    """K = [[3, 2], [2, 3]]."""
    assert value("naswot", linear(EYE, EYE, HEAD), PAIR) == pytest.approx(math.log(5), rel=1e-12)
