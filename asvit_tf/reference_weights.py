"""Weights of the released implementation; see `asvit_tf.modeling.reference_weights`."""

from asvit_tf.modeling.reference_weights import Classifier, build_classifier, load, ntk_variables, pooled_features

__all__ = ["Classifier", "build_classifier", "load", "ntk_variables", "pooled_features"]
