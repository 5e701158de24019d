"""Semantic segmentation, end to end and tiny: maps of classes from masks, a step, an evaluation, a SavedModel."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from helpers import CONFIGS, two_devices
from helpers import TINY_DETECTOR as TINY
from official.common import distribute_utils
from official.core import exp_factory, task_factory
from official.vision.dataloaders import segmentation_input
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from asvit_tf import UserError, cli
from asvit_tf.dataloaders import coco, inputs, masks, shapes
from asvit_tf.serving import export, modules
from asvit_tf.tasks import experiment_files
from asvit_tf.training import run as train

CONFIG = CONFIGS / "shapes_segmentation_asvit_i128_cpu.yaml"
MAP = "image/segmentation/class/encoded"
NOTHING_DRAWN = {
    f"task.train_data.aug_{name}": value for name, value in dict(rand_hflip="false", scale_min=1, scale_max=1).items()
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    shapes.write(root / "scenes", train=4, validation=4)
    arguments = ["prepare-coco", str(root / "scenes"), "--output", str(root / "data"), "--semantic"]
    assert cli.main(arguments) == 0
    return root / "data"


def start(records, model_dir, mode="train_and_eval", **overrides):
    steps = ("train_steps", "steps_per_loop", "summary_interval", "checkpoint_interval", "validation_interval")
    changes = {
        "task.seed": 0,
        "task.model.backbone.asvit.topology": f"'{TINY}'",
        "task.model.head.num_convs": 1,  # Each norms its batch, of which a replica sees its own part.
        "task.train_data.global_batch_size": 4,
        **NOTHING_DRAWN,  # Threads draw in any order, so that losses would differ between two runs.
        "task.validation_data.global_batch_size": 3,  # The last of the four is a batch of its own.
        **{f"trainer.{name}": 1 for name in steps},
        "trainer.optimizer_config.warmup.linear.warmup_steps": 0,
        **overrides,
    }
    return train.start(
        experiment="segmentation_asvit_coco",
        mode=mode,
        model_dir=str(model_dir),
        config_file=[str(CONFIG), f"{records}/semantic.yaml"],
        params_override=[",".join(f"{name}={value}" for name, value in changes.items())],
    )


def test_records_hold_what_is_visible_of_every_scene(records):
    scenes = records.parent / "scenes"
    task = experiment_files.read(str(records / "semantic.yaml"))["task"]
    assert task["class_names"] == ["background", *shapes.CLASSES]
    assert task["model"] == {"num_classes": 4}
    decoder = segmentation_input.Decoder()
    content = json.loads((scenes / "annotations/instances_validation.json").read_text())
    for record in tf.data.TFRecordDataset(task["validation_data"]["input_path"]):
        features = decoder.decode(record)
        image = tf.io.decode_image(features["image/encoded"]).numpy()
        classes = tf.io.decode_image(features["image/segmentation/class/encoded"]).numpy()[..., 0]
        (number,) = (
            entry["id"]
            for entry in content["images"]
            if np.array_equal(np.asarray(Image.open(scenes / "validation" / entry["file_name"])), image)
        )
        areas = np.zeros(4, int)
        for annotation in content["annotations"]:
            if annotation["image_id"] == number:
                areas[annotation["category_id"]] += annotation["area"]
        assert np.bincount(classes.ravel(), minlength=4)[1:].tolist() == areas[1:].tolist()


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """One step, its evaluation, and the SavedModel of it; in a process that has trained something else before."""
    tf.summary.experimental.set_step(99)
    root = tmp_path_factory.mktemp("segmentation")
    metrics = start(records, root / "train")
    arguments = ["export", "--model-dir", str(root / "train"), "--export-dir", str(root / "saved_model")]
    assert cli.main(arguments) == 0
    return metrics, root


def test_a_step_trains_and_iou_is_evaluated(trained):
    metrics, root = trained
    assert {"mean_iou", "validation_loss", "iou/0", "iou/3"} <= set(metrics)
    assert metrics["mean_iou"] == pytest.approx(np.mean([metrics[f"iou/{i}"] for i in range(4)]))
    (block,) = (json.loads(line) for line in (root / "train/blocks.jsonl").read_text().splitlines() if line)
    assert np.isfinite(block["training_loss"])
    events = event_accumulator.EventAccumulator(str(root / "train/validation"))
    events.Reload()
    tags = events.Tags()["tensors"]
    pictures = [tag for tag in tags if tag.startswith("image/")]
    assert pictures
    for tag in ("mean_iou", *pictures):
        assert {event.step for event in events.Tensors(tag)} == {1}


def test_the_iou_is_that_of_counted_pixels(trained, records):
    """Of every image, each the size of the network, by the SavedModel's classes and the maps in the records."""
    metrics, root = trained
    decoder = segmentation_input.Decoder()
    rows = [decoder.decode(record) for record in tf.data.TFRecordDataset(str(records / "validation.tfrecord"))]
    serve = tf.saved_model.load(str(root / "saved_model")).signatures["serving_default"]
    found = serve(inputs=tf.stack([row["image/encoded"] for row in rows]))["classes"].numpy()
    truth = np.stack([tf.io.decode_image(row[MAP]).numpy()[..., 0] for row in rows])
    assert truth.shape == found.shape == (4, 128, 128)
    for i in range(4):
        union = ((truth == i) | (found == i)) & (truth != masks.IGNORED)
        expected = ((truth == i) & (found == i)).sum() / max(union.sum(), 1)
        assert metrics[f"iou/{i}"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.usefixtures("clean_policy")
@pytest.mark.parametrize(
    ("strategy", "dtype", "tolerance"),
    [
        (two_devices, "float32", 5e-3),  # Norms of two images differ from those of four.
        (lambda: tf.distribute.OneDeviceStrategy("CPU:0"), "bfloat16", 5e-2),
    ],
    ids=["two devices", "bfloat16"],
)
def test_a_step_elsewhere_is_that_of_one_device_in_float32(
    trained, records, tmp_path, monkeypatch, strategy, dtype, tolerance
):
    metrics, root = trained
    monkeypatch.setattr(distribute_utils, "get_distribution_strategy", lambda **options: strategy())
    elsewhere = {"runtime.mixed_precision_dtype": dtype, "task.validation_data.global_batch_size": 2}
    start(records, tmp_path / "train", **elsewhere)
    paths = [path / "train/blocks.jsonl" for path in (root, tmp_path)]
    losses = [json.loads(path.read_text())["training_loss"] for path in paths]
    assert losses[1] == pytest.approx(losses[0], abs=tolerance)
    # Evaluated is the same checkpoint: a step of Adam from the start is one of signs, which rounding turns. That other
    # batches have the same IoU shows that each of them is counted.
    shutil.copytree(root / "train", tmp_path / "copy")
    actual = start(records, tmp_path / "copy", mode="eval", **elsewhere)
    assert actual["mean_iou"] == pytest.approx(metrics["mean_iou"], abs=tolerance)


def test_the_saved_model_answers_images_of_different_sizes(trained, tmp_path):
    _, root = trained
    encoded = []
    for seed, (height, width) in enumerate(((100, 160), (150, 150))):
        scene = shapes.draw(np.random.default_rng(seed), max(height, width), 5, (20, 50))
        encoded.append(tf.io.encode_png(scene.image[:height, :width]).numpy())
    module = modules.serving_module(export.read_params(str(root / "train")), "image_bytes")
    newest = tf.train.latest_checkpoint(str(root / "train"))
    tf.train.Checkpoint(model=module.model).restore(newest).expect_partial().assert_existing_objects_matched()
    expected = module.serve(tf.constant(encoded))
    answer = tf.saved_model.load(str(root / "saved_model")).signatures["serving_default"](inputs=tf.constant(encoded))
    assert {len(value) for value in answer.values()} == {2}  # TensorFlow Serving wants a row for each image.
    names = [[name.decode() for name in row] for row in answer["class_names"].numpy()]
    assert names == [["background", *shapes.CLASSES]] * 2
    assert answer["image_info"][:, 0].numpy().tolist() == [[100, 160], [150, 150]]
    assert answer["logits"].shape == (2, 128, 128, 4)
    np.testing.assert_allclose(answer["logits"], expected["logits"], atol=1e-4)
    np.testing.assert_array_equal(answer["classes"], np.argmax(answer["logits"], axis=-1))


def test_the_saved_model_sees_what_the_evaluation_sees(trained, records):
    """Images of the network's own size, through the pipeline of the evaluation and the model itself."""
    _, root = trained
    params = export.read_params(str(root / "train"))
    task = task_factory.get_task(params.task)
    model = task.build_model()
    newest = tf.train.latest_checkpoint(str(root / "train"))
    tf.train.Checkpoint(model=model).read(newest).assert_existing_objects_matched().expect_partial()
    images, _ = next(iter(task.build_inputs(params.task.validation_data)))
    decoder = segmentation_input.Decoder()
    records = [decoder.decode(record) for record in tf.data.TFRecordDataset(str(records / "validation.tfrecord"))]
    encoded = tf.stack([record["image/encoded"] for record in records[: len(images)]])
    answer = tf.saved_model.load(str(root / "saved_model")).signatures["serving_default"](inputs=encoded)
    expected = tf.image.resize(model(images, training=False)["logits"], (128, 128))
    np.testing.assert_allclose(answer["logits"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"task.train_data.output_size": "[128,160]"}, r"train_data are resized to \[128, 160\]; .* \[128, 128\]"),
        ({"task.model.input_size": "[100,128,3]"}, "multiples of 32, such as 128 x 128"),
        ({"task.model.num_classes": 3}, "the task has 3 classes but 4 class_names"),
        ({"task.model.num_classes": 3, "task.class_names": "[]"}, "classes from 0 to 3; allowed .* are 0 to 2"),
        ({"task.train_data.input_path": "gone"}, "train_data.input_path: gone does not exist"),
        ({"task.model.input_size": "[128]"}, "it must be height, width and 3"),
        ({"task.model.max_level": 1}, "allowed are 2 to 5"),
        ({"task.model.decoder.type": "identity"}, "decoder.type is 'identity'; .* allowed are fpn"),
        ({"task.losses.class_weights": "[1.0,2.0]"}, "class_weights are 2, the model has 4 classes"),
        ({"task.validation_data.resize_eval_groundtruth": "false"}, "then groundtruth_padded_size is needed"),
        ({"task.export_config.rescale_output": "true"}, "rescale_output is true"),
        ({"task.validation_data.drop_remainder": "true"}, "drop_remainder is true"),
        ({"trainer.best_checkpoint_export_subdir": "best", "trainer.best_checkpoint_eval_metric": "AP"}, "mean_iou"),
    ],
)
def test_bad_settings_have_one_line(records, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message) as refusal:
        start(records, tmp_path, **overrides)
    assert len(str(refusal.value).splitlines()) == 1


