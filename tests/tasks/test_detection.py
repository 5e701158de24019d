"""Both detectors, end to end and tiny: a step trained, a batch evaluated, exported, loaded elsewhere, and drawn."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import CONFIGS
from helpers import TINY_DETECTOR as TINY
from PIL import Image

from asvit_tf import (
    AsViT,
    Topology,
    UserError,
    cli,
    registry_imports,  # noqa: F401
)
from asvit_tf.dataloaders import coco, shapes
from asvit_tf.modeling import checkpoints
from asvit_tf.serving import export, modules
from asvit_tf.training import run as train
from asvit_tf.training import step_log
from asvit_tf.training.trainer import create_slots

DETECTORS = ("retinanet", "cascadercnn")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A few synthetic scenes as TFRecords; one has no boxes, one object is a crowd."""
    root = tmp_path_factory.mktemp("records")
    shapes.write(root / "scenes", train=4, validation=4)
    for split in ("train", "validation"):
        path = root / "scenes" / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 2]
        content["annotations"][0]["iscrowd"] = 1
        path.write_text(json.dumps(content))
    return coco.prepare(root / "data", root / "scenes")


class Classifier(tf_keras.Model):
    """A model with a backbone; a classifier's has a final norm and a tanh layer, a detector's neither."""

    def __init__(self, side, window="fixed", representation=True, pre_logits=True):
        super().__init__()
        input_specs = tf_keras.layers.InputSpec(shape=[None, side, side, 3])
        width = Topology.parse(TINY).widths[-1] if representation else None
        self.backbone = AsViT(TINY, input_specs, window=window, representation_size=width, pre_logits=pre_logits)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A classifier's checkpoint at 224 x 224 as the trainer writes it, and the classifier."""
    model = Classifier(224)
    path = str(tmp_path_factory.mktemp("classifier") / "ckpt")
    return tf.train.Checkpoint(model=model, global_step=tf.Variable(1)).save(path), model


def start(detector, records, model_dir, mode="train_and_eval", **overrides):
    changes = {
        "task.seed": 0,
        "task.model.backbone.asvit.topology": f"'{TINY}'",
        "task.train_data.global_batch_size": 4,
        "task.validation_data.global_batch_size": 3,  # The last of the four is a batch of its own.
        "task.model.detection_generator.pre_nms_score_threshold": 0.001,  # One step makes nothing sure.
        "trainer.train_steps": 1,
        "trainer.steps_per_loop": 1,
        "trainer.summary_interval": 1,
        "trainer.checkpoint_interval": 1,
        "trainer.validation_interval": 1,
        "trainer.optimizer_config.warmup.linear.warmup_steps": 0,
        **overrides,
    }
    return train.start(
        experiment=f"{detector}_asvit_coco",
        mode=mode,
        model_dir=str(model_dir),
        config_file=[f"{CONFIGS}/shapes_{detector}_asvit_i128_cpu.yaml", str(records.config_file)],
        params_override=[",".join(f"{name}={value}" for name, value in changes.items())],
    )


class Trained:
    """One step of a detector from the classifier's checkpoint, its evaluation, and the SavedModel of it."""

    def __init__(self, detector, records, checkpoint, root):
        self.detector, self.records, self.model_dir = detector, records, root / "train"
        self.metrics = start(detector, records, self.model_dir, **{"task.init_checkpoint": checkpoint})
        self.saved_model = root / "saved_model"
        arguments = ["export", "--model-dir", str(self.model_dir), "--export-dir", str(self.saved_model)]
        assert cli.main(arguments) == 0


@pytest.fixture(scope="module", params=DETECTORS)
def trained(request, records, checkpoint, tmp_path_factory):
    return Trained(request.param, records, checkpoint[0], tmp_path_factory.mktemp(request.param))


def test_a_step_trains_and_coco_evaluates(trained):
    metrics = trained.metrics
    names = {"AP", "AP50", "AP75"} | ({"mask_AP", "mask_AP50"} if trained.detector == "cascadercnn" else set())
    assert names <= set(metrics)
    assert all(0 <= metrics[name] <= 1 for name in names)
    assert np.isfinite(list(metrics.values())).all()
    # The Model Garden computes no loss of Mask R-CNN in an evaluation, and calls it 0.
    assert metrics.get("validation_loss", math.inf) > 0
    assert ("validation_loss" in metrics) == (trained.detector == "retinanet")
    (block,) = (json.loads(line) for line in (trained.model_dir / "blocks.jsonl").read_text().splitlines() if line)
    assert block["steps"] == 1
    assert np.isfinite(block["training_loss"])
    assert block["training_loss"] > 0
    assert not (trained.model_dir / "retokenization.json").exists()  # There is no such schedule here.


