"""Weights drawn for the measures: their order, and their deviations against closed forms."""

import numpy as np
import pytest
import tf_keras

from asvit_tf import AsViT, UserError, private_names
from asvit_tf.modeling import initialization
from asvit_tf.modeling.layers import PatchMerging

DEEP = "5,2,3,2|3,2,2|2,2,4|2,1,5,3|16,32"
SHALLOW = "4,2,2|2,1,2|3,1,2|4,1,2|16,16"


def backbone(topology, **options):
    return AsViT(topology, tf_keras.layers.InputSpec(shape=[None, 16, 16, 3]), seed=0, **options)


@pytest.mark.parametrize(("topology", "representation_size"), [(SHALLOW, None), (DEEP, 8), ("seed", None)])
def test_linear_layers_come_in_the_order_of_earlier_versions(topology, representation_size):
    """Earlier versions took the order in which Keras traverses layers; scores on disk depend on it."""
    model = backbone(topology, representation_size=representation_size)
    expected = [
        layer for layer in private_names.layers_of(model) if isinstance(layer, (tf_keras.layers.Dense, PatchMerging))
    ]
    found = list(initialization.linear_layers(model))
    assert len(found) == 3 + 4 * sum(model.topology.depths) + (representation_size is not None)
    assert list(map(id, found)) == list(map(id, expected))


def fan_ins(model):
    """Inputs of one output of every linear map, counted from the topology alone, in the order of drawing."""
    topology = model.topology
    for index in range(1, 4):
        yield topology.stages[index].kernel_size ** 2 * topology.widths[index - 1]
    for index, stage in enumerate(topology.stages):
        inner = topology.heads[index] * topology.head_dims[index]
        for _ in range(stage.depth):
            yield from (topology.widths[index], inner, topology.widths[index])
            yield topology.widths[index] * stage.expansion_ratio


@pytest.mark.parametrize("topology", [SHALLOW, DEEP])
def test_deviations_of_the_kernels_are_those_of_their_scheme(topology):
    model = backbone(topology)
    for scheme in ("lecun", "released"):
        initialization.draw_linear(model, np.random.default_rng(0), scheme)
        layers = list(initialization.linear_layers(model))
        for layer, fan_in in zip(layers, fan_ins(model), strict=True):
            kernel = layer.kernel.numpy()
            expected = fan_in**-0.5 if scheme == "lecun" else 0.02
            # The deviation of n normal numbers is known to 1 / sqrt(2 n); four of these.
            assert kernel.std() == pytest.approx(expected, rel=4 / (2 * kernel.size) ** 0.5), layer.name
            assert abs(kernel.mean()) < 4 * expected / kernel.size**0.5
            if isinstance(layer, tf_keras.layers.Dense):
                assert not layer.bias.numpy().any()


def test_the_stem_is_uniform_between_its_bounds_and_drawing_linear_maps_leaves_it():
    model = backbone("seed")
    initialization.draw_stem(model, np.random.default_rng(0))
    kernel, bound = model.stem.kernel.numpy(), (3 * 8 * 8) ** -0.5
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.03)
    initialization.draw_linear(model, np.random.default_rng(1))
    np.testing.assert_array_equal(model.stem.kernel, kernel)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(UserError, match="unknown initialization 'zeros'; allowed are released, lecun"):
        initialization.draw_linear(backbone(SHALLOW), np.random.default_rng(0), "zeros")
