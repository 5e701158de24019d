"""Synthetic scenes: exact boxes and masks, the same for the same seed, in COCO's layout."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_tools
from pycocotools.coco import COCO

from asvit_tf import UserError, cli
from asvit_tf.dataloaders import shapes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shapes") / "scenes"
    shapes.write(directory, train=6, validation=3, seed=5)
    return directory


def test_every_split_is_what_coco_reads(scenes, capsys):
    for split, count in (("train", 6), ("validation", 3)):
        coco = COCO(scenes / "annotations" / f"instances_{split}.json")
        assert len(coco.imgs) == count
        assert {category["name"] for category in coco.cats.values()} == set(shapes.CLASSES)
        for image in coco.imgs.values():
            pixels = np.asarray(Image.open(scenes / split / image["file_name"]))
            assert pixels.shape == (image["height"], image["width"], 3) == (128, 128, 3)
        for annotation in coco.anns.values():
            mask = coco.annToMask(annotation)
            rle = mask_tools.encode(np.asfortranarray(mask))
            assert annotation["area"] == mask.sum() == mask_tools.area(rle)
            assert annotation["bbox"] == mask_tools.toBbox(rle).tolist()


def test_masks_are_the_visible_parts_in_the_colours_of_the_shapes():
    shares = []
    for seed in range(20):
        scene = shapes.draw(np.random.default_rng(seed), 128, 6, (18, 56))
        assert scene.masks.sum(0).max() == 1  # What lies below is not visible.
        for mask in scene.masks:
            inside = scene.image[mask].astype(float)
            assert inside.std(axis=0).max() < 8  # One colour and the noise; no part of another shape.
        labels = np.array(scene.labels)
        disc = scene.masks[labels == 0].sum((1, 2)) / [
            np.prod(mask_tools.toBbox(mask_tools.encode(np.asfortranarray(mask)))[2:])
            for mask in scene.masks[labels == 0]
        ]
        shares += disc.tolist()
    assert np.median(shares) == pytest.approx(np.pi / 4, abs=0.05)  # Circles are circles.


def test_the_seed_decides_everything(scenes, tmp_path):
    for seed, same in ((5, True), (6, False)):
        other = tmp_path / str(seed)
        shapes.write(other, train=6, validation=3, seed=seed)
        files = sorted(path.relative_to(scenes) for path in scenes.rglob("*.*"))
        equal = [
            (other / file).exists() and (scenes / file).read_bytes() == (other / file).read_bytes() for file in files
        ]
        assert all(equal) == same
        assert any(equal) == same


def test_splits_do_not_share_scenes(scenes):
    images = [path.read_bytes() for split in ("train", "validation") for path in (scenes / split).iterdir()]
    assert len(set(images)) == len(images) == 9


def test_the_command(tmp_path, capsys):
    arguments = ["shapes", "--output", str(tmp_path / "scenes"), "--train", "1", "--validation", "1"]
    assert cli.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train"] == 1
    assert cli.main(arguments) == 2
    assert "exists; choose another directory" in capsys.readouterr().err
    with pytest.raises(UserError, match="both must be at least 1"):
        shapes.write(tmp_path / "none", validation=0)
    assert not (tmp_path / "none").exists()
