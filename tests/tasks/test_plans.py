"""Recipes by name, by file and by amount of data; what may be overridden; what is written down and given back."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import TINY, planned, records, three_classes

from asvit_tf import Topology, UserError
from asvit_tf.dataloaders.classification import Dataset
from asvit_tf.tasks import checks, classification, experiment_files, photographs, plans, schedules, written_recipes


def test_data_design_and_steps_come_from_the_plan():
    params = planned(1300, epochs=7, batch_size=50, retokenization="thirds", flip=False)
    task, trainer = params.task, params.trainer
    assert (task.model.num_classes, list(task.model.input_size)) == (3, [32, 48, 3])
    backbone = task.model.backbone.asvit
    assert (backbone.topology, backbone.base_stride, backbone.stride) == (str(Topology.parse(TINY)), 2, 2)
    assert (task.seed, task.train_data.seed, task.retokenization.preset) == (5, 5, "thirds")
    assert (task.train_data.input_path, task.validation_data.input_path) == (
        "data/train.tfrecord",
        "data/validation.tfrecord",
    )
    assert task.train_data.aug_rand_hflip is False
    assert task.validation_data.aug_crop is False
    assert (trainer.steps_per_loop, trainer.train_steps) == (26, 7 * 26)
    assert trainer.optimizer_config.learning_rate.cosine.decay_steps == 7 * 26
    assert plans.epochs_of(params) == 7
    checks.check(params)


@pytest.mark.parametrize(
    ("examples", "epochs", "batch"),
    # 80 * sqrt(2000 / n), by hand; batches of 16, 32, 64, 128 from 0, 500, 5,000 and 20,000 images. Of few images at
    # least 1,500 steps, but at most 400 epochs: of 160 there are 10 steps in an epoch, of 600 there are 18.
    [
        *((10, 400, 10), (48, 400, 16), (160, 150, 16), (600, 84, 32)),
        *((1300, 80, 32), (2000, 80, 32), (8000, 40, 64), (50_000, 16, 128), (1_281_167, 15, 128)),
    ],
)
def test_epochs_and_batches_by_the_number_of_images(examples, epochs, batch):
    params = planned(examples)
    assert plans.epochs_of(params) == epochs
    assert params.task.train_data.global_batch_size == batch


def test_learning_rate_grows_with_the_root_of_the_batch():
    rates = {
        batch: planned(50_000, batch_size=batch).trainer.optimizer_config.learning_rate.cosine.initial_learning_rate
        for batch in (8, 32, 64, 128, 4096)
    }
    assert rates == {8: 0.0005, 32: 0.001, 64: 0.0014, 128: 0.002, 4096: 0.002}


def test_augmentation_by_epochs_and_images():
    """Every combination is one that losses and labels agree with; more training never means less augmentation."""
    strength = {}
    for examples, epochs in itertools.product((500, 50_000), (19, 20, 30, 60, 100)):
        params = planned(examples, epochs=epochs)
        checks.check(params)
        data = params.task.train_data
        assert data.aug_rand_hflip
        assert data.aug_crop
        strength[examples, epochs] = (
            data.aug_type is not None,
            data.mixup_and_cutmix is not None,
            data.random_erasing is not None,
            params.task.model.backbone.asvit.stochastic_depth > 0,
            1 - data.crop_area_range[0] > 0.4,
        )
    few = {epochs: strength[500, epochs] for epochs in (19, 20, 30, 60, 100)}
    many = {epochs: strength[50_000, epochs] for epochs in (19, 20, 30, 60, 100)}
    assert few[19] == many[19] == (False, False, False, False, False)
    assert few[20] == (False, False, False, True, True)
    assert few[30] == few[100] == (True, False, False, True, True)
    assert many[20] == many[30] == (False, True, False, False, False)
    assert many[60] == (True, True, False, True, True)
    assert many[100] == (True, True, True, True, True)
    crops = [planned(50_000, epochs=epochs).task.train_data.crop_area_range[0] for epochs in (9, 10, 59, 60, 100)]
    assert crops == [0.9, 0.65, 0.65, 0.5, 0.35]
    shares = [planned(5_000, epochs=epochs).task.train_data.mixup_and_cutmix.prob for epochs in (20, 50, 100, 300)]
    assert shares == pytest.approx([0.04, 0.25, 1.0, 1.0])
    assert planned(4_999, epochs=300).task.train_data.mixup_and_cutmix is None
    assert planned(500, epochs=30).task.train_data.aug_type.randaug.translate_const == 3  # A tenth of 32 pixels.


def test_averages_reach_back_a_fiftieth_of_the_training():
    params = planned(50_000, epochs=16)
    steps = params.trainer.train_steps
    assert params.trainer.optimizer_config.ema.average_decay == pytest.approx(1 - 50 / steps, abs=1e-6)
    assert params.task.model.backbone.asvit.initialization == "lecun"
    assert planned(40, epochs=1).trainer.optimizer_config.ema.average_decay == 0.9  # Ten steps, where those are more.


def test_digits_keep_their_recipe():
    params = planned(1438, recipe="digits")
    assert (plans.epochs_of(params), params.task.train_data.global_batch_size) == (80, 32)
    assert params.task.train_data.aug_rand_hflip is False
    assert params.trainer.optimizer_config.ema is None


def test_fields_come_last():
    params = planned(1300, overrides=("task.losses.label_smoothing=0.2,trainer.max_to_keep=7", "trainer.max_to_keep=8"))
    assert (params.task.losses.label_smoothing, params.trainer.max_to_keep) == (0.2, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": ("task.losses.label_smothing=0.2",)}, "did you mean label_smoothing"),
        ({"overrides": ("trainer.max_to_keep=many",)}, "trainer.max_to_keep is 'many'; it must be a whole number"),
        ({"overrides": ("task.model.num_classes=4",)}, "changes the design"),
        ({"overrides": ("task.model.backbone.asvit.base_stride=1",)}, "changes the design"),
        ({"overrides": ("task.model.backbone.type=resnet",)}, "changes the design"),
        (
            {"overrides": ("trainer.optimizer_config.learning_rate.type=cosines",)},
            "learning_rate.type is 'cosines'; allowed are .*cosine",
        ),
        ({"recipe": "no_such.yaml"}, "cannot read no_such.yaml"),
    ],
)
def test_recipes_and_fields_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        planned(1300, **options)


def test_wrong_fields_are_refused_without_data():
    plan = plans.Plan((32, 32), 0, recipe="photographs", overrides=("trainer.max_to_keeep=1",))
    with pytest.raises(UserError, match="did you mean max_to_keep"):
        plans.dtype(plan, "float32")


def test_a_field_decides_what_training_computes_in_and_averages_are_not_of_float16():
    def dtype(usual, *overrides):
        return plans.dtype(plans.Plan((32, 32), 0, recipe="photographs", overrides=overrides), usual)

    assert (dtype("bfloat16"), dtype("float32"), dtype("float16")) == ("bfloat16", "float32", "float32")
    assert dtype("float16", "trainer.optimizer_config.ema=null") == "float16"
    assert dtype("bfloat16", "runtime.mixed_precision_dtype=float32") == "float32"


def test_large_photographs_are_shuffled_a_few_at_a_time(tmp_path):
    assert planned(50_000).task.train_data.shuffle_buffer_size == 10_000
    data = Dataset(str(tmp_path), ("cat", "dog"), 4000, 20, shards=2)
    for name in (
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
        "validation-00000-of-00002.tfrecord",
    ):
        with open(tmp_path / name, "wb") as file:
            file.truncate(2**32)  # Sparse.
    plan = plans.Plan((32, 32), 0, recipe="photographs", base_stride=2)
    params = plans.classifier(plan, data, Topology.parse(TINY))
    assert params.task.train_data.shuffle_buffer_size == 256  # An eighth of a sixteenth of 4,000 would be 250.


def test_few_tokens_from_the_first_step_to_the_last():
    params = planned(1300, base_stride=8, retokenization="none")
    assert schedules.schedule_of(params).final.dilation == 1
    params.task.retokenization.phases = [{"until_step": 40, "stride": 16}, {"stride": 8}]
    assert [phase.tokenization.dilation for phase in schedules.schedule_of(params).phases] == [5, 1]


def test_a_recipe_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "detector.yaml"
    path.write_text("task: {model: {anchor: {num_scales: 3}}}")
    with pytest.raises(UserError, match="anchor"):
        plans.recipe(str(path))


@pytest.mark.parametrize(
    ("fields", "message", "enough"),
    [
        ("trainer: {train_steps: 80, steps_per_loop: 10}", "global_batch_size is 0; .* --batch-size", "batch_size"),
        ("task: {train_data: {global_batch_size: 8}}", "train_steps is 0 .* or give --epochs", "epochs"),
        (
            "{task: {train_data: {global_batch_size: 8}}, trainer: {train_steps: 8, steps_per_loop: 0}}",
            "steps_per_loop 0; .* or give --epochs",
            "epochs",
        ),
    ],
)
def test_a_recipe_without_batch_or_epochs_needs_the_option(fields, message, enough, tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text(fields)
    plan = plans.Plan((32, 32), 0, recipe=str(path), base_stride=2)
    for refused in (
        lambda plan: plans.dtype(plan, "float32"),
        lambda plan: plans.classifier(plan, three_classes(100), Topology.parse(TINY)),
    ):
        with pytest.raises(UserError, match=message):
            refused(plan)
    plans.classifier(dataclasses.replace(plan, **{enough: 3}), three_classes(100), Topology.parse(TINY))


def test_a_recipe_for_another_backbone_is_refused(tmp_path):
    path = tmp_path / "resnet.yaml"
    path.write_text("task: {model: {backbone: {type: resnet}}}")
    with pytest.raises(UserError, match=r"backbone\.type is 'resnet'; it must be asvit"):
        plans.recipe(str(path))


def test_rules_need_no_configs():
    sections = photographs.fitted(50_000, 16, 128, (32, 32), 2)
    params = plans.recipe("photographs")
    experiment_files.override(params, sections, "photographs")


def test_balanced_training_knows_the_shares_of_its_images(tmp_path):
    records(tmp_path / "train.tfrecord", [0, 0, 0, 1, 1, 2])
    data = Dataset(str(tmp_path), ("cat", "dog", "owl"), 6, 3)
    plan = plans.Plan((32, 32), 0, recipe="photographs", balanced=True)
    params = plans.classifier(plan, data, Topology.parse(TINY))
    assert params.task.class_shares == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    checks.check(params)
    assert "class_shares" not in written_recipes.recipe_text(params)
    for shares in ([0.5, 0.5], [0.5, 0.5, 0.0]):
        params.task.class_shares = shares
        with pytest.raises(UserError, match="must have one above 0 for each of the 3 classes"):
            checks.check(params)


def test_balanced_training_finds_what_equal_classes_would():
    """Logits of a table of two inputs, to its optimum: Bayes' rule with the true shares, and without adjustment."""
    inputs = tf.one_hot([0, 0, 0, 1, 0, 1], 2)  # Class 0 four times, class 1 twice.
    labels = tf.one_hot([0, 0, 0, 0, 1, 1], 2)
    table = tf.Variable(tf.zeros((2, 2)))
    model = lambda images, training=True: images @ table  # noqa: E731
    adjusted = classification.Adjusted(model, [4, 2])
    np.testing.assert_allclose(adjusted(inputs), [np.log([4 / 6, 2 / 6])] * 6, rtol=1e-6)
    optimizer = tf_keras.optimizers.SGD(2.0)
    for _ in range(3000):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, adjusted(inputs)))
        optimizer.apply_gradients([(tape.gradient(loss, table), table)])
    learned = tf.nn.softmax(table, axis=-1).numpy()
    likelihoods = np.array([[3 / 4, 1 / 2], [1 / 4, 1 / 2]])  # P(input | class): rows are inputs.
    np.testing.assert_allclose(learned, likelihoods / likelihoods.sum(1, keepdims=True), atol=1e-3)


