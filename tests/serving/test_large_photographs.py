"""Large photographs given to detectors and segmenters: reduced as in the training records, answers in their own pixels.

The networks are not trained: what they see, and where they place what they find, does not depend on it.
"""

import io

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import CONFIGS
from helpers import TINY_DETECTOR as TINY
from official.core import exp_factory
from official.vision.ops import preprocess_ops
from PIL import Image

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.dataloaders.imagefiles.reduced import size_within, within
from asvit_tf.modeling import own_size
from asvit_tf.serving import detect, export, modules
from asvit_tf.tasks import experiment_files

ROWS, COLUMNS, SIDE = 1490, 2010, 128
PIXELS = 4 * SIDE**2
KINDS = ("retinanet", "cascadercnn", "segmentation")


def experiment(kind, stored_pixels):
    params = exp_factory.get_exp_config(f"{kind}_asvit_coco")
    source = str(CONFIGS / f"shapes_{kind}_asvit_i128_cpu.yaml")
    model = {"backbone": {"asvit": {"topology": TINY}}, "num_classes": 3}
    if kind != "segmentation":
        model["detection_generator"] = {"pre_nms_score_threshold": 0.0, "max_num_detections": 20}
    changes = {"task": {"model": model, "class_names": ["", "a", "b"], "stored_pixels": stored_pixels}}
    for content in (experiment_files.read(source), changes):
        experiment_files.override(params, content, source)
    return params


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def board(rows=ROWS, columns=COLUMNS):
    """Black and white pixels in turn; red over a third of them."""
    y, x = np.mgrid[:rows, :columns]
    pixels = np.repeat(np.uint8(255 * ((x + y) % 2))[..., None], 3, axis=-1)
    pixels[:, : columns // 3, 0] = 255
    return pixels


@pytest.fixture
def inputs(monkeypatch):
    """What serving modules make of one image; without networks, which take long to build and are not asked."""
    for module in (modules.NamedDetectionModule, modules.NamedSegmentationModule):
        monkeypatch.setattr(module, "_build_model", lambda _: tf_keras.Sequential())

    def build(kind, stored_pixels, given):
        input_type = "image_bytes" if isinstance(given, bytes) else "image_tensor"
        module = modules.serving_module(experiment(kind, stored_pixels), input_type)
        image, *_, info = module._build_inputs(tf.constant(given))
        return image.numpy(), info.numpy()

    return build


@pytest.mark.parametrize(("kind", "encode"), [(kind, png) for kind in KINDS] + [("retinanet", np.asarray)])
def test_what_the_network_sees_is_not_aliased(inputs, kind, encode):
    given = encode(board())
    image, info = inputs(kind, PIXELS, given)
    height = round(SIDE * ROWS / COLUMNS)
    np.testing.assert_allclose(info[0], [ROWS, COLUMNS])
    np.testing.assert_allclose(info[2], [height / ROWS, SIDE / COLUMNS], rtol=1e-6)
    shown = image[:height] * preprocess_ops.STDDEV_RGB + preprocess_ops.MEAN_RGB
    assert abs(shown[:, 45:] - 127.5).max() < 3
    assert abs(shown[:, :40] - [255, 127.5, 127.5]).max() < 3
    part, own = own_size.part_of(tf.constant(info))
    assert (part.numpy().tolist(), own.numpy().tolist()) == ([height, SIDE], [ROWS, COLUMNS])
    stored, _ = inputs(kind, None, within(png(board()), PIXELS))  # A record's, resized by the Model Garden.
    np.testing.assert_allclose(image, stored, atol=0.03)
    aliased, whole = inputs(kind, None, given)
    np.testing.assert_allclose(info, whole, rtol=1e-6)
    assert np.abs(image - aliased).mean() > 0.3


@pytest.mark.parametrize("size", [(128, 512), (256, 256), (3, 5)])
def test_what_is_not_larger_stays_as_it_is(inputs, size):
    for mine, plain in zip(*(inputs("segmentation", pixels, png(board(*size))) for pixels in (PIXELS, None))):
        np.testing.assert_array_equal(mine, plain)


def test_the_sizes_are_those_of_the_records():
    """To the pixel: Python computes one, TensorFlow the other."""
    draws = np.random.default_rng(0)
    cases = [(*draws.integers(1, 900, 2).tolist(), int(draws.integers(1, 60_000))) for _ in range(30)]
    # Sides that are whole but for rounding.
    cases += [(part * a, part * b, a * b) for part in (3, 7) for a, b in draws.integers(1, 150, (20, 2)).tolist()]
    for rows, columns, pixels in cases:
        found = modules._within(tf.zeros((rows, columns, 3), tf.uint8), pixels).shape[:2]
        assert tuple(found) == size_within((rows, columns), pixels)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    root = tmp_path_factory.mktemp("detector")
    params = experiment("retinanet", PIXELS)
    model = modules.serving_module(params, "image_bytes").model
    checkpoint = tf.train.Checkpoint(model=model).save(str(root / "ckpt"))
    return detect.Detector(export.export(params, str(root), str(root / "saved_model"), checkpoint=checkpoint))


def test_boxes_are_in_pixels_of_the_photograph(detector):
    """The reduced picture is given, too: the network sees the same, and its boxes are as much smaller."""
    large = board()
    small = modules._within(tf.constant(large), PIXELS).numpy()
    assert small.shape[0] * small.shape[1] <= PIXELS
    found, expected = (detector.find(png(pixels), 0.0) for pixels in (large, small))
    assert len(found) == len(expected) == 20
    factor = np.tile(np.array(large.shape[1::-1]) / small.shape[1::-1], 2)
    np.testing.assert_allclose(
        [item.box for item in found], [np.array(item.box) * factor for item in expected], rtol=1e-4, atol=0.02
    )
    assert max(item.box[2] for item in found) > small.shape[1]
    assert [item.score for item in found] == pytest.approx([item.score for item in expected])
