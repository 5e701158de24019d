"""Random numbers of a training step as functions of (seed, step), so that a resumed training draws what an unbroken
one does.

TensorFlow's own random operations continue a stream that lives in the process and ends with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator

import tensorflow as tf
import tf_keras

_SEEDS = 2**31 - 2


def derived_seed(*numbers: int) -> int:
    """A seed from 1 to 2**31 - 2 for each tuple of whole numbers; similar tuples have unrelated ones."""
    digest = hashlib.sha256(repr(tuple(map(int, numbers))).encode()).digest()
    return int.from_bytes(digest[:8], "big") % _SEEDS + 1


class Draws:
    """The random numbers of one training step.

    Args:
      seed: Of the training.
      step: Steps trained before this one, a scalar variable; read when a draw is made.
    """

    def __init__(self, seed: int, step: tf.Variable):
        self._seed = seed
        self._step = step
        self._numbers = itertools.count()

    def next_seed(self) -> tf.Tensor:
        """Seed [2], int32, of a stateless draw; each call of a step gets another one, and each replica."""
        step = tf.cast(self._step, tf.int32)
        seed = tf.stack([tf.constant(derived_seed(self._seed, next(self._numbers)), tf.int32), step])
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return seed
        return tf.random.experimental.stateless_fold_in(seed, tf.cast(context.replica_id_in_sync_group, tf.int32))


# Not of one thread: a strategy with mirrored variables traces each replica in a thread of its own, one after another.
_current: Draws | None = None


@contextlib.contextmanager
def of_step(seed: int, step: tf.Variable) -> Iterator[None]:
    """Has what is traced inside draw by (seed, step); arguments as of `Draws`."""
    global _current
    before, _current = _current, Draws(seed, step)
    try:
        yield
    finally:
        _current = before


class StochasticDepth(tf_keras.layers.Dropout):
    """Skips a branch in training for each image with probability `rate`, and divides what is kept by `1 - rate`.

    Inside `of_step` the draws are functions of (seed, step); elsewhere, as in Keras's `fit`, they are Keras's.

    Input and output: [B, H, W, C].
    """

    def __init__(self, rate: float, seed: int | None = None, name: str | None = None):
        super().__init__(rate, noise_shape=(None, 1, 1, 1), seed=seed, name=name)

    def factors(self, x: tf.Tensor) -> tf.Tensor:
        """What training multiplies a branch by: 0 or `1 / (1 - rate)` for each image [B, 1, 1, 1]."""
        return self(tf.ones([tf.shape(x)[0], 1, 1, 1], x.dtype), training=True)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if _current is None or training is not True:
            return super().call(inputs, training=training)
        if not self.rate:
            return inputs
        noise_shape = (tf.shape(inputs)[0], 1, 1, 1)
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, _current.next_seed(), noise_shape=noise_shape)
