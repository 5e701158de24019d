"""What several measures share: block outputs, forward products through blocks, gradients of every image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import tensorflow as tf

from asvit_tf.errors import UserError
from asvit_tf.measures import derivatives as autodiff
from asvit_tf.measures.registry import Network, Pass, Run, Trace

_SUM = -1  # In place of a label: the sum of the logits instead of a loss.


class Products(NamedTuple):
    """A trace with the mean Jacobian of every block: for those that keep the shape, by name, [C, C]."""

    trace: Trace
    jacobians: Mapping[str, tf.Tensor]


class GradientStatistics(NamedTuple):
    """Gradients of the cross-entropy of single images by one weight; each of its shape but for the last.

    Attributes:
      mean: Mean over the images, the gradient of the mean loss.
      size: Mean of the absolute values.
      deviation: Standard deviation over the images (divided by B, not B - 1).
      largest: The largest absolute value, a scalar.
    """

    mean: tf.Tensor
    size: tf.Tensor
    deviation: tf.Tensor
    largest: tf.Tensor


def _traced(network: Network) -> Callable:
    return tf.function(lambda images: _plain(network.call(images)), autograph=False)


def _plain(trace: Trace) -> Trace:
    """With dictionaries, whatever mappings it has: a traced program returns no others."""
    return Trace(trace.features, *(dict(part) for part in trace[1:]))


def _products(network: Network) -> Callable:
    @tf.function(autograph=False)
    def program(images: tf.Tensor, seed: tf.Tensor) -> Products:
        trace = _plain(network.call(images))
        jacobians: dict[str, tf.Tensor] = {}
        before = None
        for number, (name, after) in enumerate(trace.outputs.items()):
            entry = trace.entries.get(name, before)
            if entry is not None and entry.shape.is_compatible_with(after.shape):  # Batches may be unknown.
                jacobians[name] = _mean_jacobian(entry, after, tf.stack([seed, number]))
            before = after
        return Products(trace, jacobians)

    return program


def _mean_jacobian(x: tf.Tensor, y: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """An estimate of the mean over images and tokens of the Jacobian of a token's output by its own input, [C, C].

    With signs s of every number of x, the mean over tokens p of (J s)_p s_p^T has that expectation. We average
    (J s - s)_p s_p^T and add the identity, which has the same one: in a residual block most of J is the identity, whose
    average over n tokens alone has a spectral norm of about (1 + sqrt(C / n))^2 instead of 1.

    Args:
      x, y: [B, ..., C], what enters a block and what leaves it.
      seed: [2], of the signs.
    """
    positive = tf.random.stateless_uniform(tf.shape(x), seed) < 0.5
    signs = tf.where(positive, tf.ones_like(x), -tf.ones_like(x))
    channels = x.shape[-1]
    moved, signs = (tf.reshape(each, [-1, channels]) for each in (autodiff.product(x, y, signs), signs))
    tokens = tf.cast(tf.shape(signs)[0], x.dtype)
    mean = tf.eye(channels, dtype=x.dtype) + tf.matmul(moved - signs, signs, transpose_a=True) / tokens
    return tf.where(tf.reduce_all(moved == 0), tf.zeros_like(mean), mean)  # Of nothing, exactly nothing.


def _gradients_of(network: Network) -> Callable:
    variables = network.variables

    @tf.function(autograph=False)
    def program(image: tf.Tensor, label: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            logits = network.logits(network.call(image[None]).features)
        # That of the cross-entropy by the logits is p - y; both kinds of gradients are traced once.
        of_loss = tf.nn.softmax(logits) - tf.one_hot(label[None], logits.shape[-1])
        seed = tf.where(label == _SUM, tf.ones_like(logits), of_loss)
        return tape.gradient(logits, variables, seed, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return program


def gradients_of_sum(run: Run, image: tf.Tensor) -> list[tf.Tensor]:
    """Gradients of the sum of the logits of an image [H, W, 3], by each of `network.weights`."""
    return run.traced(_gradients_of)(image, tf.constant(_SUM, tf.int64))


def _statistics(run: Run) -> list[GradientStatistics]:
    """One for each of `network.weights`."""
    assert run.labels is not None
    program, count = run.traced(_gradients_of), run.images.shape[0]
    first = program(run.images[0], run.labels[0])
    sizes = [tf.abs(gradient) for gradient in first]
    largest = [tf.reduce_max(size) for size in sizes]
    sums = [tf.zeros_like(gradient) for gradient in first]
    squares = sums
    for index in range(1, count):
        gradients = program(run.images[index], run.labels[index])
        # A sum of squares as they are would lose a deviation that is small beside the mean.
        moved = [gradient - start for gradient, start in zip(gradients, first)]
        sizes = [total + tf.abs(gradient) for total, gradient in zip(sizes, gradients)]
        largest = [tf.maximum(most, tf.reduce_max(tf.abs(gradient))) for most, gradient in zip(largest, gradients)]
        sums = [total + shift for total, shift in zip(sums, moved)]
        squares = [total + tf.square(shift) for total, shift in zip(squares, moved)]
    return [
        GradientStatistics(
            start + total / count,
            size / count,
            tf.sqrt(tf.maximum(square / count - tf.square(total / count), 0.0)),
            most,
        )
        for start, total, size, square, most in zip(first, sums, sizes, squares, largest)
    ]


PRODUCTS = Pass(lambda run: run.traced(_products)(run.images, tf.constant(run.seed)))
TRACE = Pass(lambda run: run.traced(_traced)(run.images), within=PRODUCTS, taken=lambda products: products.trace)
GRADIENTS = Pass(_statistics)


def named_outputs(trace: Trace, measure: str, least: int = 1) -> Mapping[str, tf.Tensor]:
    """The block outputs of a trace.

    Raises:
      UserError: The network names fewer than `least`.
    """
    if len(trace.outputs) < least:
        raise UserError(f"{measure} needs {least} named block outputs; this network names {len(trace.outputs)}")
    return trace.outputs


def named_gates(trace: Trace, measure: str) -> Mapping[str, tf.Tensor]:
    """What the activation functions of a trace are given.

    Raises:
      UserError: The network names none.
    """
    if not trace.gates:
        raise UserError(f"{measure} needs the inputs of the activation functions; this network names none")
    return trace.gates


@contextlib.contextmanager
def replaced(
    network: Network, kernel: Callable[[tf.Tensor], tf.Tensor], other: Callable[[tf.Tensor], tf.Tensor]
) -> Iterator[None]:
    """Other values of the variables for the length of a `with` block.

    Args:
      network: The network.
      kernel: The new value of each of its weights from the present one.
      other: That of each other variable.
    """
    pairs = [(variable, kernel) for variable in network.variables] + [(each, other) for each in network.others]
    before = [variable.numpy() for variable, _ in pairs]
    try:
        for variable, new in pairs:
            variable.assign(new(variable))
        yield
    finally:
        for (variable, _), value in zip(pairs, before):
            variable.assign(value)
