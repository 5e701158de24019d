"""Anchors: overlaps by hand, sides against the Model Garden's own, choices for boxes that are known."""

import numpy as np
import pytest

from search.dense import anchors, sizes
from search.dense.anchors import Anchors


def test_the_best_overlap_by_hand():
    boxes = np.array([[10.0, 20.0], [8.0, 8.0]])
    # 10 x 20 with 10 x 10: 100 / 200. 8 x 8 with 10 x 10: 64 / 100; with 4 x 16: 32 / 96.
    np.testing.assert_allclose(anchors.best_iou(boxes, np.array([[10.0, 10.0], [4.0, 16.0]])), [0.5, 0.64])


def test_sides_are_those_of_the_model_garden():
    from official.vision.ops import anchor

    fitted = Anchors(3, 4, 2, 2.5, (0.5, 1.0, 3.0))
    theirs = anchor.Anchor(3, 4, 2, [0.5, 1.0, 3.0], 2.5, [64, 64]).multilevel_boxes
    found = []
    for level in ("3", "4"):
        first = theirs[level].numpy().reshape(-1, 4)[: fitted.per_place]
        found += [(bottom - top, right - left) for top, left, bottom, right in first]
    np.testing.assert_allclose(fitted.sides, found, rtol=1e-5)


def test_clusters_find_what_the_boxes_were_drawn_from():
    generator = np.random.default_rng(0)
    drawn = [
        np.array(centre) * np.exp(generator.normal(0, 0.01, (n, 2))) for centre, n in (((8, 8), 30), ((60, 30), 10))
    ]
    found = anchors.clusters(np.concatenate(drawn), seed=1)
    assert found[:, 2].sum() == pytest.approx(1)
    small = found[found[:, 0] < 20]
    assert small[:, 2].sum() == pytest.approx(0.75)
    np.testing.assert_allclose(np.average(small[:, :2], axis=0, weights=small[:, 2]), [8, 8], rtol=0.02)
    assert (np.diff(found[:, 0] * found[:, 1]) >= 0).all()


def test_one_kind_of_box_needs_one_cluster_and_one_ratio():
    found = anchors.clusters(np.full((5, 2), [10.0, 20.0]), seed=1)
    np.testing.assert_allclose(found, [[10, 20, 1]])
    assert anchors.ratios(found) == (2.0,)


def test_boxes_of_different_shapes_get_three_ratios():
    centres = np.array([[10.0, 40.0, 0.5], [40.0, 10.0, 0.5]])
    assert anchors.ratios(centres) == (0.25, 1.0, 4.0)
    poles = anchors.ratios(np.array([[900.0, 2.0, 1.0]]))
    assert poles == (0.00222,)
    assert np.isfinite(anchors.Anchors(3, 5, 1, 2.0, poles).sides).all()


@pytest.mark.parametrize("side", [20.0, 70.0, 150.0])
def test_anchors_have_the_size_of_the_boxes(side):
    boxes = np.full((50, 2), side) * np.random.default_rng(0).uniform(0.9, 1.1, (50, 1))
    fitted = anchors.fit(boxes, [(3, 5), (3, 6)], seed=0)
    assert fitted.recall == 1.0
    assert fitted.mean_iou > 0.8
    assert fitted.aspect_ratios == (1.0,)
    assert fitted.mean_iou == pytest.approx(anchors.best_iou(boxes, fitted.sides).mean())


def test_fewer_anchors_where_they_do_as_well():
    # Boxes of exactly one anchor's size: more scales add nothing.
    fitted = anchors.fit(np.full((9, 2), 32.0), [(3, 5)], seed=0)
    assert (fitted.num_scales, fitted.mean_iou) == (1, 1.0)


@pytest.mark.parametrize(
    ("height", "width", "most", "expected"),
    [
        (480, 640, 256 * 320, (256, 320)),
        (640, 480, 256 * 320, (320, 256)),
        (100, 100, 256 * 320, (96, 96)),  # Never enlarged.
        (5000, 5000, 256 * 320, (256, 256)),
        (20, 3000, 256 * 320, (32, 2560)),
    ],
)
def test_the_input_has_the_shape_of_the_images(height, width, most, expected):
    found = sizes.input_size(np.array([[height, width]] * 3), most)
    assert found == expected
    assert found[0] * found[1] <= most


def test_small_boxes_get_a_finer_level():
    assert sizes.levels((256, 320), np.full((10, 2), 40.0), False) == [(3, 5), (3, 6)]
    assert sizes.levels((256, 320), np.full((10, 2), 8.0), False) == [(2, 5), (2, 6)]
    assert sizes.levels((256, 320), np.full((10, 2), 40.0), True) == [(2, 5), (2, 6)]
    assert sizes.levels((640, 640), np.full((10, 2), 40.0), False) == [(3, 5), (3, 6), (3, 7)]
    assert sizes.levels((32, 2560), np.full((10, 2), 40.0), False) == [(3, 5)]


@pytest.mark.parametrize(("examples", "epochs"), [(1, 300), (292, 83), (2000, 12), (118_287, 12)])
def test_epochs(examples, epochs):
    assert sizes.epochs(examples) == epochs


@pytest.mark.parametrize(("batch", "rate"), [(8, 1e-3), (2, 5e-4), (32, 2e-3)])
def test_the_learning_rate_goes_with_the_root_of_the_batch(batch, rate):
    assert sizes.learning_rate(batch) == pytest.approx(rate)
