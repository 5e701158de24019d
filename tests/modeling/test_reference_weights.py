import numpy as np
import pytest
import tensorflow as tf
from helpers import GOLDEN, Golden, relative_error

from asvit_tf import UserError
from asvit_tf.measures import complexity, ntk
from asvit_tf.modeling import reference_weights


@pytest.mark.parametrize("jit_compile", [False, True], ids=["function", "xla"])
def test_forward_equals_the_released_one(golden, jit_compile):
    model = golden.loaded()

    @tf.function(jit_compile=jit_compile)
    def forward(images):
        before = reference_weights.pooled_features(model, images)
        after = tf.reduce_mean(model.backbone.norm(model.backbone(images)["5"]), axis=(1, 2))
        return before, after, model(images)

    names = ("feature_pooled_before_norm", "feature_pooled_after_norm", "logits")
    for name, value in zip(names, forward(golden.images())):
        assert relative_error(value, golden.arrays[name]) < 1e-5, name


def test_parameters_equal_the_released_ones(golden):
    assert golden.model().count_params() == golden.scalars["params"]


def test_complexity_equals_the_released_one(golden):
    model = golden.loaded()
    measure = complexity.compile_measure(lambda images: reference_weights.pooled_features(model, images, "identity"))
    for radius in ("unit", "sqrt_n"):
        check_complexity(golden, radius, measure(golden.circle(radius)))


def check_complexity(golden, radius, measured):
    expected = golden.scalars[radius]
    assert relative_error(measured.velocity, golden.arrays[f"{radius}/v"]) < 1e-4
    assert relative_error(measured.acceleration, golden.arrays[f"{radius}/a"]) < 1e-3
    assert measured.length_distortion == pytest.approx(expected["trapz_speed_over_curve_length"], rel=1e-3)
    assert measured.curvature == pytest.approx(expected["trapz_kappa"], rel=1e-3)
    assert measured.length_distortion_with_curvature == pytest.approx(expected["trapz_norm_dvhat"], rel=1e-3)
    assert np.sum(np.linalg.norm(measured.velocity, axis=1)) == pytest.approx(expected["reference_sum_speed"], rel=1e-3)


def test_ntk_equals_the_released_one(golden):
    model = golden.loaded()
    gram = ntk.gram(
        lambda images: reference_weights.pooled_features(model, images),
        reference_weights.ntk_variables(model),
        golden.images("ntk_input_nchw"),
    )
    assert gram.dtype == np.float64
    assert relative_error(gram, golden.arrays["ntk_gram"]) < 1e-4
    assert ntk.condition_number(gram) == pytest.approx(golden.scalars["ntk_condition_number"], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm.weight"), "missing .'norm.weight'"),
        (lambda state: state.update(extra=np.zeros(3)), "unused .'extra'"),
        (lambda state: state.update({"norm.bias": np.zeros(3)}), "norm.bias has shape"),
        (lambda state: state.update({"patch_embed.proj.weight": np.zeros((3, 3))}), "patch_embed.proj.weight"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    golden = Golden(GOLDEN[0])
    model, state = golden.model(), golden.state_dict
    before = [variable.numpy() for variable in model.variables]
    change(state)
    with pytest.raises(UserError, match=message):
        reference_weights.load(model, state)
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable, value)
