import pytest
from helpers import COUNTS, MALFORMED

from asvit_tf import Topology, UserError
from asvit_tf.design import counting
from asvit_tf.design.topology import NAMED

PUBLISHED = {"small": 29.0e6, "base": 52.6e6, "large": 88.1e6}


@pytest.mark.parametrize(
    "text", [*NAMED.values(), *(row["topology"] for row in COUNTS), "7,64,9,3|1,3,2|2,2,2|3,1,1|8,1"]
)
def test_parse_is_the_inverse_of_str(text):
    topology = Topology.parse(text)
    assert Topology.parse(str(topology)) == topology
    assert str(Topology.parse(str(topology))) == str(topology)


def test_defaults_are_one_block_and_width_32():
    assert str(Topology.named("seed")) == "8,2,3,1|4,1,2,1|4,1,4,1|4,1,6,1|32,32"


def test_shapes_of_small_by_hand():
    small = Topology.named("small")
    assert small.widths == (88, 176, 352, 704)
    assert small.heads == (4, 8, 16, 32)
    assert small.head_dims == (22, 22, 22, 22)
    assert small.fixed_window_edges() == (28, 28, 14, 7)
    assert Topology.parse("8,2,3|4,1,2|4,1,4|4,1,6|32,180").widths == (180, 360, 720, 1024)


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_is_refused_in_one_line(text):
    with pytest.raises(UserError) as caught:
        Topology.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", COUNTS, ids=lambda row: row["topology"])
def test_counts_equal_the_released_ones(row):
    topology = Topology.parse(row["topology"])
    with_embedding = counting.count(topology)
    without = counting.count(topology, position_embedding=False)
    assert with_embedding.parameters == row["params_with_position_embedding"]
    assert without.parameters == row["params_without_position_embedding"]
    assert with_embedding.macs == without.macs == row["macs_matmul_and_conv"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_sizes_are_the_published_ones(name):
    assert abs(counting.count(Topology.named(name)).parameters - PUBLISHED[name]) < 0.06e6


def test_fixed_windows_cost_linearly_in_tokens_and_splits_do_not():
    large = Topology.named("large")
    at_224 = counting.count(large).macs
    fixed = counting.count(large, (1024, 1024), window="fixed").macs
    split = counting.count(large, (1024, 1024)).macs
    assert fixed / at_224 == pytest.approx((1024 / 224) ** 2, rel=0.1)
    assert split > 2000e9 > 4 * fixed
    assert counting.count(large, window="fixed").macs == at_224


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": (0, 224)}, "image size"),
        ({"num_classes": 0}, "num_classes"),
        ({"window": "round"}, "window"),
    ],
)
def test_bad_counting_options_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        counting.count(Topology.named("seed"), **arguments)
