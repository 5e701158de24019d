"""Every exported form answers as the Python model does."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import digits_experiment
from official.core import task_factory
from official.vision.dataloaders import classification_input
from tensorflow.core.protobuf import saved_model_pb2

from asvit_tf import Tokenization, UserError, choices, cli
from asvit_tf.dataloaders import classification as data
from asvit_tf.dataloaders.imagefiles.reduced import reduced
from asvit_tf.modeling import layers
from asvit_tf.serving import export, modules
from asvit_tf.training import run as train
from asvit_tf.training.saving.best import BestKeeper

TINY = "4,2,2|2,2,2|2,1,2|2,1,2|8,16"
SIDE, STEPS = 28, 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two phases on the digits, cropped, the last at stride 8; weights ten times as large as usual.

    So few steps teach nothing, and with the usual weights all images would get much the same answer.
    """
    root = tmp_path_factory.mktemp("trained")
    digits = data.prepare(root / "data")
    task = {
        "class_names": [f"digit {i}" for i in range(10)],
        "model": {
            "input_size": [SIDE, SIDE, 3],
            "backbone": {"asvit": {"topology": TINY, "stride": 8, "dilation": 2}},
        },
        "losses": {"one_hot": True},
        "retokenization": {"phases": [{"until_step": 3, "stride": 16}, {"stride": 8}]},
        "validation_data": {"global_batch_size": 16},
    }
    trainer = {"validation_steps": -1, "optimizer_config": {"warmup": {"linear": {"warmup_steps": 1}}}}
    params = digits_experiment(digits, STEPS, 2, {"task": task, "trainer": trainer})
    with pytest.MonkeyPatch.context() as patch:
        wide = functools.partial(tf_keras.initializers.TruncatedNormal, 0.0, 0.2)
        patch.setattr(layers, "linear_initializer", lambda seed, initialization=None: wide(seed=seed))
        metrics = train.run(params, str(root / "train"), "train_and_post_eval")
    images = [example.contents for example, _ in zip(data.digits(), range(3))]
    return root / "train", images, metrics["accuracy"], digits.validation_path


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Directory, parameters and Python module of one input type, exported once."""
    model_dir = trained[0]
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


def restored(model_dir, checkpoint):
    """The Python model with the weights of a checkpoint, at the final tokens."""
    model = task_factory.get_task(export.read_params(str(model_dir)).task).build_model()
    read = tf.train.Checkpoint(model=model).read(str(checkpoint))
    read.assert_existing_objects_matched().expect_partial()
    return model


@pytest.fixture(scope="module")
def answers(trained):
    """What the model says to encoded images, read as the evaluation reads them; and these images, 0 to 255."""
    model_dir = trained[0]
    model = restored(model_dir, tf.train.latest_checkpoint(model_dir))
    assert model.backbone.tokenization == Tokenization(8, 2)
    parse = classification_input.Parser([SIDE, SIDE], 10, decode_jpeg_only=False).parse_fn(is_training=False)

    def logits(images):
        parsed = tf.stack([parse({"image/encoded": image, "image/class/label": 0})[0] for image in images])
        return model(parsed, training=False).numpy(), (parsed * DEVIATION + MEAN).numpy()

    return logits


MEAN, DEVIATION = (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)


def decoded(images):
    return np.stack([tf.io.decode_image(image, 3).numpy() for image in images])


def resized(image, height, width):
    pixels = tf.image.resize(tf.io.decode_image(image, 3), (height, width))
    return tf.io.encode_png(tf.cast(pixels, tf.uint8)).numpy()


def example(image):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    return tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature})).SerializeToString()


@pytest.mark.parametrize("input_type", ["image_tensor", "image_bytes", "tf_example"])
def test_every_signature_answers_batches_of_any_size(trained, exported, answers, input_type):
    images = trained[1]
    if input_type != "image_tensor":  # Which has one size for a batch.
        images = [images[0], resized(images[1], 44, 37), resized(images[2], 20, 61)]
    inputs = {"image_bytes": images, "tf_example": [example(image) for image in images]}
    inputs["image_tensor"] = decoded(images) if input_type == "image_tensor" else None
    serve = tf.saved_model.load(str(exported(input_type))).signatures["serving_default"]
    expected, _ = answers(images)
    assert np.ptp(expected, axis=0).max() > 0.1  # Images are told apart.
    for count in (1, 3):
        answer = serve(inputs=tf.constant(inputs[input_type][:count]))
        np.testing.assert_allclose(answer["logits"], expected[:count], atol=1e-5)
        labels = [f"digit {i}".encode() for i in expected[:count].argmax(1)]
        assert answer["label"].numpy().tolist() == labels
        assert answer["class_names"].numpy().tolist() == [[f"digit {i}".encode() for i in range(10)]] * count
        # TensorFlow Serving wants a row for each image, in its row format and where it batches requests.
        assert {len(value) for value in answer.values()} == {count}
    assert (exported(input_type) / "labels.txt").read_text() == "".join(f"digit {i}\n" for i in range(10))


@pytest.mark.parametrize("input_type", ["image_tensor", "image_bytes", "tf_example"])
def test_no_image_becomes_real_numbers_before_it_is_resized(exported, input_type):
    """One of 48 megapixels would take 576 MB."""
    saved = saved_model_pb2.SavedModel.FromString((exported(input_type) / "saved_model.pb").read_bytes())
    nodes = [node for function in saved.meta_graphs[0].graph_def.library.function for node in function.node_def]
    assert not [node for node in nodes if node.op == "Cast" and node.attr["SrcT"].type == tf.uint8.as_datatype_enum]
    assert {node.attr["T"].type for node in nodes if node.op == "ResizeBilinear"} == {tf.uint8.as_datatype_enum}


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "nearest", "area", "lanczos3", "mitchellcubic"])
@pytest.mark.parametrize("size", [(90, 131), (19, 23)])
def test_whole_numbers_are_resized_to_the_bits_of_real_ones(trained, method, size):
    params = export.read_params(str(trained[0]))
    params.task.validation_data.tf_resize_method = method
    module = modules.serving_module(params, "image_bytes")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    whole, real = (module._crop_and_resize(tf.constant(image, dtype)) for dtype in (tf.uint8, tf.float32))
    assert whole.dtype == tf.float32
    np.testing.assert_array_equal(whole, real)


def test_the_step_is_said_where_the_best_lies_beside(trained, tmp_path):
    params, train = export.read_params(str(trained[0])), str(tmp_path / "train")
    checkpoint = tf.train.Checkpoint(n=tf.Variable(1))
    manager = tf.train.CheckpointManager(checkpoint, train, max_to_keep=None)
    manager.save(checkpoint_number=20)
    assert export.choice_in_words(params, train) is None
    keeper = BestKeeper(train)
    keeper.maybe_export_checkpoint(checkpoint, dict(accuracy=0.5, validation_loss=1.0), 20)
    assert export.choice_in_words(params, train) == "step 20, the newest and the best of all evaluations"
    manager.save(checkpoint_number=30)
    beside = f"; the best of all evaluations is that of step 20: --checkpoint {train}/best"
    assert export.choice_in_words(params, train) == "step 30, the newest" + beside
    assert export.choice_in_words(params, train, f"{train}/best") == "step 20, the best of all evaluations"
    assert export.choice_in_words(params, train, f"{train}/ckpt-30") == f"{train}/ckpt-30{beside}"


def test_a_label_is_one_line(trained):
    params = export.read_params(str(trained[0]))
    params.task.class_names = ["", "two\r\nlines", "\u732b", *"abcdefg"]
    assert modules.labels_text(params).split("\n") == ["", "two lines", "\u732b", *"abcdefg", ""]


def test_a_checkpoint_of_the_first_phase_answers_at_the_final_tokens(trained, answers, tmp_path):
    model_dir, images = trained[0], trained[1]
    arguments = ["export", "--model-dir", str(model_dir), "--export-dir", str(tmp_path / "model")]
    assert cli.main([*arguments, "--checkpoint", str(model_dir / "ckpt-2")]) == 0
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    actual = serve(inputs=tf.constant(images))["logits"].numpy()
    pixels = ((answers(images)[1] - MEAN) / DEVIATION).astype(np.float32)
    model = restored(model_dir, model_dir / "ckpt-2")
    np.testing.assert_allclose(actual, model(pixels, training=False), atol=1e-4)
    model.backbone.set_tokenization(Tokenization.auto(16, 4))  # That of the phase, which gives another answer.
    assert np.abs(actual - model(pixels, training=False)).max() > 0.1


@pytest.mark.parametrize(("tflite", "tolerance"), [("fp32", 1e-3), ("fp16", 1e-2), ("int8", 0.12)])
def test_tflite(trained, exported, answers, tflite, tolerance):
    """Tolerances of the root mean square, in shares of how far logits differ between images."""
    expected, pixels = answers(trained[1])
    spread = np.ptp(expected, axis=0).max()
    interpreter = tf.lite.Interpreter(str(exported("image_bytes", tflite) / export.TFLITE_FILE))
    runner = interpreter.get_signature_runner()
    for count in (1, 3):
        answer = runner(inputs=pixels[:count])
        assert np.sqrt(np.mean((answer["logits"] - expected[:count]) ** 2)) < tolerance * spread
        # In int8, each of the ten is a multiple of 1/256, off by half of it at most.
        np.testing.assert_allclose(answer["probs"].sum(1), 1, atol=10 / 512 if tflite == "int8" else 1e-2)


def test_sizes_of_tflite_models(exported):
    sizes = {name: (exported("image_bytes", name) / export.TFLITE_FILE).stat().st_size for name in choices.TFLITE_TYPES}
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
    np.testing.assert_allclose(json.loads(finished.stdout.splitlines()[-1]), answers(trained[1])[0], atol=1e-5)


def test_the_exported_model_is_as_accurate_as_evaluation_says(trained, exported):
    """Over all held-out images, read from the very records."""
    features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    features["image/class/label"] = tf.io.FixedLenFeature([], tf.int64)
    records = tf.data.TFRecordDataset(trained[3]).map(lambda record: tf.io.parse_single_example(record, features))
    images, labels = zip(*((row["image/encoded"].numpy(), int(row["image/class/label"])) for row in records))
    serve = tf.saved_model.load(str(exported("image_bytes"))).signatures["serving_default"]
    right = serve(inputs=tf.constant(images))["probs"].numpy().argmax(1) == labels
    assert right.mean() == pytest.approx(trained[2], abs=1e-6)
    assert len(set(serve(inputs=tf.constant(images))["label"].numpy())) > 1


def test_int8_without_its_data_is_refused_before_anything_is_written(trained, tmp_path):
    params = export.read_params(str(trained[0]))
    params.task.train_data.input_path = "gone-*"
    with pytest.raises(UserError, match="does not match any files"):
        export.export(params, str(trained[0]), str(tmp_path / "model"), tflite_type="int8")
    assert not list(Path(tmp_path).iterdir())


def test_an_export_of_what_is_no_checkpoint_leaves_nothing(trained, tmp_path, capsys):
    for place in ("nowhere", str(tmp_path)):
        arguments = ["export", "--model-dir", str(trained[0]), "--export-dir", str(tmp_path / "model")]
        assert cli.main([*arguments, "--checkpoint", place]) == 2
        assert f"no checkpoint {'at' if place == 'nowhere' else 'in'} {place}" in capsys.readouterr().err
    assert not list(Path(tmp_path).iterdir())


def test_a_saved_model_reduces_what_was_reduced_in_the_records(trained):
    rows, columns = np.mgrid[:640, :500]
    pixels = np.uint8(128 + 100 * np.sin(np.stack([rows + columns, 2.1 * rows, 1.9 * columns], axis=-1)))
    large = tf.io.encode_png(pixels).numpy()
    params = export.read_params(str(trained[0]))
    module = modules.serving_module(params, "image_bytes")
    stored = module._decode_image(tf.constant(reduced(large, 64))).numpy()
    interpolated = module._decode_image(tf.constant(large)).numpy()
    params.task.stored_side = 64
    module = modules.serving_module(params, "image_bytes")
    np.testing.assert_allclose(module._decode_image(tf.constant(large)), stored, atol=1)
    assert np.abs(interpolated - stored).mean() > 20
    small = tf.constant(tf.io.encode_png(pixels[:63, :80]).numpy())
    own = modules.serving_module(export.read_params(str(trained[0])), "image_bytes")
    np.testing.assert_array_equal(module._decode_image(small), own._decode_image(small))