PREDICT = """
import json, sys
import numpy as np, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answer = serve(inputs=tf.constant([open(path, "rb").read() for path in sys.argv[2:]]))
names = [[name.decode() for name in row] for row in answer.pop("class_names").numpy()]
print(json.dumps({"class_names": names, **{name: value.numpy().tolist() for name, value in answer.items()}}))
"""


@pytest.fixture
def photos(tmp_path):
    """Images of two sizes, neither the network's."""
    paths = []
    for seed, (side, width) in enumerate(((100, 160), (150, 150))):
        scene = shapes.draw(np.random.default_rng(seed), max(side, width), 5, (20, 50))
        paths.append(str(tmp_path / f"photo_{seed}.png"))
        Image.fromarray(scene.image[:side, :width]).save(paths[-1])
    return paths


def test_the_saved_model_answers_elsewhere_what_python_answers_here(trained, photos, tmp_path):
    """In a process that knows nothing of this package; images of different sizes in one batch."""
    command = [sys.executable, "-c", PREDICT, str(trained.saved_model), *photos]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    answer = {name: np.array(value) for name, value in json.loads(finished.stdout.splitlines()[-1]).items()}
    module = modules.serving_module(export.read_params(str(trained.model_dir)), "image_bytes")
    newest = tf.train.latest_checkpoint(str(trained.model_dir))
    tf.train.Checkpoint(model=module.model).restore(newest).expect_partial().assert_existing_objects_matched()
    expected = module.serve(tf.constant([Path(path).read_bytes() for path in photos]))
    assert {len(value) for value in answer.values()} == {2}  # TensorFlow Serving wants a row for each image.
    assert answer.pop("class_names").tolist() == [["", "circle", "square", "triangle"]] * 2
    assert answer["image_info"][:, 0].tolist() == [[100, 160], [150, 150]]
    for name in sorted(set(answer) - {"detection_masks"}):
        np.testing.assert_allclose(answer[name], expected[name], rtol=1e-3, atol=1e-3)
    assert answer["num_detections"].min() > 0
    assert answer["detection_classes"][:, 0].min() >= 1
    if trained.detector == "cascadercnn":
        np.testing.assert_allclose(answer["detection_masks"], expected["detection_masks"], atol=1e-3)


def test_objects_are_found_and_drawn_in_a_fresh_process(trained, photos, tmp_path):
    output = tmp_path / "drawn.png"
    command = [sys.executable, "-m", "asvit_tf.cli", "detect", str(trained.saved_model), photos[0]]
    command += ["--output", str(output), "--min-score", "0", "--json"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)["detections"]
    assert found
    scores = [item["score"] for item in found]
    assert scores == sorted(scores, reverse=True)
    for item in found:
        left, top, right, bottom = item["box"]
        assert 0 <= left <= right <= 160
        assert 0 <= top <= bottom <= 100
        assert item["label"] == shapes.CLASSES[item["category"] - 1]
    before, after = (np.asarray(Image.open(path).convert("RGB"), int) for path in (photos[0], output))
    assert before.shape == after.shape
    assert (before != after).any()


def test_what_is_no_detector_or_no_image_is_refused(trained, photos, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no image")
    good = str(tmp_path / "out.png")
    for model, image, output, message in (
        ("nowhere", photos[0], good, "nowhere is not a SavedModel"),
        (trained.saved_model, tmp_path / "text.png", good, "text.png: not an image that Pillow reads"),
        (trained.saved_model, tmp_path / "gone.png", good, "gone.png: cannot be read (No such file"),
        (trained.saved_model, photos[0], str(tmp_path / "out.txt"), "allowed are files that end in .png, .jpg, .jpeg"),
        (trained.saved_model, photos[0], str(tmp_path / "none/out.png"), "there is no directory"),
    ):
        assert cli.main(["detect", str(model), str(image), "--output", output]) == 2
        assert message in capsys.readouterr().err
    arguments = ["export", "--model-dir", str(trained.model_dir), "--export-dir", str(tmp_path / "model")]
    assert cli.main([*arguments, "--tflite", "fp32"]) == 2
    assert "TFLite is for classifiers" in capsys.readouterr().err
    assert cli.main(["predict", str(trained.saved_model), photos[0]]) == 2
    assert "does not classify encoded images" in capsys.readouterr().err
    assert not Path(good).exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"task.annotation_file": "''"}, "annotation_file is not set"),
        ({"task.annotation_file": "gone.json"}, "gone.json does not exist"),
        ({"task.model.input_size": "[800,1333,3]"}, "800 x 1333.*multiples of 32, such as 800 x 1344"),
        ({"task.model.input_size": "[130,128,3]"}, "multiples of 32, such as 160 x 128"),
        ({"task.model.num_classes": 3, "task.class_names": "[]"}, "categories from 1 to 3; allowed .* are 1 to 2"),
        ({"task.model.num_classes": 5}, "the task has 5 classes but 4 class_names"),
        ({"task.train_data.input_path": "gone"}, "train_data.input_path"),
        ({"task.train_data.input_path": "''"}, "train_data has no TFRecords"),
        ({"task.validation_data.drop_remainder": "true"}, "drop_remainder is true"),
        ({"task.init_checkpoint": "gone"}, "no checkpoint at gone"),
        ({"trainer.best_checkpoint_export_subdir": "best", "trainer.best_checkpoint_eval_metric": "accuracy"}, "AP50"),
    ],
)
def test_bad_settings_have_one_line(records, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message) as refusal:
        start("retinanet", records, tmp_path, **overrides)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_backbone_of_the_model_garden_trains_in_the_same_detector(records, tmp_path):
    """What it is compared with: the same trainer, which has no tokenization to set."""
    fields = {"task.model.backbone.type": "mobilenet", "task.model.backbone.mobilenet.model_id": "MobileNetV3Small"}
    metrics = start("retinanet", records, tmp_path, **fields)
    assert 0 <= metrics["AP50"] <= 1
    (block,) = step_log.read_blocks(tmp_path)
    assert (block["steps"], block["stride"]) == (1, 1)
    assert np.isfinite(block["training_loss"])


