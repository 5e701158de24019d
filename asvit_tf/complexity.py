"""Length distortion and curvature; see `asvit_tf.measures.complexity`."""

from asvit_tf.measures.complexity import (
    Circle,
    Complexity,
    compile_measure,
    in_words,
    integrate,
    is_linear,
    measure,
    turning_number,
)

__all__ = ["Circle", "Complexity", "compile_measure", "in_words", "integrate", "is_linear", "measure", "turning_number"]
