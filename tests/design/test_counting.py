"""Counted multiply-accumulates against those of traced programs; published and released counts are in test_topology."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from asvit_tf import AsViT, Tokenization, Topology
from asvit_tf.design import counting


def graph_macs(function):
    """Multiply-accumulates of every convolution and matrix product in a traced program, from its shapes."""
    total = 0
    for op in function.graph.get_operations():
        output = op.outputs[0].shape.as_list() if op.outputs else []
        if op.type == "Conv2D":
            total += np.prod(output) * np.prod(op.inputs[1].shape.as_list()[:3])
        elif op.type in ("MatMul", "BatchMatMulV2"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            total += np.prod(output) * op.inputs[0].shape.as_list()[-2 if transposed else -1]
        elif op.type == "Einsum" and op.get_attr("equation") in (b"bwtc,cd->bwtd", b"bwtd,dc->bwtc"):
            # Linear maps of tokens. Others resize the position embedding, whatever the images.
            total += np.prod(output) * op.inputs[0].shape.as_list()[-1]
    return int(total)


@pytest.mark.parametrize("image_size", [(32, 32), (40, 27)])
@pytest.mark.parametrize("window", ["split", "fixed"])
def test_counted_macs_are_those_of_the_traced_program(image_size, window):
    topology = Topology.parse("5,4,3,2|3,2,2|2,2,2|3,1,4|16,12")
    backbone = AsViT(topology, tf_keras.layers.InputSpec(shape=[None, *image_size, 3]), window=window)
    seen = []
    for tokenization in (Tokenization(16, 5), Tokenization(8, 2), Tokenization(4, 1)):
        backbone.set_tokenization(tokenization)
        function = tf.function(backbone).get_concrete_function(tf.TensorSpec((1, *image_size, 3)))
        counted = counting.count(
            topology, image_size, 10, stride=tokenization.stride, representation=False, window=window
        )
        assert graph_macs(function) == counted.macs - topology.widths[-1] * 10
        seen.append(counted.macs)
    assert seen[0] < seen[1] < seen[2]