@pytest.mark.parametrize(
    ("epochs", "stride", "preset"),
    [
        (3, 2, "none"),
        (29, 2, "none"),
        (30, 2, "published"),
        (80, 2, "published"),
        (80, 4, "none"),
        (80, 1, "published"),
    ],
)
def test_tokens_are_few_at_first_in_long_trainings_of_many(epochs, stride, preset):
    params = planned(1300, epochs=epochs, retokenization=None, base_stride=stride)
    assert params.task.retokenization.preset == preset
    kept = planned(1300, epochs=epochs, retokenization="thirds", base_stride=stride)
    assert kept.task.retokenization.preset == "thirds"


def test_another_recipe_keeps_its_own_schedule():
    plan = plans.Plan((32, 32), seed=5, retokenization=None, recipe="digits")
    kept = plans.recipe("digits").task.retokenization.preset
    assert plans.classifier(plan, three_classes(640), Topology.parse(TINY)).task.retokenization.preset == kept


@pytest.mark.parametrize("epochs", [30, 60])
def test_another_end_moves_no_phase(epochs):
    """Of 40 epochs; fewer or more, tokens change at the steps at which they would have."""
    params = planned(1300, epochs=40, retokenization="thirds", base_stride=1)
    before = schedules.schedule_of(params)
    changed = plans.with_epochs(params, epochs)
    checks.check(changed)
    after = schedules.schedule_of(changed)
    assert [phase.until for phase in after.phases] == [phase.until for phase in before.phases]
    assert [phase.tokenization for phase in after.phases] == [phase.tokenization for phase in before.phases]
    assert after.transition == pytest.approx(before.transition, abs=1)
    assert plans.epochs_of(changed) == epochs
    assert changed.trainer.optimizer_config.learning_rate.cosine.decay_steps == changed.trainer.train_steps
    assert changed.trainer.validation_interval == params.trainer.validation_interval
    assert changed.trainer.optimizer_config.warmup == params.trainer.optimizer_config.warmup
    assert plans.epochs_of(params) == 40
    untouched = (other.task.train_data.as_dict() for other in (params, changed))
    assert next(untouched) == next(untouched)
