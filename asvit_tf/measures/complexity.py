"""How much a network bends and stretches a circle in its input space.

The circle is h(t) = r (u0 cos t + u1 sin t), its image the curve N(h(t)); v and a are the image's first and second
derivative. Then

    length distortion                 = (integral of |v| dt) / (2 pi r)
    curvature                         = integral of (v.v)^(-3/2) sqrt((v.v)(a.a) - (v.a)^2) dt
    length distortion with curvature  = integral of |d(v/|v|)/dt| dt = integral of sqrt((v.v)(a.a) - (v.a)^2) / (v.v) dt

Source: "Auto-scaling Vision Transformers without Training" (ICLR 2022), Table 2. We integrate by the trapezoid rule
where the released code adds up the points, and differentiate |v| in v/|v| where it takes it for a constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from asvit_tf import choices
from asvit_tf.errors import UserError
from asvit_tf.measures import derivatives as autodiff

_LINEAR_WITHIN = 0.05  # Share of the derivatives that no linear map explains.
_ROUND_WITHIN = 0.25  # An ellipse of axis ratio 0.75 has 4 % more curvature than a circle as long.


@dataclasses.dataclass(frozen=True)
class Circle:
    """A circle through the space of images.

    Attributes:
      u0, u1: [H, W, 3], orthonormal.
      radius: > 0.
      theta: [n] angles in radians, rising; the first and the last close the circle.
    """

    u0: np.ndarray
    u1: np.ndarray
    radius: float
    theta: np.ndarray

    @classmethod
    def random(
        cls, image_size: tuple[int, int], points: int, generator: np.random.Generator, radius: str = "sqrt_n"
    ) -> Circle:
        """A circle in a random plane.

        Args:
          image_size: H and W in pixels.
          points: Angles from 0 to 2 pi, both included; >= 3.
          generator: Source of randomness.
          radius: "sqrt_n", the square root of 3 H W, so that every pixel has unit size; or "unit".

        Raises:
          UserError: Fewer than 3 points, or an unknown radius.
        """
        if points < 3:
            raise UserError(f"points is {points}; a circle needs at least 3")
        if radius not in choices.RADII:
            raise UserError(f"unknown radius {radius!r}; allowed are {', '.join(choices.RADII)}")
        shape = (*image_size, 3)
        size = int(np.prod(shape))
        plane, _ = np.linalg.qr(generator.standard_normal((size, 2)))
        u0, u1 = (plane[:, i].reshape(shape) for i in range(2))
        return cls(u0, u1, size**0.5 if radius == "sqrt_n" else 1.0, np.linspace(0.0, 2 * np.pi, points))

    def path(self) -> tuple[np.ndarray, np.ndarray]:
        """h and its derivative at every angle, each [n, H, W, 3]; the second derivative is -h."""
        cosine, sine = (wave(self.theta)[:, None, None, None] for wave in (np.cos, np.sin))
        return (
            self.radius * (self.u0 * cosine + self.u1 * sine),
            self.radius * (self.u1 * cosine - self.u0 * sine),
        )


@dataclasses.dataclass(frozen=True)
class Complexity:
    """The image of a circle, and its measures (dimensionless; None where the acceleration was not asked for).

    A measure that is undefined, because the image stands still somewhere or is not finite, is NaN. `nonlinearity` is
    the share of v and a that no linear map explains, 0 to 1; `axis_ratio` the shorter over the longer axis of the
    ellipse that the best linear map makes of the circle.
    """

    velocity: np.ndarray  # [n, C]
    acceleration: np.ndarray | None  # [n, C]
    length_distortion: float
    curvature: float | None
    length_distortion_with_curvature: float | None
    nonlinearity: float | None = None
    axis_ratio: float | None = None

    @property
    def undefined(self) -> str | None:
        """Why a measure is NaN; None if all are numbers."""
        if not all(np.all(np.isfinite(part)) for part in (self.velocity, self.acceleration) if part is not None):
            return "the network's output or a derivative of it is not finite"
        if self.acceleration is not None and not np.all(np.any(self.velocity, axis=1)):
            return "the image of the circle stands still (v = 0): it has no direction"
        return None


def turning_number(length_distortion_with_curvature: float) -> float:
    """How often the image's direction turns around while the circle is run once: 1 for a linear map."""
    return length_distortion_with_curvature / (2 * np.pi)


def is_linear(nonlinearity: float) -> bool:
    """Whether a network is linear along the circle, to a twentieth of its derivatives."""
    return nonlinearity < _LINEAR_WITHIN


