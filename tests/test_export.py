"""Every exported form answers as the Python model does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory

from asvit_tf import UserError, cli, data, export, train

TINY = "4,2,2|2,2,2|2,1,2|2,1,2|8,8"
SIDE = 32


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A few steps in two phases on the digits: the model directory, and encoded images."""
    root = tmp_path_factory.mktemp("trained")
    digits = data.prepare(root / "data")
    params = exp_factory.get_exp_config("asvit_digits")
    params.override(
        {
            "runtime": {"distribution_strategy": "one_device", "num_gpus": 0, "mixed_precision_dtype": "float32"},
            "task": {
                "seed": 0,
                "class_names": [f"digit {i}" for i in range(10)],
                "model": {"backbone": {"asvit": {"topology": TINY}}},
                "retokenization": {"phases": [{"until_step": 2, "stride": 16}, {"stride": 4}]},
                "train_data": {
                    "input_path": digits.train_path,
                    "global_batch_size": 16,
                    "dtype": "float32",
                    "aug_crop": False,
                },
                "validation_data": {"input_path": digits.validation_path, "global_batch_size": 16, "dtype": "float32"},
            },
            "trainer": {
                "train_steps": 4,
                "steps_per_loop": 2,
                "summary_interval": 2,
                "optimizer_config": {
                    "learning_rate": {"cosine": {"decay_steps": 4}},
                    "warmup": {"linear": {"warmup_steps": 1}},
                },
            },
        }
    )
    train.run(params, str(root / "train"), "train")
    images = [example.contents for example, _ in zip(data.digits(), range(3))]
    return root / "train", images


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Directory, parameters and Python module of one input type, exported once."""
    model_dir, _ = trained
    made = {}

    def get(input_type, tflite=None):
        if (input_type, tflite) not in made:
            directory = tmp_path_factory.mktemp("exported") / "model"
            arguments = ["export", "--model-dir", str(model_dir), "--export-dir", str(directory)]
            arguments += ["--input-type", input_type, *(["--tflite", tflite] if tflite else [])]
            assert cli.main(arguments) == 0
            made[input_type, tflite] = directory
        return made[input_type, tflite]

    return get


@pytest.fixture(scope="module")
def answers(trained):
    """What the Python model says to raw pixels [B, 32, 32, 3], weights from the checkpoint."""
    model_dir, _ = trained
    module = export.serving_module(export.read_params(str(model_dir)), "image_tensor")
    restored = tf.train.Checkpoint(model=module.model).read(tf.train.latest_checkpoint(model_dir))
    restored.assert_existing_objects_matched().expect_partial()
    return lambda pixels: module.serve_pixels(tf.cast(pixels, tf.float32))["logits"].numpy()


def decoded(images):
    return np.stack([tf.io.decode_image(image, 3).numpy() for image in images])


def example(image):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    return tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature})).SerializeToString()


@pytest.mark.parametrize("input_type", ["image_tensor", "image_bytes", "tf_example"])
def test_every_signature_answers_batches_of_any_size(trained, exported, answers, input_type):
    _, images = trained
    inputs = {"image_tensor": decoded(images), "image_bytes": images, "tf_example": [example(i) for i in images]}
    serve = tf.saved_model.load(str(exported(input_type))).signatures["serving_default"]
    expected = answers(decoded(images))
    for count in (1, 3):
        answer = serve(inputs=tf.constant(inputs[input_type][:count]))
        np.testing.assert_allclose(answer["logits"], expected[:count], atol=1e-5)
        labels = [f"digit {i}".encode() for i in expected[:count].argmax(1)]
        assert answer["label"].numpy().tolist() == labels


@pytest.mark.parametrize(("tflite", "tolerance"), [("fp32", 1e-3), ("fp16", 1e-2), ("int8", 0.2)])
def test_tflite(trained, exported, answers, tflite, tolerance):
    """Tolerances are shares of the largest logit."""
    _, images = trained
    pixels = decoded(images).astype(np.float32)
    interpreter = tf.lite.Interpreter(str(exported("image_bytes", tflite) / export.TFLITE_FILE))
    runner = interpreter.get_signature_runner()
    for count in (1, 3):
        answer = runner(inputs=pixels[:count])
        expected = answers(pixels[:count])
        np.testing.assert_allclose(answer["logits"], expected, atol=tolerance * np.abs(expected).max())
        np.testing.assert_allclose(answer["probs"].sum(1), 1, atol=1e-2)


def test_sizes_of_tflite_models(exported):
    sizes = {name: (exported("image_bytes", name) / export.TFLITE_FILE).stat().st_size for name in export.TFLITE_TYPES}
    assert sizes["int8"] < sizes["fp32"]
    assert sizes["fp16"] < sizes["fp32"]


KERAS_3 = """
import json, sys
import keras, numpy as np
assert keras.__version__.startswith("3.")
layer = keras.layers.TFSMLayer(sys.argv[1], call_endpoint="serving_default")
model = keras.Sequential([keras.Input((32, 32, 3), dtype="uint8"), layer])
print(json.dumps(np.asarray(model.predict(np.load(sys.argv[2]), verbose=0)["logits"]).tolist()))
"""


def test_keras_3_reads_the_saved_model(trained, exported, answers, tmp_path):
    """In a process of its own, which knows nothing of this package."""
    pixels = decoded(trained[1])
    np.save(tmp_path / "pixels.npy", pixels)
    arguments = [sys.executable, "-c", KERAS_3, str(exported("image_tensor")), str(tmp_path / "pixels.npy")]
    finished = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    np.testing.assert_allclose(json.loads(finished.stdout.splitlines()[-1]), answers(pixels), atol=1e-5)


def test_int8_without_its_data_is_refused_before_anything_is_written(trained, tmp_path):
    params = export.read_params(str(trained[0]))
    params.task.train_data.input_path = "gone-*"
    with pytest.raises(UserError, match="does not match any files"):
        export.export(params, str(trained[0]), str(tmp_path / "model"), tflite_type="int8")
    assert not list(Path(tmp_path).iterdir())
