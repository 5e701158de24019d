import numpy as np
import pytest
import scipy.special
import tensorflow as tf
import tf_keras
from helpers import relative_error

from asvit_tf import AsViT, UserError
from asvit_tf.measures import complexity, ntk
from asvit_tf.measures.complexity import Circle

RNG = np.random.default_rng(0)


def fine_circle(points=2001):
    return Circle.random((2, 2), points, np.random.default_rng(1), "unit")


def test_random_circles_are_orthonormal_and_of_the_asked_radius():
    circle = Circle.random((5, 4), 7, np.random.default_rng(0))
    h, dh = circle.path()
    np.testing.assert_allclose(np.sum(h**2, axis=(1, 2, 3)), 60)
    np.testing.assert_allclose(np.sum(dh**2, axis=(1, 2, 3)), 60)
    np.testing.assert_allclose(np.sum(h * dh, axis=(1, 2, 3)), 0, atol=1e-10)
    np.testing.assert_allclose(h[0], h[-1], atol=1e-10)


def test_linear_map_makes_an_ellipse():
    """Length by the complete elliptic integral, total turning 2 pi, curvature by its closed form."""
    circle = fine_circle()
    plane = np.stack([circle.u0.ravel(), circle.u1.ravel()])  # [2, 12]
    a, b = 3.0, 0.5
    matrix = (plane.T * (a, b)).astype(np.float32)  # Maps the circle to (a cos t, b sin t).

    measured = complexity.measure(lambda x: tf.reshape(x, [-1, 12]) @ matrix, circle)
    perimeter = 4 * a * scipy.special.ellipe(1 - (b / a) ** 2)
    assert measured.length_distortion == pytest.approx(perimeter / (2 * np.pi), rel=1e-5)
    assert measured.length_distortion_with_curvature == pytest.approx(2 * np.pi, rel=1e-5)
    # The integrand is a b / |v|^3, and the integral of (a^2 sin^2 + b^2 cos^2)^(-3/2) is 4 E(1 - b^2/a^2) / (a b^2).
    assert measured.curvature == pytest.approx(
        a * b * 4 * scipy.special.ellipe(1 - (b / a) ** 2) / (a * b**2), rel=1e-4
    )


def test_quadratic_map_in_closed_form():
    """x -> x^2 maps the unit circle in one complex line to the same circle run twice."""
    circle = fine_circle()
    plane = np.stack([circle.u0.ravel(), circle.u1.ravel()]).T.astype(np.float32)

    def square(x):
        real, imaginary = tf.unstack(tf.reshape(x, [-1, 12]) @ plane, axis=1)
        return tf.stack([real**2 - imaginary**2, 2 * real * imaginary], axis=1)

    measured = complexity.measure(square, circle)
    angle = circle.theta[:, None]
    np.testing.assert_allclose(measured.velocity, 2 * np.hstack([-np.sin(2 * angle), np.cos(2 * angle)]), atol=1e-5)
    np.testing.assert_allclose(measured.acceleration, -4 * np.hstack([np.cos(2 * angle), np.sin(2 * angle)]), atol=1e-5)
    assert measured.length_distortion == pytest.approx(2, rel=1e-5)
    assert measured.curvature == pytest.approx(2 * np.pi, rel=1e-5)
    assert measured.length_distortion_with_curvature == pytest.approx(4 * np.pi, rel=1e-5)


def test_length_alone_equals_length_among_all():
    circle = fine_circle(9)
    weights = tf.constant(RNG.standard_normal((12, 5)), tf.float32)

    def fn(x):
        return tf.nn.gelu(tf.reshape(x, [-1, 12]) @ weights, approximate=False)

    alone = complexity.compile_measure(fn, acceleration=False)(circle)
    assert alone.curvature is None
    assert alone.length_distortion == pytest.approx(complexity.measure(fn, circle).length_distortion, rel=1e-6)


def test_constant_map_has_no_curvature():
    measured = complexity.measure(lambda x: tf.zeros([x.shape[0], 3]) + 0 * tf.reduce_sum(x), fine_circle(5))
    assert measured.length_distortion == 0
    assert np.isnan(measured.curvature)
    assert np.isnan(measured.length_distortion_with_curvature)
    assert "stands still" in measured.undefined


def test_nan_weights_are_reported():
    measured = complexity.measure(lambda x: tf.reshape(x, [-1, 12]) * np.float32("nan"), fine_circle(5))
    assert np.isnan(measured.length_distortion)
    assert "not finite" in measured.undefined


