"""The measures of the study by name, and which way is better. No TensorFlow."""

from __future__ import annotations

CIRCLE = (
    *("length_distortion", "curvature", "length_distortion_with_curvature"),
    *("turning_number", "nonlinearity", "axis_ratio"),
)
KERNEL = ("ntk_condition_number", "ntk_trace", "ntk_effective_rank")
SCHEMES = ("released", "lecun")
NORMALIZATIONS = ("identity", "layer")

# +1: larger is better, -1: smaller is, as search and growth have it; of the rest, which no search uses, what one would
# guess: more turning, rounder, larger gradients, more images told apart, a larger network.
_BETTER = {
    "length_distortion": 1,
    "curvature": -1,
    "length_distortion_with_curvature": 1,
    "turning_number": 1,
    "nonlinearity": 1,
    "axis_ratio": 1,
    "ntk_condition_number": -1,
    "ntk_trace": 1,
    "ntk_effective_rank": 1,
}
BASELINES = ("parameters", "macs", "product_of_kernel_sizes")
RANK_SUM = "rank_sum"
SIZES = "regression_on_the_sizes"  # What a combination of measures is judged against, besides.
# What the rank sum of search and growth adds up: length distortion with norms off, NTK with norms on.
SEARCHED = ("length_distortion:released:identity", "ntk_condition_number:released:layer")


def name_of(measure: str, initialization: str, normalization: str) -> str:
    """The name of a measure in one variant."""
    return f"{measure}:{initialization}:{normalization}"


def measure_names(measures: tuple[str, ...] = (*CIRCLE, *KERNEL)) -> list[str]:
    """All variants of all measures, in the order of the table."""
    return [name_of(m, scheme, norms) for m in measures for scheme in SCHEMES for norms in NORMALIZATIONS]


def direction(name: str) -> int:
    """+1 if larger is better, -1 if smaller is."""
    if name == RANK_SUM:
        return -1
    return 1 if name in BASELINES else _BETTER[name.split(":")[0]]


def in_words(name: str) -> str:
    """A name as a person reads it."""
    measure, *variant = name.replace("_", " ").split(":")
    measure = measure.replace("ntk", "NTK").replace("macs", "MACs")
    if not variant:
        return measure
    weights, norms = variant
    return f"{measure}, {weights.replace('lecun', 'LeCun')}, norms {'off' if norms == 'identity' else 'on'}"
