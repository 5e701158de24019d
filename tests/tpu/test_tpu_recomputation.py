"""What is computed again for the gradient is computed twice by the TPU's compiler, too, and not kept."""

import pytest
import tensorflow as tf

from asvit_tf.modeling import blocks
from asvit_tf.tpu import compiler as tpu_compiler

WIDTH, RATIO, TOKENS = 128, 4, 4 * 256


def compiled(recomputed):
    """Two blocks, forward and backward."""
    stage = blocks.Stage([blocks.Block(WIDTH, 1, WIDTH, RATIO, seed=1, recomputed=recomputed) for _ in range(2)], 1)
    images = tf.zeros((4, 16, 16, WIDTH))
    stage(images)

    def step(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(stage(images, training=True)))
        return tape.gradient(loss, stage.trainable_variables)

    lowered = tf.function(step, jit_compile=True, autograph=False).experimental_get_compiler_ir(images)
    program = tpu_compiler._compile(tpu_compiler.cleaned(lowered(stage="stablehlo")), "v5e:2x2")
    assert program.compiles, program.message
    return program


def test_blocks_are_computed_again_for_a_tpu():
    pytest.importorskip("libtpu")
    kept, again = (compiled(recomputed) for recomputed in (False, True))
    # Queries, keys, values, scores, values mixed, their projection, the wide layer of the FFN, and maybe the output.
    inside = 2 * 2 * TOKENS * WIDTH * (3 * WIDTH + 2 * 256 + WIDTH + RATIO * WIDTH)
    assert again.flops - kept.flops > 0.9 * inside
