import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import relative_error, two_devices

from asvit_tf import AsViT, Tokenization, Topology, UserError

TINY = "4,2,2|3,2,2|2,1,2|2,1,2|16,8"
RNG = np.random.default_rng(0)


def backbone(side=32, **options):
    sides = (side, side) if isinstance(side, int) else side
    return AsViT(TINY, tf_keras.layers.InputSpec(shape=[None, *sides, 3]), seed=0, **options)


def images(side=32, batch=2):
    sides = (side, side) if isinstance(side, int) else side
    return tf.constant(RNG.standard_normal((batch, *sides, 3)), tf.float32)


@pytest.mark.parametrize("side", [1, 3, 32, 37, (40, 27)])
@pytest.mark.parametrize("window", ["split", "fixed"])
@pytest.mark.parametrize("tokenization", [(4, 1), (16, 5), (8, 3)])
def test_any_image_size(side, window, tokenization):
    model = backbone(side, window=window, tokenization=Tokenization(*tokenization))
    endpoints = model(images(side))
    assert list(model.output_specs) == ["2", "3", "4", "5"]
    for level, spec in model.output_specs.items():
        assert endpoints[level].shape == (2, *spec[1:])
    assert endpoints["pre_logits"].shape == (2, 1, 1, 64)
    assert all(np.all(np.isfinite(value)) for value in endpoints.values())


def test_config_round_trip():
    model = backbone(
        (40, 24),
        position_embedding=False,
        normalization="identity",
        tokenization=Tokenization(8, 3),
        window="fixed",
        representation_size=10,
        stochastic_depth=0.1,
    )
    copy = AsViT.from_config(model.get_config())
    assert copy.get_config() == model.get_config()
    x = images((40, 24))
    for one, other in zip(model(x).values(), copy(x).values()):
        np.testing.assert_array_equal(one, other)  # The seed is part of the config.


def test_without_pre_logits_only_the_final_norm_is_missing():
    """Nothing else changes, the draw of the weights neither."""
    complete, dense = backbone(), backbone(pre_logits=False)
    x = images()
    expected = complete(x)
    assert list(dense(x)) == ["2", "3", "4", "5"]
    for level, value in dense(x).items():
        np.testing.assert_array_equal(value, expected[level])
    assert complete.count_params() - dense.count_params() == 2 * 64
    assert AsViT.from_config(dense.get_config()).norm is None
    with pytest.raises(UserError, match="representation_size is 5 without pre_logits"):
        backbone(pre_logits=False, representation_size=5)


def test_stochastic_depth_rises_linearly_over_the_blocks():
    topology = "4,2,2,2|3,2,2,1|2,1,2,3|2,1,2,2|16,8"
    specs = tf_keras.layers.InputSpec(shape=[None, 32, 32, 3])
    model = AsViT(topology, specs, stochastic_depth=0.35, seed=0)
    rates = [block.drop_path.rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35])


def test_weights_differ_from_each_other_and_between_seeds():
    model, other = backbone(), AsViT(TINY, tf_keras.layers.InputSpec(shape=[None, 32, 32, 3]), seed=1)
    kernels = [w.numpy().ravel()[:8] for w in model.trainable_variables if "kernel" in w.name]
    assert len({tuple(kernel) for kernel in kernels}) == len(kernels)
    assert not np.array_equal(model.stem.kernel, other.stem.kernel)


def test_linear_maps_begin_as_they_are_asked_to():
    """Released: 0.02 whatever the map takes in; LeCun: 1 / sqrt(fan_in), of a merging its whole patch."""
    topology = "4,2,2|3,2,2|2,1,2|2,1,2|16,32"
    specs = tf_keras.layers.InputSpec(shape=[None, 32, 32, 3])
    for initialization in ("released", "lecun"):
        model = AsViT(topology, specs, seed=0, representation_size=64, initialization=initialization)
        kernels = {v.name: v for v in model.trainable_variables if "kernel" in v.name and "stem" not in v.name}
        assert len(kernels) == 4 * 4 + 3 + 1
        for name, kernel in kernels.items():
            fan_in = np.prod(kernel.shape[:-1])
            expected = 0.02 if initialization == "released" else fan_in**-0.5
            # The released scheme cuts off at two deviations, and does not make up for it.
            cut = 0.88 if initialization == "released" else 1.0
            assert np.std(kernel) == pytest.approx(cut * expected, rel=0.07), name
        assert np.std(model.position_embedding.embedding) == pytest.approx(0.88 * 0.02, rel=0.1)
    assert AsViT.from_config(model.get_config()).get_config()["initialization"] == "lecun"


