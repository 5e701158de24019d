"""The measures of the study by name, and which way is better. No TensorFlow."""

from __future__ import annotations

from asvit_tf.choices import (
    CIRCLE_MEASURES,
    DIRECTIONS,
    INITIALIZATIONS,
    NORMALIZATIONS,
    NTK_MEASURES,
    PROXIES,
)

_SPELLED = {"dss": "DSS", "synflow": "SynFlow", "snip": "SNIP", "zico": "ZiCo", "naswot": "NASWOT", "l swag": "L-SWAG"}
RANK_SUM = "rank_sum"
SIZES = "regression_on_the_sizes"  # What a combination of measures is judged against, besides.
# What the rank sum of search and growth adds up: length distortion with norms off, NTK with norms on.
SEARCHED_VARIANTS = ("length_distortion:released:identity", "ntk_condition_number:released:layer")


def name_of(measure: str, initialization: str, normalization: str) -> str:
    """The name of a measure in one variant."""
    return f"{measure}:{initialization}:{normalization}"


def measure_names(measures: tuple[str, ...] = (*CIRCLE_MEASURES, *NTK_MEASURES)) -> list[str]:
    """All variants of all measures, in the order of the table."""
    return [name_of(m, scheme, norms) for m in measures for scheme in INITIALIZATIONS for norms in NORMALIZATIONS]


def column_names() -> list[str]:
    """What a study measures: these, and the published measures, which have one variant each."""
    return [*measure_names(), *PROXIES]


def direction(name: str) -> int:
    """+1 if larger is better, -1 if smaller is."""
    if name == RANK_SUM:
        return -1
    return DIRECTIONS[name.split(":")[0]]


def in_words(name: str) -> str:
    """A name as a person reads it."""
    measure, *variant = name.replace("_", " ").split(":")
    measure = measure.replace("ntk", "NTK").replace("macs", "MACs")
    measure = _SPELLED.get(measure, measure)
    if not variant:
        return measure
    weights, norms = variant
    return f"{measure}, {weights.replace('lecun', 'LeCun')}, norms {'off' if norms == 'identity' else 'on'}"
