"""The empirical neural tangent kernel; see `asvit_tf.measures.ntk`."""

from asvit_tf.measures.ntk import compile_gram, condition_number, condition_number_or_reason, effective_rank, gram

__all__ = ["compile_gram", "condition_number", "condition_number_or_reason", "effective_rank", "gram"]