def test_records_without_masks_do_not_train_masks(records, tmp_path):
    scenes = Path(records.directory).parent / "scenes"
    boxes = coco.prepare(tmp_path / "data", scenes, include_masks=False)
    with pytest.raises(UserError, match="holds no masks"):
        start("cascadercnn", boxes, tmp_path / "model")


def test_other_records_and_annotations_are_refused(records, tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "empty")) as writer:
        writer.write(tf.train.Example().SerializeToString())
    (tmp_path / "text").write_text("no records")
    for name in ("empty", "text"):
        with pytest.raises(UserError, match="holds no TFRecords of detection data"):
            start("retinanet", records, tmp_path / "model", **{"task.train_data.input_path": tmp_path / name})
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="is not a COCO annotation file"):
        start("retinanet", records, tmp_path / "model", **{"task.annotation_file": tmp_path / "list.json"})


@pytest.mark.parametrize("window", ["fixed", "split"])
@pytest.mark.parametrize("side", [128, 1024])
def test_every_variable_of_a_224_checkpoint_is_accounted_for_at_another_size(checkpoint, side, window):
    path, saved = checkpoint
    model = Classifier(side, window=window)
    report = checkpoints.initialize(model, path, "backbone")
    resized = ("position_embedding/embedding",) if window == "split" else ()
    assert report.resized == resized
    assert len(report.loaded) + len(resized) == len(model.backbone.variables)
    assert report.unused == ()
    # Either once, when it is loaded, or in every pass: the tokens get the same.
    expected = tf.image.resize(saved.backbone.position_embedding.embedding, (side // 4, side // 4), antialias=True)
    added = model.backbone.position_embedding(tf.zeros((1, side // 4, side // 4, expected.shape[-1])))
    np.testing.assert_allclose(added, expected, atol=1e-6)
    for ours, theirs in zip(model.backbone.variables, saved.backbone.variables):
        if "position" not in ours.name:
            np.testing.assert_array_equal(ours, theirs)


def test_final_norm_and_tanh_layer_are_all_that_a_detector_leaves(checkpoint):
    detector = Classifier(128, representation=False, pre_logits=False)
    report = checkpoints.initialize(detector, checkpoint[0], "backbone")
    assert report.unused == ("norm/beta", "norm/gamma", "representation/bias", "representation/kernel")
    assert len(report.loaded) == len(detector.backbone.variables) == len(checkpoint[1].backbone.variables) - 4


def test_a_training_of_a_detector_with_the_unused_norm_is_continued(tmp_path):
    """As earlier versions saved it: two variables more, and their moments."""
    earlier, now = (Classifier(64, representation=False, pre_logits=pre_logits) for pre_logits in (True, False))
    optimizers = [tf_keras.optimizers.legacy.Adam() for _ in range(2)]
    for model, optimizer in zip((earlier, now), optimizers):
        create_slots(optimizer, model.trainable_variables)
    for variable in optimizers[0].variables():
        variable.assign(tf.ones_like(variable))
    path = tf.train.Checkpoint(model=earlier, optimizer=optimizers[0]).save(str(tmp_path / "ckpt"))
    checkpoints.check_resumable(now, optimizers[1], path)
    tf.train.Checkpoint(model=now, optimizer=optimizers[1]).restore(path).assert_existing_objects_matched()
    # In order, since blocks give their variables the same names.
    kept = [variable for variable in earlier.variables if not variable.name.startswith("norm/")]
    assert len(now.variables) == len(kept) == len(earlier.variables) - 2
    for variable, saved in zip(now.variables, kept):
        np.testing.assert_array_equal(variable, saved)
    assert all(np.all(variable.numpy() == 1) for variable in optimizers[1].variables())