def test_parameters_are_what_counting_says():
    from asvit_tf.design import counting

    for options in (dict(position_embedding=False), dict(position_embedding=True), dict(window="fixed")):
        model = backbone((40, 24), **options)
        counted = counting.count(Topology.parse(TINY), (40, 24), 10, representation=False, **options)
        assert model.count_params() == counted.parameters - 64 * 10 - 10


def test_eager_function_and_xla_agree():
    model = backbone(37)
    x = images(37)
    eager = model(x)
    for jit_compile in (False, True):
        for level, value in tf.function(model, jit_compile=jit_compile)(x).items():
            assert relative_error(value, eager[level]) < 1e-5


def test_xla_gradients_with_dilation_agree_with_eager():
    model = backbone(32, tokenization=Tokenization(16, 5))
    x = images(32)
    weights = tf.constant(RNG.standard_normal(64), tf.float32)

    def gradients():
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(weights * model(x)["pre_logits"])
        return tape.gradient(total, model.stem.kernel)

    assert relative_error(tf.function(gradients, jit_compile=True)(), gradients()) < 1e-4


def test_mixed_bfloat16_stays_near_float32(clean_policy):
    reference = backbone()
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = backbone()
    x = images()
    output = model(x)["pre_logits"]
    assert output.dtype == tf.bfloat16
    assert all(variable.dtype == tf.float32 for variable in model.variables)
    assert relative_error(tf.cast(output, tf.float32), reference(x)["pre_logits"]) < 0.05


def test_two_replicas_compute_what_one_does():
    strategy = two_devices()
    with strategy.scope():
        model = backbone()
    x = images(batch=4)
    weights = tf.constant(RNG.standard_normal(64), tf.float32)

    @tf.function
    def gradients(rows):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(weights * model(rows)["pre_logits"])
        return tape.gradient(total, model.trainable_variables[0])

    halves = strategy.experimental_distribute_values_from_function(
        lambda context: x[2 * context.replica_id_in_sync_group :][:2]
    )
    summed = strategy.reduce("SUM", strategy.run(gradients, args=(halves,)), axis=None)
    assert relative_error(summed, gradients(x)) < 1e-4


def test_normalization_can_be_switched_and_comes_back():
    model = backbone()
    x = images()
    with_norms = model(x)["5"]
    with model.normalized_by("identity"):
        without = model(x)["5"]
    assert relative_error(without, with_norms) > 0.1
    np.testing.assert_array_equal(model(x)["5"], with_norms)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": "round"}, "allowed are split, fixed"),
        ({"normalization": "batch"}, "allowed are identity, layer"),
        ({"stochastic_depth": 1.0}, "from 0 to below 1"),
        ({"initialization": "he"}, "allowed are released, lecun"),
        ({"side": (None, 32)}, "must be known"),
        ({"side": 0}, "at least 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        backbone(**options)


@pytest.mark.parametrize(("side", "times"), [(224, 1), (448, 2)])
def test_windows_of_either_kind_agree_where_they_coincide(side, times):
    """Twice the image with twice the windows a side has windows of the same edge; both divide every grid."""
    splits = (2, 2, 1, 1)
    one, many = (
        AsViT(
            "|".join(f"{kernel},{count * factor},2" for kernel, count in zip((4, 2, 2, 2), splits)) + "|8,8",
            tf_keras.layers.InputSpec(shape=[None, side, side, 3]),
            window=window,
            position_embedding=False,  # Its grid is another.
            seed=3,
        )
        for window, factor in (("fixed", 1), ("split", times))
    )
    images = tf.random.stateless_normal((1, side, side, 3), seed=(0, 1))
    features, expected = one(images), many(images)
    for name, value in expected.items():
        np.testing.assert_array_equal(features[name], value)
        assert np.ptp(value) > 0
