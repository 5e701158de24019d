"""The search space: the published one, and the part of it that fits an image size; growth within it."""

import numpy as np
import pytest
from search_helpers import fake_scorer

from asvit_tf import Topology, UserError
from asvit_tf.design import counting, grids
from search.strategy import growth, loop, space
from search.strategy.limits import Limits
from search.strategy.settings import LEAST_HEAD_DIM, GrowthSettings, SearchSettings
from search.strategy.space import PUBLISHED

SEED = Topology.named("seed")


def test_the_space_has_the_released_size_and_contains_the_published_seed():
    assert PUBLISHED.size == 4_556_250
    assert PUBLISHED.topology_at(PUBLISHED.indices_of(SEED)) == SEED
    generator = np.random.default_rng(0)
    for _ in range(50):
        indices = tuple(int(generator.integers(len(options))) for options in PUBLISHED.choices.values())
        assert PUBLISHED.indices_of(PUBLISHED.topology_at(indices)) == indices


def test_a_topology_outside_the_space_is_refused():
    with pytest.raises(UserError, match=r"kernel_size_1 of .* is 9; the search space allows \(4, 5, 6, 7, 8\)"):
        PUBLISHED.indices_of(Topology.parse("9,2,3|4,1,2|4,1,4|4,1,6|32"))


@pytest.mark.parametrize(
    ("image_size", "splits", "size"),
    [
        ((224, 224), [(2, 4, 8), (1, 2, 4), (1, 2), (1,)], 4_556_250),
        ((160, 224), [(2, 4, 8), (1, 2, 4), (1, 2), (1,)], 4_556_250),
        ((48, 48), [(2, 4, 8), (1, 2, 4), (1, 2), (1,)], 4_556_250),  # 24, 12, 6 and 3 tokens a side.
        ((32, 32), [(2, 4), (1, 2), (1,), (1,)], 4_556_250 * 2 // 9),  # 16, 8, 4 and 2.
        ((8, 8), [(2,), (1,), (1,), (1,)], 4_556_250 // 18),
        ((4, 4), [(1,), (1,), (1,), (1,)], 4_556_250 // 18),
    ],
)
def test_splits_that_leave_no_windows_worth_the_name_are_left_out(image_size, splits, size):
    fitting = space.fitting(image_size, grids.base_stride(image_size))
    assert [fitting.choices[f"splits_{number}"] for number in range(1, 5)] == splits
    assert fitting.size == size
    for indices in ([0] * 13, [-1] * 13):
        topology = fitting.topology_at(indices)
        assert fitting.topology_at(fitting.indices_of(topology)) == topology


@pytest.mark.parametrize(
    ("image_size", "base_stride", "share"),
    [
        ((224, 224), 4, 0.0),
        # 8, 4, 2 and 1 tokens a side: splits of 8, of 4, and of 2 leave single ones.
        ((32, 32), 4, 1 - (2 / 3) * (2 / 3) * (1 / 2)),
        ((32, 32), 2, 0.0),  # 16, 8, 4 and 2: the least windows have four tokens.
    ],
)
def test_single_tokens_are_counted_by_hand(image_size, base_stride, share):
    assert space.single_token_share(space.PUBLISHED, image_size, base_stride) == pytest.approx(share)
    assert space.single_token_share(space.fitting(image_size, base_stride), image_size, base_stride) == 0


def test_heads_that_would_be_too_narrow_are_left_out():
    heads = {width: space.fitting((224, 224), width=width, least_head_dim=8).choices["num_heads"] for width in (16, 48)}
    assert heads == {16: (16,), 48: (16, 32)}
    with pytest.raises(UserError, match="width is 14; heads of 8 channels need at least 16"):
        space.fitting((224, 224), width=14, least_head_dim=8)


SIZES = [(32, 32), (48, 48), (64, 64), (96, 96), (128, 128), (160, 224), (224, 224)]


@pytest.mark.parametrize("image_size", SIZES, ids=str)
def test_what_a_run_finds_and_grows_fits_its_images(image_size, tmp_path):
    """Twenty searches with growth each, under a score that means nothing."""
    stride = grids.base_stride(image_size)
    for seed in range(20):
        width = (16, 32, 64)[seed % 3]
        limits = Limits(6_000_000, None, image_size, 10, stride)
        fitting = space.fitting(image_size, stride, width, LEAST_HEAD_DIM)
        paths = [tmp_path / f"{step}_{seed}" for step in ("search", "grow")]
        for path in paths:
            path.mkdir()
        found = loop.search(paths[0], SearchSettings(total_steps=2, seed=seed), fake_scorer, limits, fitting)
        first = Topology.parse(found["topology"])
        options = GrowthSettings(width, proxy_divisor=2, stop_parameters=4_000_000)
        for member in growth.grow(paths[1], first, options, fake_scorer, limits)["family"]:
            topology = Topology.parse(member["topology"])
            assert topology.width >= first.width
            assert min(topology.head_dims) >= 8
            for stage in counting.count(topology, image_size, 10, base_stride=stride).stages:
                assert stage.window == stage.token_grid or np.prod(stage.window) >= 9


def test_limits_count_imagenet_unless_told():
    assert Limits().count(SEED) == counting.count(SEED, (224, 224), num_classes=1000)


def test_growth_starts_as_wide_as_its_heads_need():
    narrow = Topology.parse("8,2,3|4,1,2|4,1,4|4,1,6|64,32")
    assert GrowthSettings(32).start(narrow).width == 64
    assert GrowthSettings(32).start(SEED).width == 32  # The published path.
    assert min(GrowthSettings(32).start(SEED).head_dims) == 8
