"""An experiment on chosen devices: what of it changes, and that a training goes on with other devices."""

import contextlib
import copy
import types

import numpy as np
import pytest
import tensorflow as tf
from helpers import TINY, FakeGpus, digits_experiment, two_devices
from official.core import exp_factory
from official.modeling import optimization

from asvit_tf import UserError
from asvit_tf.dataloaders import classification as data
from asvit_tf.design.topology import Topology
from asvit_tf.hardware.choice import Chosen, Gpu
from asvit_tf.tasks import checks, plans
from asvit_tf.training import run as train
from asvit_tf.training import step_log, strategies
from asvit_tf.training.runtimes import Runtime, even_batch, training_batch, whole_batch

A100, T4 = Gpu("NVIDIA A100", (8, 0)), Gpu("NVIDIA T4", (7, 5))


def experiment(batch_size=32):
    dataset = data.Dataset("data", ("a", "b"), train_examples=1438, validation_examples=359)
    plan = plans.Plan(image_size=(32, 32), seed=0, epochs=2, batch_size=batch_size)
    return plans.classifier(plan, dataset, Topology.parse(TINY))


def changed(params, before, prefix=""):
    """Fields that differ, by their path, with their new values."""
    fields = {}
    for name, value in params.items():
        if isinstance(value, dict):
            fields |= changed(value, before[name], f"{prefix}{name}.")
        elif value != before[name]:
            fields[prefix + name] = value
    return fields


ON_TPU = {
    **{"runtime.distribution_strategy": "tpu", "runtime.tpu": "local", "runtime.mixed_precision_dtype": "bfloat16"},
    **{"task.train_data.dtype": "bfloat16", "task.validation_data.dtype": "bfloat16"},
    **{"task.validation_data.drop_remainder": True, "task.validation_data.global_batch_size": 352},
}
ON_TWO = {"runtime.distribution_strategy": "mirrored", "runtime.num_gpus": 2}


@pytest.mark.parametrize(
    ("chosen", "batch_size", "fields"),
    [
        (Chosen(), 32, {}),
        (Chosen("gpu", (T4,)), 32, {"runtime.num_gpus": 1, "runtime.mixed_precision_dtype": "float16"}),
        (Chosen("gpu", (Gpu("P100", (6, 0)),)), 32, {"runtime.num_gpus": 1}),
        # 359 images held out in batches of 128: 6 parts of 64.
        (Chosen("gpu", (A100,) * 2), 32, {**ON_TWO, "runtime.mixed_precision_dtype": "bfloat16"}),
        (
            *(Chosen("gpu", (A100,) * 2), 31),
            {**ON_TWO, "runtime.mixed_precision_dtype": "bfloat16", "task.train_data.global_batch_size": 32},
        ),
        # On 3, 9 parts of 42, of which the last is smaller.
        (
            *(Chosen("gpu", (A100, A100, T4)), 32),
            {
                **{"runtime.distribution_strategy": "mirrored", "runtime.num_gpus": 3},
                **{"runtime.mixed_precision_dtype": "float16", "task.train_data.global_batch_size": 33},
                "task.validation_data.global_batch_size": 126,
            },
        ),
        (Chosen("tpu", tpu="local"), 32, ON_TPU),
        (Chosen("tpu", tpu="local"), 12, {**ON_TPU, "task.train_data.global_batch_size": 16}),
    ],
)
def test_what_changes_of_an_experiment_is_the_devices_and_the_batches(chosen, batch_size, fields, monkeypatch):
    """Steps, learning rate and all else of the recipe are those of a CPU."""
    monkeypatch.setattr(strategies, "build", lambda runtime: types.SimpleNamespace(num_replicas_in_sync=8))
    params = experiment(batch_size)
    before = copy.deepcopy(params.as_dict())
    Runtime(chosen, batch_size).apply(params, 359)
    assert changed(params.as_dict(), before) == fields


def test_averages_of_weights_are_not_trained_behind_scaled_losses():
    """The Model Garden's trainer averages only where the outermost optimizer does."""
    for gpu, dtype in ((T4, "float32"), (A100, "bfloat16")):
        params = experiment()
        params.trainer.optimizer_config.ema = optimization.EMAConfig()
        Runtime(Chosen("gpu", (gpu,)), 32).apply(params, 359)
        assert params.runtime.mixed_precision_dtype == dtype
        params.runtime.mixed_precision_dtype = "float16"
        with pytest.raises(UserError, match="float16, with which weights cannot be averaged; set it to float32"):
            checks.check(params)