def test_a_fine_measure_has_no_excuse():
    assert complexity.measure(lambda x: tf.reshape(x, [-1, 12]), fine_circle(5)).undefined is None


@pytest.mark.parametrize("normalization", ["layer", "identity"])
def test_velocity_of_a_network_equals_reverse_mode_channel_by_channel(normalization):
    inputs = tf_keras.layers.InputSpec(shape=[None, 24, 24, 3])
    backbone = AsViT("5,2,2|3,1,2|2,1,2|2,1,2|16,8", inputs, normalization=normalization, seed=0)
    circle = Circle.random((24, 24), 4, np.random.default_rng(0))
    measured = complexity.compile_measure(lambda x: backbone(x)["pre_logits"][:, 0, 0])(circle)
    h, dh = (tf.constant(part, tf.float32) for part in circle.path())
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(h)
        y = tf.unstack(backbone(h)["pre_logits"][:, 0, 0], axis=1)
    columns = [tf.reduce_sum(tape.gradient(channel, h) * dh, axis=(1, 2, 3)) for channel in y]
    assert relative_error(measured.velocity, np.stack(columns, 1)) < 1e-5


def test_words_about_the_turning_number():
    assert complexity.turning_number(2 * np.pi) == 1
    assert "linear along the circle" in complexity.in_words(1.0, 0.001, 0.5)
    assert "say the same" not in complexity.in_words(1.0, 0.001, 0.5)
    assert "say the same" in complexity.in_words(1.0, 0.001, 0.95)
    assert "not linear" in complexity.in_words(1.0, 0.06, 0.95)


@pytest.mark.parametrize("points", [5, 10])
def test_linearity_needs_no_quadrature(points):
    circle = fine_circle(points)
    plane = np.stack([circle.u0.ravel(), circle.u1.ravel()]).T.astype(np.float32)

    def ellipse(x):
        return tf.reshape(x, [-1, 12]) @ (plane * np.float32([3.0, 0.6]))

    measured = complexity.measure(ellipse, circle)
    assert measured.nonlinearity < 1e-5
    assert measured.axis_ratio == pytest.approx(0.2, rel=1e-4)
    # A closed convex curve turns around once too, and is no ellipse.
    bent = complexity.measure(lambda x: tf.tanh(tf.reshape(x, [-1, 12]) @ (2 * plane)), circle)
    assert bent.nonlinearity > 0.1


@pytest.mark.parametrize(("options", "message"), [({"points": 2}, "at least 3"), ({"radius": "two"}, "sqrt_n, unit")])
def test_bad_circles_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Circle.random((4, 4), **{"points": 5, "generator": RNG, **options})


def test_gram_of_a_linear_model_is_the_gram_of_its_inputs():
    kernel = tf.Variable(RNG.standard_normal((12, 1)), dtype=tf.float32)
    images = tf.constant(RNG.standard_normal((5, 2, 2, 3)), tf.float32)
    rows = images.numpy().reshape(5, 12)
    actual = ntk.gram(lambda x: tf.reshape(x, [-1, 12]) @ kernel, [kernel], images)
    assert relative_error(actual, rows @ rows.T) < 1e-6


@pytest.mark.parametrize(
    "gram",
    [
        np.array([[1.0, 1.0], [1.0, 1.0]]),
        np.array([[1.0, 2.0], [2.0, 1.0]]),
        np.array([[1.0, np.nan], [np.nan, 1.0]]),
        np.array([[np.inf, 0.0], [0.0, 1.0]]),
        np.zeros((3, 3)),
        np.diag([0.9 * 2.0**-23, 1.0]),
    ],
    ids=["singular", "negative eigenvalue", "NaN", "infinite", "zero", "below the rounding of float32"],
)
def test_undefined_condition_numbers_are_nan(gram):
    assert np.isnan(ntk.condition_number(gram))
    reason = "not finite" if not np.all(np.isfinite(gram)) else "singular"
    assert reason in ntk.condition_number_or_reason(gram)[1]


def test_condition_number_of_a_diagonal():
    assert ntk.condition_number(np.diag([2.0, 8.0, 4.0])) == pytest.approx(4)
    assert ntk.condition_number(np.diag([1.1 * 2.0**-23, 1.0])) == pytest.approx(2.0**23 / 1.1)


def test_one_image_is_refused():
    with pytest.raises(UserError, match="at least 2 images"):
        ntk.gram(lambda x: x, [], tf.zeros((1, 2, 2, 3)))
