"""What follows from the boxes of a data set."""

import numpy as np
import pytest

from asvit_tf.dataloaders.boxes import Boxes
from search.dense import choices, experiments
from search.dense.settings import DetectionSettings


def boxes_of(images: int, an_image: int, side: float, shape=(480, 640)) -> Boxes:
    number = images * an_image
    return Boxes(
        np.tile(np.array(shape, float), (images, 1)),
        np.repeat(np.arange(images), an_image),
        np.full((number, 2), side),
        np.ones(number, int),
        with_masks=True,
    )


def chosen(boxes: Boxes, **given) -> choices.Choices:
    return choices.choose(DetectionSettings(data_path=".", **given), boxes, "cpu", None)[0]


def test_nothing_is_warned_of_where_all_is_well():
    assert chosen(boxes_of(100, 3, 60.0)).warnings == []


def test_objects_of_a_few_pixels_are_told_with_the_size_that_shows_them():
    (line,) = chosen(boxes_of(100, 3, 8.0)).warnings  # Half as large in the input.
    assert "narrower than 4.0 pixels" in line
    assert "--image-size 512x640 shows them, and takes 4 times as long" in line
    larger = chosen(boxes_of(100, 3, 8.0), image_size=(512, 640))
    assert larger.warnings == []


def test_boxes_without_an_anchor_are_told():
    boxes = boxes_of(100, 2, 60.0)
    ratios = np.exp(np.linspace(-4.5, 4.5, 200))
    sides = np.stack([200 * ratios**0.5, 200 / ratios**0.5], axis=-1)
    (line,) = chosen(Boxes(boxes.images, boxes.of_image, sides, boxes.categories, True)).warnings
    assert "overlap no anchor by half" in line


@pytest.mark.parametrize(("an_image", "found"), [(3, 20), (30, 60), (300, 600), (5000, 1000)])
def test_as_many_objects_are_answered_as_crowded_images_need(an_image, found):
    choice = chosen(boxes_of(2, an_image, 60.0))
    assert choice.most_found == found
    assert any("objects are found in an image" in line for line in choice.warnings) == (found > 100)


def made(boxes, directory, **given):
    """What is chosen by boxes, and the experiment."""
    from asvit_tf.dataloaders.annotations.splits import SplitCount
    from asvit_tf.dataloaders.coco import Prepared

    (directory / "data.yaml").write_text("task: {model: {num_classes: 3}}\n")
    (directory / "train.tfrecord").touch()
    counts = {split: SplitCount(images=len(boxes.images)) for split in ("train", "validation")}
    settings = DetectionSettings(data_path=".", **given)
    choice = choices.choose(settings, boxes, "cpu", None)[0]
    prepared = Prepared(str(directory), ("", "a", "b"), counts)
    return choice, experiments.experiment(settings, choice, prepared, boxes, None)


@pytest.mark.parametrize(
    ("an_image", "expected"),
    [
        (3, dict(num_proposals=100, test_num_proposals=100, pre_nms_top_k=500)),
        (150, dict(num_proposals=600, test_num_proposals=600, pre_nms_top_k=1200)),
    ],
)
def test_proposals_are_enough_for_crowded_images(an_image, expected, tmp_path):
    boxes = boxes_of(40, an_image, 60.0)
    choice, params = made(boxes, tmp_path, model="cascade")
    generator = params.task.model.roi_generator
    assert {name: getattr(generator, name) for name in expected} == expected
    assert params.task.model.detection_generator.max_num_detections == choice.most_found
    assert params.task.model.include_mask
    assert params.task.model.roi_sampler.num_sampled_rois == max(48, 2 * an_image)
    assert params.trainer.steps_per_loop == 5
    assert params.trainer.train_steps == 5 * 300


def test_long_epochs_are_saved_and_told_of_in_parts(tmp_path):
    trainer = made(boxes_of(9000, 1, 60.0), tmp_path)[1].trainer
    assert trainer.steps_per_loop == trainer.checkpoint_interval == 375  # A third of 1125; two would be more than 600.
    assert (trainer.train_steps, trainer.validation_interval) == (12 * 1125, 2 * 1125)
