"""Every list of options and measures, once. No TensorFlow."""

from __future__ import annotations

# Options of the backbone and of the measures.
NORMALIZATIONS = ("identity", "layer")  # "identity" replaces every norm.
WINDOWS = ("split", "fixed")
AUTO, WHOLE = "auto", "whole"
ATTENTIONS = (AUTO, WHOLE, "chunked")
RECOMPUTED = ("none", "blocks")
INITIALIZATIONS = RELEASED, LECUN = ("released", "lecun")  # Of linear maps: deviation 0.02, or by the fan-in.
BACKBONE = {  # Of its fields.
    "window": WINDOWS,
    "attention": ATTENTIONS,
    "recompute": RECOMPUTED,
    "initialization": INITIALIZATIONS,
}
RADII = ("sqrt_n", "unit")
ENGINES = ("jet", "accumulator", "tape")

# Data sets that need no folder; measures also take noise, which has no labels.
EMBEDDED = ("digits", "cluttered_digits")
SEARCH_STRATEGIES = ("reinforce", "evolution", "random")
SPACES = FITTING, PUBLISHED = ("fitting", "published")  # What a study samples.
EMBEDDED_IMAGES = (*EMBEDDED, "noise")

# Options of training and export.
RECIPES = {"digits": "digits_asvit_i32_cpu.yaml", "photographs": "photographs_asvit_cpu.yaml"}  # Of official_configs.
MODES = ("train", "eval", "train_and_eval", "train_and_post_eval", "continuous_eval")
STRATEGIES = ("tpu", "mirrored", "multi_worker_mirrored", "one_device")
INPUT_TYPES = ("image_bytes", "image_tensor", "tf_example")
TFLITE_TYPES = ("fp32", "fp16", "int8")
HARDWARE = ("auto", "cpu", "gpu", "tpu")

# Measures of the image of a circle, and of the neural tangent kernel.
SHAPE_MEASURES = ("nonlinearity", "axis_ratio")
CIRCLE_MEASURES = (
    *("length_distortion", "curvature", "length_distortion_with_curvature", "turning_number"),
    *SHAPE_MEASURES,
)
NTK_MEASURES = ("ntk_condition_number", "ntk_trace", "ntk_effective_rank")
# Measures that others published, one file each in asvit_tf/measures/proxies/, and which way is better, as published.
PROXIES = {
    "expressivity": 1,
    "progressivity": 1,
    "trainability": 1,
    "dss": 1,
    "synflow": 1,
    "gradient_norm": 1,
    "snip": 1,
    "zico": 1,
    "naswot": 1,
    "l_swag": 1,
}
PREDICTED = "predicted_accuracy"  # By a study's regression on the others.
# Sizes: what a measure has to beat.
SIZE_MEASURES = ("parameters", "macs", "product_of_kernel_sizes")

# +1: larger is better; -1: smaller is. The signs of the first three are those of their published correlation with
# accuracy (0.49, -0.49, and -0.01, which decides nothing: more turning counts as better). No search uses the others of
# the circle and the NTK, nor sizes; their directions are guesses: more turning, rounder, larger gradients, more images
# told apart, a larger network.
DIRECTIONS = {
    "length_distortion": 1,
    "curvature": -1,
    "length_distortion_with_curvature": 1,
    "turning_number": 1,
    "nonlinearity": 1,
    "axis_ratio": 1,
    "ntk_condition_number": -1,
    "ntk_trace": 1,
    "ntk_effective_rank": 1,
    PREDICTED: 1,
    **PROXIES,
    **dict.fromkeys(SIZE_MEASURES, 1),
}
# What searches and growth may rank by, and what they rank by unless told otherwise.
RELEASED_MEASURES = ("length_distortion", "curvature", "length_distortion_with_curvature", "ntk_condition_number")
RANKABLE = (*RELEASED_MEASURES, *PROXIES, PREDICTED)
SEARCHED = ("length_distortion", "ntk_condition_number")
