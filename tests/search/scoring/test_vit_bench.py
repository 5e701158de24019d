"""Networks of another benchmark, by the battery: that they are what their formulas say, and can be measured."""

import importlib.util
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from asvit_tf.choices import PROXIES
from asvit_tf.measures.registry import FFN
from search.scoring.battery import Battery
from search.scoring.names import measure_names
from search.scoring.settings import ScoringSettings

FILE = Path(__file__).parents[3] / "benchmarks/vit_bench_networks.py"
AUTOFORMER = dict(hidden_dim=24, mlp_ratio=[3.5, 4.0], num_heads=[1, 2])
PIT = dict(base_dim=4, mlp_ratio=2, depth=[1, 2, 1], num_heads=[1, 2, 4])


@pytest.fixture(scope="module")
def networks():
    spec = importlib.util.spec_from_file_location("vit_bench_networks", FILE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def specs(networks):
    return [networks.AutoFormer.of(AUTOFORMER), networks.PiT.of(PIT)]


def test_parameters_and_depths_are_those_of_the_formulas(specs):
    for spec in specs:
        for size in (32, 48):
            network = spec.build(size, 7, seed=0)
            assert sum(int(tf.size(v)) for v in network.trainable_variables) == spec.parameters(size, 7)
    assert [spec.depth for spec in specs] == [2, 4]
    assert specs[1].widths == (4, 8, 16)


def products(graph):
    """Multiply-accumulates of all matrix products and convolutions of a graph, by their shapes."""
    total = 0
    for operation in graph.get_operations():
        shapes = [tuple(tensor.shape) for tensor in operation.inputs if tensor.shape.rank is not None]
        if operation.type == "Einsum":
            terms = operation.get_attr("equation").decode().split("->")[0].split(",")
            total += math.prod(dict(zip("".join(terms), itertools.chain(*shapes))).values())
        elif operation.type in ("MatMul", "BatchMatMulV2"):
            transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
            total += math.prod(operation.outputs[0].shape) * shapes[0][-2 if transposed else -1]
        elif operation.type == "Conv2D":
            total += math.prod(operation.outputs[0].shape) * math.prod(shapes[1][:3])
    return total


def test_multiply_accumulates_are_those_of_the_products_in_the_program(specs):
    autoformer, pit = specs
    # The depth-wise products are no matrix products here: 9 taps, 5 x 5 tokens before, 3 x 3 and 2 x 2 behind.
    depth_wise = 9 * (3 * 3 * 8 + 2 * 2 * 16)
    for spec, width, besides in ((autoformer, 24, 0), (pit, 16, depth_wise)):
        network = spec.build(48, 7, seed=0)
        program = tf.function(network.call, autograph=False).get_concrete_function(tf.TensorSpec((1, 48, 48, 3)))
        assert products(program.graph) + besides == spec.macs(48) + 7 * width


def test_every_measure_is_taken(specs):
    settings = ScoringSettings(image_size=(32, 32), repeats=1, points=4, seed=1)
    images = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
    battery = Battery(settings, images, tuple(PROXIES))
    for spec in specs:
        scores = [
            battery.measure(lambda spec=spec: spec.build(32, 7, 0), lambda seed=seed: np.random.default_rng(seed))
            for seed in (5, 5, 6)
        ]
        assert list(scores[0].measures) == [*measure_names(), *PROXIES]
        undefined = [name for name, value in scores[0].measures.items() if value is None]
        assert not undefined, scores[0].reasons
        assert scores[0].measures == scores[1].measures != scores[2].measures


def test_norms_off_and_on_and_what_blocks_name(specs):
    images = tf.random.stateless_normal((3, 32, 32, 3), (0, 0))
    for spec in specs:
        network = spec.build(32, 7, seed=0)
        network.draw_stem(np.random.default_rng(0))
        network.draw_linear(np.random.default_rng(1), "lecun")
        on, off = (network.features(images, name).numpy() for name in ("layer", "identity"))
        assert np.abs(on - off).max() > 1e-3
        seen = network.network()
        trace = seen.call(images)
        assert list(trace.outputs)[:2] == ["block_0_0.attention", "block_0_0.ffn"]
        assert len(trace.outputs) == len(trace.entries) == 2 * len(trace.gates) == 2 * spec.depth
        np.testing.assert_allclose(trace.features, network.traced(images).features)
        assert sum(kernel.role == FFN for kernel in seen.kernels) == 2 * spec.depth
        known = {v.ref() for v in [*seen.variables, *seen.others]} - {seen.head.ref()}
        assert known == {v.ref() for v in network.trainable_variables} - {v.ref() for v in network.head.variables}


def test_the_pooling_is_a_depth_wise_convolution(networks):
    pooling = networks._Pooling(6, seed=0)
    grid, token = tf.random.stateless_normal((2, 5, 4, 3), (1, 2)), tf.random.stateless_normal((2, 1, 3), (3, 4))
    pooled, mapped = pooling(grid, token)
    # Output channels 2 c and 2 c + 1 see input channel c, as groups do.
    kernel = tf.reshape(pooling.kernel, (3, 3, 3, 2))
    padded = tf.pad(grid, [(0, 0), (1, 1), (1, 1), (0, 0)])
    expected = tf.nn.depthwise_conv2d(padded, kernel, (1, 2, 2, 1), "VALID") + pooling.bias
    np.testing.assert_allclose(pooled, expected, atol=1e-5)
    assert pooled.shape == (2, 3, 2, 6)
    assert mapped.shape == (2, 1, 6)