def rewritten(source, target, change):
    """The same records, each changed."""
    with tf.io.TFRecordWriter(str(target)) as writer:
        for number, record in enumerate(tf.data.TFRecordDataset(str(source))):
            example = tf.train.Example.FromString(record.numpy())
            change(number, example.features.feature)
            writer.write(example.SerializeToString())


def map_of(pixels):
    return [tf.io.encode_png(np.asarray(pixels, np.uint8)[..., None]).numpy()]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda old: [old[: len(old) // 2]], "a map of classes that is damaged"),
        (lambda old: [b"text"], "a map of classes that is damaged"),
        (lambda old: map_of(np.zeros((10, 10))), "without a map of classes of its own size"),
        (lambda old: [], "holds no class for every pixel"),
        (lambda old: map_of(np.full((128, 128), 9)), "classes from 0 to 9; allowed .* are 0 to 3"),
    ],
    ids=["half", "text", "size", "none", "class"],
)
def test_maps_that_cannot_be_trained_on_are_refused(records, tmp_path, value, message):
    def change(number, features):
        if number == 2:
            features[MAP].bytes_list.value[:] = value(features[MAP].bytes_list.value[0])

    rewritten(records / "train.tfrecord", tmp_path / "changed", change)
    with pytest.raises(UserError, match=message):
        start(records, tmp_path / "model", **{"task.train_data.input_path": tmp_path / "changed"})
    assert not (tmp_path / "model").exists()