def in_words(turning: float, nonlinearity: float, axis_ratio: float) -> str:
    """What the shape of the image says about the measures.

    Args:
      turning: Turning number.
      nonlinearity, axis_ratio: As in `Complexity`; the largest and the smallest of several repeats.
    """
    if not is_linear(nonlinearity):
        return (
            f"turning number {turning:.4f}: the network is not linear along the circle ({nonlinearity:.1%} of its "
            "derivatives are beyond a linear map); curvature and length distortion are different information"
        )
    text = (
        f"turning number {turning:.4f}: the network is linear along the circle (to {nonlinearity:.2%} of its "
        f"derivatives); the image is an ellipse of axis ratio {axis_ratio:.2f}"
    )
    if axis_ratio > 1 - _ROUND_WITHIN:
        text += ", nearly round, so curvature and length distortion say the same: how much the network stretches"
    return text


def integrate(circle: Circle, velocity: np.ndarray, acceleration: np.ndarray | None) -> Complexity:
    """The measures from the derivatives at every angle, in float64.

    Args:
      circle: The circle along which they were taken.
      velocity: [n, C].
      acceleration: [n, C], or None for the length distortion alone.
    """
    velocity = np.asarray(velocity, np.float64)
    speed_squared = np.sum(velocity**2, axis=1)
    speed = np.sqrt(speed_squared)
    length_distortion = float(np.trapezoid(speed, circle.theta) / (2 * np.pi * circle.radius))
    if acceleration is None:
        return Complexity(velocity, None, length_distortion, None, None)
    acceleration = np.asarray(acceleration, np.float64)
    # The part of a at right angles to v: (v.v)(a.a) - (v.a)^2 = (v.v) |a_perp|^2, without the cancellation.
    with np.errstate(divide="ignore", invalid="ignore"):
        along = np.sum(velocity * acceleration, axis=1) / speed_squared
        turning_speed = np.linalg.norm(acceleration - along[:, None] * velocity, axis=1) / speed
        curvature = float(np.trapezoid(turning_speed / speed, circle.theta))
        turning = float(np.trapezoid(turning_speed, circle.theta))
    return Complexity(
        velocity, acceleration, length_distortion, curvature, turning, *_linear_part(circle, velocity, acceleration)
    )


def _linear_part(circle: Circle, velocity: np.ndarray, acceleration: np.ndarray) -> tuple[float, float]:
    """`nonlinearity` and `axis_ratio`.

    A linear map has v = B cos t - A sin t and a = -A cos t - B sin t, with A and B the images of r u0 and r u1; they
    are fitted by least squares. No quadrature: it holds for any number of points.
    """
    cosine, sine = np.cos(circle.theta), np.sin(circle.theta)
    design = np.concatenate([np.stack([-sine, cosine], 1), np.stack([-cosine, -sine], 1)])  # [2 n, 2]
    derivatives = np.concatenate([velocity, acceleration])
    if not (np.all(np.isfinite(derivatives)) and np.any(derivatives)):
        return float("nan"), float("nan")
    axes = np.linalg.lstsq(design, derivatives, rcond=None)[0]
    residual = float(np.linalg.norm(derivatives - design @ axes) / np.linalg.norm(derivatives))
    longer, shorter = np.linalg.svd(axes, compute_uv=False)
    return residual, float(shorter / longer) if longer > 0 else float("nan")


def compile_measure(
    fn: autodiff.Function, acceleration: bool = True, engine: str = "jet"
) -> Callable[[Circle], Complexity]:
    """A measuring function that is traced once and reused over circles and over new values of `fn`'s variables.

    Args:
      fn: [n, H, W, 3] float32 to [n, C], each row a function of its own point only.
      acceleration: Also compute the second derivative, and with it the two measures of bending.
      engine: How to differentiate, one of `choices.ENGINES`.

    Raises:
      UserError: Unknown engine.
    """
    if engine not in choices.ENGINES:
        raise UserError(f"unknown engine {engine!r}; allowed are {', '.join(choices.ENGINES)}")

    @tf.function(autograph=False)
    def derivatives(h, dh):
        return autodiff.derivatives(fn, h, [dh, -h] if acceleration else [dh], engine)[1:]

    def measure_circle(circle: Circle) -> Complexity:
        h, dh = (tf.constant(part, tf.float32) for part in circle.path())
        velocity, *rest = (derivative.numpy() for derivative in derivatives(h, dh))
        return integrate(circle, velocity, rest[0] if rest else None)

    return measure_circle


def measure(fn: autodiff.Function, circle: Circle) -> Complexity:
    """All measures of `fn` ([n, H, W, 3] to [n, C]) on one circle. To reuse the trace, see `compile_measure`."""
    return compile_measure(fn)(circle)