def test_the_batch_is_the_nearest_that_can_be_divided():
    for replicas in range(1, 10):
        for asked in range(replicas, 70):
            multiples = range(replicas, 2 * asked + replicas, replicas)
            nearest = min(multiples, key=lambda batch: (abs(batch - asked), -batch))
            assert training_batch(asked, replicas) == nearest
        with pytest.raises(UserError, match=rf"a batch of {replicas - 1} images cannot be divided among {replicas} "):
            training_batch(replicas - 1, replicas)


def test_no_evaluation_has_an_empty_batch():
    for replicas in (6, 7, 8, 16):
        for images in range(replicas, 200):
            assert whole_batch(images, 8, replicas) % replicas == 0
            assert 0 < whole_batch(images, 8, replicas) <= images


def test_fewer_images_than_gpus_are_refused_before_anything_is_started():
    runtime = Runtime(Chosen("gpu", (A100,) * 8))
    runtime.check_images(8)
    with pytest.raises(UserError, match="7 held-out images cannot be divided among 8 devices"):
        runtime.check_images(7)


def test_all_trainings_on_several_gpus_share_one_strategy(monkeypatch):
    """So that no key of a collective is used for tensors of two shapes."""
    made = []
    monkeypatch.setattr(strategies.distribute_utils, "get_distribution_strategy", lambda **_: made.append(0) or made)
    runtime = experiment().runtime
    runtime.override(dict(distribution_strategy="mirrored", num_gpus=2))
    strategies._mirrored.cache_clear()
    assert strategies.build(runtime) is strategies.build(copy.deepcopy(runtime))
    assert made == [0]
    strategies._mirrored.cache_clear()


