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


CPU, GPU = sizes.MOST_PIXELS["cpu"], sizes.MOST_PIXELS["gpu"]


@pytest.mark.parametrize(
    ("height", "width", "most", "expected"),
    [
        (480, 640, CPU, (256, 320)),
        (640, 480, CPU, (320, 256)),
        (240, 320, CPU, (256, 320)),  # Rows of padding, and no smaller image.
        (100, 100, CPU, (96, 96)),
        (5000, 5000, CPU, (256, 256)),
        (20, 3000, CPU, (32, 2560)),
        (20, 20, CPU, (32, 32)),
        (480, 640, GPU, (512, 640)),
        (1080, 1920, GPU, (448, 832)),
        (3000, 4000, GPU, (576, 704)),
        (640, 640, GPU, (640, 640)),
    ],
)
def test_the_input_has_the_shape_of_the_images(height, width, most, expected):
    found = sizes.input_size(np.array([[height, width]] * 3), most)
    assert found == expected
    assert found[0] * found[1] <= most
    assert min(found[0] / height, found[1] / width) <= 1 or found == (32, 32)  # Never enlarged.


@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (3000, 4000), (768, 1024), (600, 800)])
@pytest.mark.parametrize("is_two_stage", [False, True])
def test_objects_as_large_as_the_picture_have_anchors(shape, is_two_stage):
    size = sizes.input_size(np.array([shape] * 3), GPU)
    shares = np.random.default_rng(0).uniform(0.5, 0.98, (400, 2))
    boxes = shares * np.array(shape) * min(size[0] / shape[0], size[1] / shape[1])
    fitted = anchors.fit(boxes, sizes.levels(size, boxes, is_two_stage), 0, (1,) if is_two_stage else (1, 2, 3))
    assert fitted.recall > 0.9


def test_stored_photographs_have_twice_the_sides_of_the_input():
    assert sizes.stored_pixels(None, "cpu") == 512 * 640
    assert sizes.stored_pixels(None, "gpu") == 1280 * 1280
    assert sizes.stored_pixels((64, 96), "gpu") == 128 * 192


def test_small_boxes_get_a_finer_level():
    assert sizes.levels((256, 320), np.full((10, 2), 40.0), False) == [(3, 5), (3, 6)]
    assert sizes.levels((256, 320), np.full((10, 2), 8.0), False) == [(2, 5), (2, 6)]
    assert sizes.levels((256, 320), np.full((10, 2), 40.0), True) == [(2, 5), (2, 6)]
    assert sizes.levels((640, 640), np.full((10, 2), 40.0), False) == [(3, 5), (3, 6), (3, 7)]
    assert sizes.levels((32, 2560), np.full((10, 2), 40.0), False) == [(3, 5)]


@pytest.mark.parametrize(
    ("examples", "batch", "epochs"),
    [(1, 1, 1000), (10, 2, 300), (15, 3, 300), (40, 8, 300), (292, 8, 83), (2000, 8, 12), (118_287, 8, 12)],
)
def test_epochs(examples, batch, epochs):
    assert sizes.batch_size((256, 320), "cpu", examples) == batch
    assert sizes.epochs(examples, batch) == epochs
    assert epochs * (examples // batch) >= 1000


@pytest.mark.parametrize(("epoch", "expected"), [(36, (1, 36)), (500, (1, 500)), (501, (2, 251)), (14_785, (30, 493))])
def test_long_epochs_are_divided(epoch, expected):
    assert sizes.loops(epoch) == expected


@pytest.mark.parametrize(
    ("images", "shape", "expected"),
    [(100, (360, 480), 8), (3, (360, 480), 3), (100, (3000, 4000), 1), (9, (1, 2**25), 1)],
)
def test_few_pictures_are_evaluated_at_once_at_a_large_size(images, shape, expected):
    assert sizes.evaluated_at_once(images, *shape) == expected


@pytest.mark.parametrize(("batch", "rate"), [(8, 1e-3), (2, 5e-4), (32, 2e-3)])
def test_the_learning_rate_goes_with_the_root_of_the_batch(batch, rate):
    assert sizes.learning_rate(batch) == pytest.approx(rate)


def test_rare_classes_weigh_more_by_the_root_of_their_share():
    pixels = [8100, 0, 900, 100]
    weights = np.array(sizes.class_weights(pixels))
    assert weights[2] / weights[0] == pytest.approx(3, rel=0.01)
    assert weights[3] / weights[0] == pytest.approx(9, rel=0.01)
    assert np.average(weights, weights=pixels) == pytest.approx(1, rel=0.01)
    assert weights[1] == 1
    assert sizes.class_weights([10**9, 1])[1] == 20