def test_a_class_that_comes_late_ends_the_pipeline(records, tmp_path):
    rewritten(
        records / "train.tfrecord",
        tmp_path / "changed",
        lambda number, features: features[MAP].bytes_list.value.__setitem__(0, map_of(np.full((128, 128), 9))[0]),
    )
    params = exp_factory.get_exp_config("segmentation_asvit_coco")
    params.task.model.num_classes = 4
    data = params.task.train_data
    data.override({"input_path": str(tmp_path / "changed"), "global_batch_size": 2, "output_size": [128, 128]})
    dataset = task_factory.get_task(params.task).build_inputs(data)
    with pytest.raises(tf.errors.InvalidArgumentError, match=inputs.LABEL_PROBLEM):
        next(iter(dataset))


def test_pixels_of_an_object_without_a_box_are_no_background(tmp_path):
    shapes.write(tmp_path / "scenes", train=1, validation=1)
    path = tmp_path / "scenes/annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = 0
    path.write_text(json.dumps(content))
    prepared = coco.prepare(tmp_path / "data", tmp_path / "scenes", semantic=True)
    assert prepared.counts["train"].degenerate == 1
    (record,) = tf.data.TFRecordDataset(str(tmp_path / "data/train.tfrecord"))
    classes = tf.io.decode_image(segmentation_input.Decoder().decode(record)[MAP]).numpy()
    assert (classes == masks.IGNORED).sum() == content["annotations"][0]["area"]
    assert "unboxed" not in json.loads((tmp_path / "data/annotations_validation.json").read_text())


def test_records_of_boxes_and_masks_alone_are_refused(records, tmp_path, capsys):
    scenes = str(records.parent / "scenes")
    assert cli.main(["prepare-coco", scenes, "--output", str(tmp_path / "data")]) == 0
    path = tmp_path / "data/train.tfrecord"
    with pytest.raises(UserError, match=r"holds no class for every pixel; .* prepare-coco --semantic"):
        start(records, tmp_path / "model", **{"task.train_data.input_path": path})
    arguments = ["prepare-coco", scenes, "--output", str(tmp_path / "other"), "--semantic", "--no-masks"]
    assert cli.main(arguments) == 2
    assert "made from the masks" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