def test_a_batch_that_devices_cannot_share_is_one_line(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(strategies, "build", lambda runtime: two_devices())
    params = digits_experiment(digits, 2, 1)
    params.task.validation_data.global_batch_size = 7
    with pytest.raises(UserError, match=r"validation_data.global_batch_size is 7; .* by 2 devices.* multiples of 2"):
        train.run(params, str(tmp_path / "model"), "train_and_eval")


def test_an_evaluation_keeps_every_replica_busy_and_leaves_hardly_anything_out():
    for replicas in (2, 3, 4, 8):
        for images in range(replicas * replicas, 400, 7):
            batch = even_batch(images, 128, replicas)
            possible = [part for part in range(1, 256 // replicas + 1) if len(range(0, images, part)) % replicas == 0]
            assert (batch is not None) == bool(possible)
            if batch is not None:
                assert batch // replicas in possible
                assert batch <= 128 or min(possible) * replicas == batch

            batch = whole_batch(images, 128, replicas)
            assert batch % replicas == 0
            assert 0 < batch <= 128
            assert images % batch < replicas * -(-images // 128)
    assert even_batch(129, 128, 8) == 136  # Eight parts of 17, of which the last has 10.
    assert even_batch(49, 128, 8) is None
    with pytest.raises(UserError, match="7 held-out images cannot be divided among 8 devices"):
        whole_batch(7, 128, 8)


def test_a_batch_of_fewer_images_than_gpus_is_refused_at_once():
    with pytest.raises(UserError, match="a batch of 3 images cannot be divided among 4 devices; set --batch-size to"):
        Runtime(Chosen("gpu", (A100,) * 4), 3)
    assert str(Runtime(Chosen("gpu", (A100,) * 4), 8)) == "4 GPUs (NVIDIA A100), bfloat16"
    assert str(Runtime(Chosen("gpu", (A100,) * 3), 8)).endswith("bfloat16; batches of 9, a multiple of 3, for 8")


def test_a_tpu_that_cannot_be_reached_is_one_line(monkeypatch):
    def build(runtime):
        assert (runtime.distribution_strategy, runtime.tpu) == ("tpu", "slice")
        raise tf.errors.UnavailableError(None, None, "failed to connect to all addresses")

    monkeypatch.setattr(strategies, "build", build)
    runtime = Runtime(Chosen("tpu", tpu="slice"), 32)  # Nothing is connected yet.
    assert str(runtime) == "TPU slice, bfloat16; search and growth use the CPU"
    with pytest.raises(UserError, match=r"--tpu=slice cannot be reached \(failed to connect to all addresses\)"):
        runtime.apply(experiment(), 359)


def test_images_that_no_batch_divides_are_left_out():
    params = experiment()
    Runtime(Chosen("gpu", (A100,) * 8), 32).apply(params, 49)
    data = params.task.validation_data
    assert (data.global_batch_size, data.drop_remainder) == (48, True)


@pytest.mark.parametrize("name", ["retinanet_asvit_coco", "cascadercnn_asvit_coco", "segmentation_asvit_coco"])
def test_a_detector_is_evaluated_on_a_tpu_in_batches_of_its_recipe(name, monkeypatch):
    """75 images by 8 cores: 9 batches of 8 as in the recipe, not one of 72. All images have to count elsewhere."""
    monkeypatch.setattr(strategies, "build", lambda runtime: types.SimpleNamespace(num_replicas_in_sync=8))
    for kind in (checks.detection, checks.segmentation):
        monkeypatch.setattr(kind, "check", lambda task, section: None)
    params = exp_factory.get_exp_config(name)
    Runtime(Chosen("tpu", tpu="local")).apply(params, 75)
    evaluated = params.task.validation_data
    assert (evaluated.global_batch_size, evaluated.drop_remainder, evaluated.dtype) == (8, True, "bfloat16")
    checks.check_data(params, "validation_data")
    for strategy, gpus, is_allowed in (("mirrored", 2, True), ("mirrored", 1, False), ("one_device", 0, False)):
        params.runtime.override(dict(distribution_strategy=strategy, num_gpus=gpus, tpu=None))
        with contextlib.nullcontext() if is_allowed else pytest.raises(UserError, match="drop_remainder is true"):
            checks.check_data(params, "validation_data")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("digits") / "data")


def test_an_evaluation_on_two_devices_sees_every_image_once(digits, tmp_path, monkeypatch):
    """In batches of 256 one device would get two parts of the 359 images, and the other one."""
    train.run(digits_experiment(digits, 2, 2), str(tmp_path), "train")
    gpus = Chosen("gpu", (Gpu("NVIDIA P100", (6, 0)),) * 2)
    FakeGpus(monkeypatch, *gpus.gpus)
    strategy = {0: lambda: tf.distribute.OneDeviceStrategy("CPU:0"), 2: two_devices}
    monkeypatch.setattr(
        strategies.distribute_utils, "get_distribution_strategy", lambda **options: strategy[options["num_gpus"]]()
    )

    def evaluated(chosen):
        params = digits_experiment(digits, 2, 2, {"task": {"validation_data": {"global_batch_size": 256}}})
        Runtime(chosen, 16).apply(params, digits.validation_examples)
        return train.run(params, str(tmp_path), "eval")

    one, two = evaluated(Chosen()), evaluated(gpus)
    for name in ("accuracy", "balanced_accuracy", "majority_share"):
        assert two[name] == pytest.approx(one[name], abs=1e-6)


def test_training_may_round_factors(digits, tmp_path, monkeypatch):
    allowed = tf.config.experimental.tensor_float_32_execution_enabled
    seen = []
    monkeypatch.setattr(train, "_run_once", lambda *arguments: seen.append(allowed()))
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        train.run(digits_experiment(digits, 4, 2), str(tmp_path), "train")
        assert not allowed()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)
    assert seen == [True]


@pytest.mark.usefixtures("clean_policy")
def test_a_training_goes_on_with_other_devices_and_back(digits, tmp_path, monkeypatch):
    """On the CPU, then on two GPUs in float16, with two devices of the CPU in their place, then on the CPU again: the
    losses are those of a training that never left it, and so are data, moments and learning rate."""
    gpus = Chosen("gpu", (T4, T4))
    FakeGpus(monkeypatch, *gpus.gpus)
    asked = []

    def strategy(**options):
        asked.append((options["distribution_strategy"], options["num_gpus"]))
        return two_devices() if options["num_gpus"] else tf.distribute.OneDeviceStrategy("CPU:0")

    monkeypatch.setattr(strategies.distribute_utils, "get_distribution_strategy", strategy)

    def train_to(steps, chosen, model_dir):
        """The loss of every block of five steps so far."""
        # Augmentation is drawn anew where a training continues.
        plain = {"task": {"train_data": {"aug_rand_hflip": False, "aug_crop": False}}}
        params = digits_experiment(digits, 30, 5, plain, {"trainer": {"train_steps": steps}})
        params.trainer.optimizer_config.learning_rate.cosine.override(
            {"decay_steps": 30, "initial_learning_rate": 3e-3}
        )
        Runtime(chosen, 16).apply(params, digits.validation_examples)
        train.run(params, str(tmp_path / model_dir), "train")
        blocks = step_log.read_blocks(tmp_path / model_dir)
        assert [block["step"] for block in blocks] == list(range(5, steps + 1, 5))
        return [block["training_loss"] for block in blocks]

    unbroken = train_to(30, Chosen(), "unbroken")
    for steps, chosen in ((10, Chosen()), (20, gpus), (30, Chosen())):
        losses = train_to(steps, chosen, "broken")
    assert asked == [("one_device", 0), ("one_device", 0), ("mirrored", 2), ("one_device", 0)]
    np.testing.assert_allclose(losses[:2], unbroken[:2], atol=1e-5)
    np.testing.assert_allclose(losses[2:], unbroken[2:], atol=1e-2)
    assert losses[2:] != unbroken[2:]
