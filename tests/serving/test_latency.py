"""Size and latency of models whose answers are known."""

import os
import time

import numpy as np
import pytest
import tensorflow as tf

from asvit_tf import UserError
from asvit_tf.serving import latency

SIDE, SLEEP = 4, 0.02


class Brightness(tf.Module):
    """How bright an image is, and how dark; each call sleeps."""

    def __init__(self, batch=None):
        super().__init__()
        self.scale = tf.Variable(1 / 255)
        self._batch = batch

    def pixels(self, inputs):
        # A reshape to a fixed number of images is what some networks hold, so that TFLite has no other batch.
        flat = tf.reshape(inputs, (self._batch or -1, SIDE * SIDE * 3))
        bright = self.scale * tf.reduce_mean(flat, 1)
        return {"probs": tf.stack([bright, 1 - bright], 1)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="inputs")])
    def encoded(self, inputs):
        decode = lambda image: tf.cast(tf.ensure_shape(tf.io.decode_png(image), (SIDE, SIDE, 3)), tf.float32)  # noqa: E731
        images = tf.map_fn(decode, inputs, fn_output_signature=tf.TensorSpec((SIDE, SIDE, 3), tf.float32))
        return self.pixels(images)


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (32, SIDE, SIDE, 3))
    return [tf.io.encode_png(image.astype(np.uint8)).numpy() for image in pixels], pixels.astype(np.float32)


def exported(directory, batch=None):
    """A SavedModel and a TFLite model; the latter for one batch only, if that is given."""
    module = Brightness()
    tf.saved_model.save(module, str(directory / "saved_model"), signatures=module.encoded)
    module = Brightness(batch)
    function = tf.function(module.pixels).get_concrete_function(
        tf.TensorSpec((batch, SIDE, SIDE, 3), tf.float32, name="inputs")
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    (directory / "model.tflite").write_bytes(converter.convert())
    return str(directory / "saved_model"), str(directory / "model.tflite")


def test_sizes_answers_and_cores(tmp_path, images):
    saved_model, tflite = exported(tmp_path)
    found = latency.measure(saved_model, tflite, *images)
    sizes = [os.path.getsize(os.path.join(folder, f)) for folder, _, files in os.walk(saved_model) for f in files]
    assert found["saved_model"]["bytes"] == sum(sizes) > 0
    assert found["tflite"]["bytes"] == os.path.getsize(tflite)
    assert found["cores"] == len(os.sched_getaffinity(0))
    for model in (found["saved_model"], found["tflite"]):
        assert list(model["seconds"]) == ["1", "32"]
        assert all(0 < seconds < 1 for seconds in model["seconds"].values())
    assert found["tflite"]["largest_difference"] < 1e-6
    assert found["tflite"]["problem"] is None


def test_other_answers_of_tflite_are_seen(tmp_path, images):
    """Brighter by 51 of 255, the probabilities differ by 0.2."""
    encoded, pixels = images
    found = latency.measure(*exported(tmp_path), encoded, pixels + 51)
    assert found["tflite"]["largest_difference"] == pytest.approx(0.2, abs=1e-5)


def test_a_batch_that_tflite_cannot_answer_is_said(tmp_path, images):
    found = latency.measure(*exported(tmp_path, batch=1), *images)["tflite"]
    assert found["seconds"]["1"] > 0
    assert found["seconds"]["32"] is None
    assert found["problem"].startswith("32 images in a call: ")
    assert "\n" not in found["problem"]


def test_without_tflite_the_saved_model_is_measured_all_the_same(tmp_path, images):
    saved_model, _ = exported(tmp_path)
    found = latency.measure(saved_model, None, *images)
    assert found["tflite"] is None
    assert found["saved_model"]["seconds"]["32"] > 0
    with pytest.raises(UserError, match="is not a SavedModel"):
        latency.measure(str(tmp_path), None, *images)


def test_the_median_leaves_out_the_warm_up_and_outliers():
    calls = []

    def call():
        calls.append(len(calls))
        time.sleep({0: 0.3, 1: 0.3, 4: 0.3}.get(calls[-1], SLEEP))

    assert SLEEP <= latency.median_seconds(call) < 2 * SLEEP
    assert len(calls) == 32  # Two of warm-up, thirty that fit into three seconds.


def test_slow_calls_are_fewer(monkeypatch):
    clock = iter(np.arange(0, 100, 0.5) * 2.0)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    calls = []
    assert latency.median_seconds(lambda: calls.append(0)) == 1.0
    assert len(calls) == 7
