"""From label pictures to IoU at their own size: prepared, trained for a step, evaluated, exported, asked again."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf
from helpers import CONFIGS
from helpers import TINY_DETECTOR as TINY
from PIL import Image

from asvit_tf import UserError, cli
from asvit_tf.dataloaders.masks import IGNORED
from asvit_tf.serving import export, segmentation_held_out
from asvit_tf.serving.segmentation_held_out import Confusion
from asvit_tf.training import run as train

SIZES = ((90, 150), (140, 70), (64, 64))  # The network sees 128 x 128.
NAMES = ("left", "right", "ring", "never")


def truth_of(number):
    rows, columns = SIZES[number]
    classes = np.zeros((rows, columns), np.uint8)
    classes[:, columns // 2 :] = 1
    classes[rows // 4 : rows // 2, 5:20] = 2
    classes[-4:] = IGNORED
    return classes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Label pictures; records; a training of one step with its evaluation; a SavedModel."""
    root = tmp_path_factory.mktemp("held_out")
    for split in ("train", "val", "test"):
        for number, size in enumerate(SIZES):
            pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), np.uint8)
            for folder, its in (("images", pixels), ("masks", truth_of(number))):
                path = root / folder / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(its).save(path)
    (root / "classes.txt").write_text("\n".join(NAMES))
    prepare = ["prepare-segmentation", *(str(root / folder) for folder in ("images", "masks"))]
    assert cli.main([*prepare, "--output", str(root / "records"), "--classes", str(root / "classes.txt")]) == 0
    return root


@pytest.fixture(scope="module")
def trained(root):
    changes = {
        "task.model.backbone.asvit.topology": f"'{TINY}'",
        "task.model.head.num_convs": 1,
        "task.train_data.global_batch_size": 3,
        "task.validation_data.global_batch_size": 2,
        **{f"trainer.{name}": 1 for name in ("train_steps", "steps_per_loop", "summary_interval")},
        **{f"trainer.{name}": 1 for name in ("checkpoint_interval", "validation_interval")},
        "trainer.optimizer_config.warmup.linear.warmup_steps": 0,
    }
    metrics = train.start(
        experiment="segmentation_asvit_coco",
        mode="train_and_eval",
        model_dir=str(root / "train"),
        config_file=[str(CONFIGS / "shapes_segmentation_asvit_i128_cpu.yaml"), str(root / "records/semantic.yaml")],
        params_override=[",".join(f"{name}={value}" for name, value in changes.items())],
    )
    assert cli.main(["export", "--model-dir", str(root / "train"), "--export-dir", str(root / "saved_model")]) == 0
    return metrics


@pytest.fixture(scope="module")
def expected(root, trained):
    """[4, 4], pixel by pixel from the logits of the SavedModel."""
    serve = tf.saved_model.load(str(root / "saved_model")).signatures["serving_default"]
    counts = np.zeros((4, 4), int)
    for number, (rows, columns) in enumerate(SIZES):
        encoded = (root / f"images/val/{number}.png").read_bytes()
        logits = serve(inputs=tf.constant([encoded]))["logits"][0]
        scale = min(128 / rows, 128 / columns)
        inside = logits[: round(rows * scale), : round(columns * scale)]
        answered = tf.image.resize(inside, (rows, columns)).numpy().argmax(-1)
        for there, said in zip(truth_of(number).ravel(), answered.ravel()):
            if there != IGNORED:
                counts[there, said] += 1
    return counts


def test_held_out_images_are_answered_at_their_own_size(root, trained, expected):
    params = export.read_params(str(root / "train"))
    records = str(root / "records/test.tfrecord")  # The same pictures.
    for weights in (tf.train.latest_checkpoint(str(root / "train")), str(root / "saved_model")):
        found = segmentation_held_out.iou(params, records, weights)
        assert (found.class_names, found.images) == (NAMES, 3)
        assert found.pixels.sum() == expected.sum()
        assert np.abs(found.pixels - expected).sum() <= 20  # Of nearly equal logits rounding chooses.
        counted = [int((truth != IGNORED).sum()) for _, truth in segmentation_held_out.rows(records)]
        mistaken = np.dot(found.wrong, counted)  # By image; together all that are wrong.
        assert mistaken == pytest.approx(found.pixels.sum() - np.trace(found.pixels))


def test_the_evaluation_of_the_training_is_the_same(trained, expected):
    union = expected.sum(0) + expected.sum(1) - np.diag(expected)
    ious = {i: expected[i, i] / union[i] for i in range(4) if union[i]}
    assert {name for name in trained if name.startswith("iou/")} == {f"iou/{i}" for i in ious}
    for i, value in ious.items():
        assert trained[f"iou/{i}"] == pytest.approx(value, abs=2e-3)
    assert 0.1 < trained["validation_loss"] < 10
    assert trained["mean_iou"] == pytest.approx(np.mean(list(ious.values())), abs=2e-3)


def test_the_command_segments_a_picture_with_it(root, trained, capsys):
    picture, mask = root / "images/val/0.png", root / "mask.png"
    arguments = ["segment", str(root / "saved_model"), str(picture), "--output", str(root / "drawn.png")]
    assert cli.main([*arguments, "--mask", str(mask), "--json"]) == 0
    shares = {row["label"]: row["share"] for row in json.loads(capsys.readouterr().out)["classes"]}
    with Image.open(mask) as image:
        assert image.size == SIZES[0][::-1]
        numbers = np.asarray(image)
    assert shares == {
        name: pytest.approx((numbers == i).mean()) for i, name in enumerate(NAMES) if (numbers == i).any()
    }


def test_what_was_not_trained_for_is_refused(root, trained, tmp_path):
    params = export.read_params(str(root / "train"))
    records, saved_model = str(root / "records/test.tfrecord"), str(root / "saved_model")
    params.task.class_names = ["a", "b", "c", "d"]
    with pytest.raises(UserError, match="answers other classes than the experiment has"):
        segmentation_held_out.iou(params, records, saved_model)
    params.task.class_names, params.task.losses.ignore_label = list(NAMES), 254
    with pytest.raises(UserError, match="holds the class 255; the network has 4"):
        segmentation_held_out.iou(params, records, saved_model)
    with tf.io.TFRecordWriter(str(tmp_path / "empty.tfrecord")) as writer:
        writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(UserError, match="holds no class for every pixel"):
        segmentation_held_out.iou(params, str(tmp_path / "empty.tfrecord"), saved_model)
    with pytest.raises(UserError, match=r"validation_data.input_path: .*gone"):
        segmentation_held_out.iou(params, str(tmp_path / "gone.tfrecord"), saved_model)


def test_absent_classes_are_no_part_of_the_mean():
    pixels = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0]])
    found = Confusion(pixels, NAMES, 1)
    np.testing.assert_allclose(found.iou, [6 / 9, 3 / 10, 0, np.nan])
    assert found.mean_iou == pytest.approx((6 / 9 + 3 / 10) / 3)
    assert found.accuracy == 9 / 16
    nothing = Confusion(np.zeros((4, 4), int), NAMES, 0)
    assert math.isnan(nothing.mean_iou)
    assert math.isnan(nothing.accuracy)
