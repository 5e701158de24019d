"""The empirical neural tangent kernel of a network's summed output, and its condition number.

K_ij = < d s(x_i) / d w, d s(x_j) / d w >, with s(x) = sum_c f(x)_c; the condition number is the largest eigenvalue
over the smallest. Source: as the released search code computes it, except that an undefined one is NaN, not -1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from asvit_tf.errors import UserError
from asvit_tf.measures import derivatives as autodiff

# Gradients come from a float32 network: an eigenvalue below this share of the largest is rounding, not signal.
RESOLUTION = float(np.finfo(np.float32).eps)


def compile_gram(fn: autodiff.Function, variables: Sequence[tf.Variable]) -> Callable[[tf.Tensor], np.ndarray]:
    """A Gram function that is traced once per batch shape and reused over images and variable values.

    Args:
      fn: [b, H, W, 3] to [b, C], each row a function of its own image only.
      variables: The variables to differentiate by; `fn` must depend on each.

    Returns:
      A function of images [B, H, W, 3] to the Gram matrix [B, B], float64.
    """

    def gradients_of_one(image):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            total = tf.reduce_sum(fn(image[None]))
        return tape.gradient(total, list(variables))

    @tf.function(autograph=False)
    def gram_of(images):
        signature = [tf.TensorSpec(variable.shape, variable.dtype) for variable in variables]
        per_image = tf.map_fn(gradients_of_one, images, fn_output_signature=signature)
        rows = (tf.reshape(tf.cast(gradient, tf.float64), [images.shape[0], -1]) for gradient in per_image)
        return tf.add_n([tf.matmul(row, row, transpose_b=True) for row in rows])

    def gram_of_images(images: tf.Tensor | np.ndarray) -> np.ndarray:
        images = tf.convert_to_tensor(images)
        if images.shape[0] < 2:
            raise UserError(f"the NTK needs at least 2 images, not {images.shape[0]}")
        return gram_of(images).numpy()

    return gram_of_images


def gram(fn: autodiff.Function, variables: Sequence[tf.Variable], images: tf.Tensor) -> np.ndarray:
    """The empirical NTK [B, B], float64, of images [B, H, W, 3]; see `compile_gram` for the arguments."""
    return compile_gram(fn, variables)(images)


def condition_number_or_reason(gram: np.ndarray) -> tuple[float, str | None]:
    """Largest over smallest eigenvalue of a Gram matrix, and None; or NaN, and why there is none."""
    if not np.all(np.isfinite(gram)):
        return float("nan"), "the gradients are not finite"
    try:
        eigenvalues = np.linalg.eigvalsh(gram)
    except np.linalg.LinAlgError:
        return float("nan"), "the eigenvalues of the NTK do not converge"
    if not eigenvalues[0] > RESOLUTION * eigenvalues[-1]:
        return float(
            "nan"
        ), "the NTK is singular to the precision of its gradients: some images are alike to this network"
    return float(eigenvalues[-1] / eigenvalues[0]), None


def effective_rank(gram: np.ndarray) -> float:
    """How many images the kernel tells apart: (sum of eigenvalues)^2 / sum of their squares, from 1 to B.

    B if all eigenvalues are equal, 1 if only one is not 0. It depends little on the smallest eigenvalue. NaN
    for a matrix that is zero or not finite.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return float(np.square(np.trace(gram)) / np.sum(np.square(gram)))


def condition_number(gram: np.ndarray) -> float:
    """Largest over smallest eigenvalue of a Gram matrix; >= 1.

    NaN, never a number that could be ranked, where there is none (`condition_number_or_reason` says why): entries that
    are not finite, or a smallest eigenvalue that is not above the rounding of float32 gradients.
    """
    return condition_number_or_reason(gram)[0]
