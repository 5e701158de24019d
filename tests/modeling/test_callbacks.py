"""Training across changes of tokenization by Keras alone: `model.fit` with the callback."""

import functools

import numpy as np
import pytest
import tf_keras
from helpers import TINY

from asvit_tf import AsViT, Phase, RetokenizationCallback, Schedule, Tokenization


class KerasModel(tf_keras.Model):
    """A backbone with a head, that notes the token grid of every program traced."""

    def __init__(self):
        super().__init__()
        self.backbone = AsViT(TINY, tf_keras.layers.InputSpec(shape=[None, 32, 32, 3]), seed=0)
        self.head = tf_keras.layers.Dense(3)
        self.traced = []  # (training, token grid)
        self(tf_keras.Input((32, 32, 3)))
        self.traced.clear()

    def call(self, images, training=None):
        endpoints = self.backbone(images, training=training)
        self.traced.append((training, tuple(endpoints["2"].shape[1:3])))
        return self.head(endpoints["pre_logits"][:, 0, 0])


SCHEDULE = Schedule((Phase(3, Tokenization(16, 5)), Phase(6, Tokenization(8, 2)), Phase(None, Tokenization(4, 1))))


@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 3}], ids=["plain", "steps_per_execution"])
def test_keras_callback(options):
    generator = np.random.default_rng(0)
    images, labels = generator.standard_normal((6, 32, 32, 3)), generator.integers(3, size=6)
    model = KerasModel()
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, **options)
    callback = RetokenizationCallback(SCHEDULE)
    kernel = model.backbone.stem.kernel
    # Three steps an epoch; the fourth epoch trains a second phase-3 epoch without a new trace.
    fit = functools.partial(model.fit, images, labels, batch_size=2, verbose=0, shuffle=False)
    history = fit(epochs=4, validation_data=(images, labels), validation_batch_size=2, callbacks=[callback])
    assert np.all(np.isfinite(history.history["loss"]))
    assert model.backbone.stem.kernel is kernel
    # Keras traces a program twice when its first trace creates variables (moments, metrics), and holds the model twice
    # in a program of several steps; no program may be traced in another phase.
    assert list(dict.fromkeys(model.traced)) == [(True, (2, 2)), (False, (8, 8)), (True, (4, 4)), (True, (8, 8))]

    model.traced.clear()
    fit(epochs=1, callbacks=[RetokenizationCallback(SCHEDULE)])  # Continues at step 12: the last phase.
    model.predict(images, verbose=0, callbacks=[callback])
    assert {grid for _, grid in model.traced} == {(8, 8)}


def test_after_fit_the_model_has_all_tokens_and_resumed_epochs_find_their_step():
    generator = np.random.default_rng(0)
    images, labels = generator.standard_normal((4, 32, 32, 3)), generator.integers(3, size=4)
    model = KerasModel()
    model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callback = RetokenizationCallback(SCHEDULE)
    model.fit(images, labels, batch_size=2, verbose=0, callbacks=[callback])  # Two steps, in the first phase.
    assert {grid for _, grid in model.traced} == {(2, 2)}
    model.traced.clear()
    model.evaluate(images, labels, verbose=0)
    model.predict(images, verbose=0)
    assert {grid for _, grid in model.traced} == {(8, 8)}

    # An epoch resumed at its third batch, two steps trained before: step 2 is of the first phase, step 3 is not.
    callback.on_epoch_begin(0)
    for batch, stride in ((2, 16), (3, 8)):
        callback.on_train_batch_begin(batch)
        assert model.backbone.tokenization.stride == stride


def test_keras_switches_inside_an_epoch_under_xla():
    generator = np.random.default_rng(0)
    images, labels = generator.standard_normal((16, 32, 32, 3)), generator.integers(3, size=16)
    model = KerasModel()
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=True)
    model.fit(images, labels, batch_size=2, verbose=0, callbacks=[RetokenizationCallback(SCHEDULE)])
    assert list(dict.fromkeys(grid for _, grid in model.traced)) == [(2, 2), (4, 4), (8, 8)]
