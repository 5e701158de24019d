"""Images and label pictures brought together: by name, in the layouts of known data sets, and dealt out to splits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asvit_tf.dataloaders.labels import pairs
from asvit_tf.dataloaders.labels.pairs import Naming
from asvit_tf.errors import UserError


def files(root, *names):
    """Pictures, no two with the same bytes."""
    for place, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (place % 256, place // 256, len(str(root)))).save(path)
    return root


def found(tmp_path, naming=Naming(), images="images", masks="masks"):
    """Names of images and label pictures by split, and the rest."""
    result = pairs.find(tmp_path / images, tmp_path / masks, naming)
    by_split = {
        split: sorted((pair.name, str(pair.mask.relative_to(tmp_path / masks))) for pair in its)
        for split, its in result.splits.items()
    }
    return by_split, result


def together(by_split):
    return sorted(pair for its in by_split.values() for pair in its)


def test_cityscapes(tmp_path):
    cities = {"train": ("aachen", "bochum"), "val": ("lindau",), "test": ("berlin",)}
    for split, its in cities.items():
        for city in its:
            files(tmp_path / "leftImg8bit" / split / city, f"{city}_0_leftImg8bit.png", f"{city}_1_leftImg8bit.png")
            kinds = ("color", "instanceIds", "labelIds")
            names = [f"{city}_{i}_gtFine_{kind}.png" for i in range(2) for kind in kinds]
            files(tmp_path / "gtFine" / split / city, *names)
    naming = Naming(image_suffix="_leftImg8bit", mask_suffix="_gtFine_labelIds")
    by_split, result = found(tmp_path, naming, "leftImg8bit", "gtFine")
    expected = {
        dict(train="train", val="validation", test="test")[split]: [
            (f"{split}/{city}/{city}_{i}_leftImg8bit.png", f"{split}/{city}/{city}_{i}_gtFine_labelIds.png")
            for city in its
            for i in range(2)
        ]
        for split, its in cities.items()
    }
    assert by_split == expected
    assert list(by_split) == ["train", "validation", "test"]
    assert result.masks_without_image == 0
    assert result.skipped.others == {"label pictures of another ending": 16}
    with pytest.raises(UserError, match=r"no image of .* is called like a label picture .*lin_0_leftImg8bit.png"):
        found(tmp_path, Naming(), "leftImg8bit", "gtFine")
    with pytest.raises(UserError, match="holds no images whose names end with _right"):
        found(tmp_path, Naming("_right"), "leftImg8bit", "gtFine")


def test_voc_with_lists(tmp_path):
    files(tmp_path / "JPEGImages", *(f"2007_{i:06d}.jpg" for i in range(6)))
    files(tmp_path / "SegmentationClass", *(f"2007_{i:06d}.png" for i in range(5)))
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes(b"2007_000003\r\n2007_000001\r\n\r\n")
    (lists / "val.txt").write_text("\ufeff2007_000000.jpg\n2007_000000\n")
    (lists / "trainval.txt").write_text("2007_000003\n2007_000001\n2007_000000\n")
    by_split, result = found(tmp_path, Naming(splits=lists), "JPEGImages", "SegmentationClass")
    assert by_split == {
        "train": [(f"2007_{i:06d}.jpg", f"2007_{i:06d}.png") for i in (1, 3)],
        "validation": [("2007_000000.jpg", "2007_000000.png")],
    }
    assert result.masks_without_image == 0
    assert result.skipped.reasons == {"in none of the lists of splits": 3}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (dict(val="a"), "holds no train.txt"),
        (dict(train="a\nx\ny", val="b"), r"2 names of .*train.txt are no images, the first is x \(line 2\)"),
        (dict(train="a\nb", val="c\nb"), "line 2 of .*val.txt names b, which train.txt names, too"),
        (dict(train="a", val="\n"), "val.txt names no images"),
        (dict(train="a", val="b", valid="c"), "val.txt and .*valid.txt are lists of the same split"),
        (dict(train=b"\xff\xfe"), "cannot read .*train.txt as text in UTF-8"),
    ],
)
def test_lists_that_name_other_images_are_refused(tmp_path, lists, message):
    files(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    files(tmp_path / "masks", "a.png", "b.png", "c.png")
    (tmp_path / "lists").mkdir()
    for name, text in lists.items():
        (tmp_path / f"lists/{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        found(tmp_path, Naming(splits=tmp_path / "lists"))


def test_ade20k_and_folders_beside_the_splits(tmp_path):
    files(tmp_path / "images", "training/a.jpg", "validation/b.jpg", "extra/c.jpg", "d.jpg")
    files(tmp_path / "masks", "training/a.png", "validation/b.png", "training/z.png")
    by_split, result = found(tmp_path)
    assert by_split == {
        "train": [("training/a.jpg", "training/a.png")],
        "validation": [("validation/b.jpg", "validation/b.png")],
    }
    assert result.masks_without_image == 1
    assert [name for name, _ in result.skipped.files] == ["d.jpg", "extra/c.jpg"]


def test_splits_may_have_other_names_in_the_other_folder(tmp_path):
    files(tmp_path / "images", "Train/a.jpg", "val2017/b.jpg")
    files(tmp_path / "masks", "training/a.png", "valid/b.png")
    assert found(tmp_path)[0]["validation"] == [("val2017/b.jpg", "valid/b.png")]


def test_the_common_end_of_label_pictures_is_found(tmp_path):
    """As in the original CamVid: one name begins like another, too."""
    names = ["0001TP_1", "0001TP_10", "0001TP_2", "0001TP_3", "0001TP_4"]
    files(tmp_path / "images", *(f"{name}.png" for name in names))
    files(tmp_path / "masks", *(f"{name}_L.png" for name in names))
    by_split, result = found(tmp_path)
    assert sorted(by_split["train"] + by_split["validation"]) == sorted((f"{n}.png", f"{n}_L.png") for n in names)
    assert result.notes[0] == "label pictures are called like their images, with _L at the end"
    files(tmp_path / "masks", "0001TP_1_colour.png")
    with pytest.raises(UserError, match="end with _L, _colour; choose one with --mask-suffix"):
        found(tmp_path)
    assert found(tmp_path, Naming(mask_suffix="_L"))[0] == by_split


def test_both_in_one_folder(tmp_path):
    files(tmp_path / "images", *(f"{i}.jpg" for i in range(3)), *(f"{i}_mask.png" for i in range(3)))
    with pytest.raises(UserError, match=r"are both in .*; say how the latter end with --mask-suffix"):
        found(tmp_path, masks="images")
    by_split, result = found(tmp_path, Naming(mask_suffix="_mask"), masks="images")
    assert together(by_split) == [(f"{i}.jpg", f"{i}_mask.png") for i in range(3)]
    assert not result.skipped.reasons


def test_label_pictures_in_a_folder_of_the_images(tmp_path):
    files(tmp_path / "images", "1.jpg", "2.jpg")
    files(tmp_path / "images/labels", "1.png", "2.png")
    assert together(found(tmp_path, masks="images/labels")[0]) == [
        ("1.jpg", "1.png"),
        ("2.jpg", "2.png"),
    ]


def test_a_fifth_is_held_out_and_copies_lie_on_one_side(tmp_path):
    files(tmp_path / "images", *(f"{i:02d}.png" for i in range(20)))
    files(tmp_path / "masks", *(f"{i:02d}.png" for i in range(20)))
    by_split, result = found(tmp_path)
    assert {split: len(its) for split, its in by_split.items()} == {"train": 16, "validation": 4}
    assert len({name for its in by_split.values() for name, _ in its}) == 20
    assert result.notes == ("4 of 20 images are held out, as there is no validation split",)
    assert found(tmp_path)[0] == by_split
    held = by_split["validation"][0][0]
    assert not np.array_equal(sorted(int(name[:2]) for name, _ in by_split["validation"]), range(4))
    for i in range(10):  # Copies of one that was held out: too many for a fifth.
        (tmp_path / f"images/{i:02d}.png").write_bytes((tmp_path / "images" / held).read_bytes())
    again, _ = found(tmp_path)
    contents = {
        split: {Path(tmp_path / "images" / name).read_bytes() for name, _ in its} for split, its in again.items()
    }
    assert not contents["train"] & contents["validation"]


def test_a_test_split_is_kept_apart_when_a_fifth_is_held_out(tmp_path):
    files(tmp_path / "images", *(f"train/{i}.png" for i in range(10)), "test/t.png")
    files(tmp_path / "masks", *(f"train/{i}.png" for i in range(10)), "test/t.png")
    by_split, _ = found(tmp_path)
    assert {split: len(its) for split, its in by_split.items()} == {"train": 8, "validation": 2, "test": 1}


def test_images_without_label_pictures_are_refused_or_left_out(tmp_path):
    files(tmp_path / "images", "train/a.jpg", "train/b.jpg", "train/c.jpg", "val/d.jpg", "test/e.jpg")
    files(tmp_path / "masks", "train/a.png", "val/d.png", "test/e.png")
    with pytest.raises(UserError, match=r"2 of 5 images have no label picture of their name .* first is train/b.jpg"):
        found(tmp_path)
    by_split, result = found(tmp_path, Naming(skip_missing=True))
    assert by_split["train"] == [("train/a.jpg", "train/a.png")]
    assert result.skipped.files == (("train/b.jpg", pairs.NO_MASK), ("train/c.jpg", pairs.NO_MASK))
    (tmp_path / "masks/test/e.png").unlink()
    with pytest.raises(UserError, match=r"the split test of .* has no images with label pictures"):
        found(tmp_path, Naming(skip_missing=True))


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (["val/a.jpg", "test/b.jpg"], ["val/a.png", "test/b.png"], "holds test, val: name the splits train and one of"),
        (["train/a.jpg", "val/b.jpg", "valid/c.jpg"], ["train/a.png"], "holds train, val, valid: name the splits"),
        (["train/a.jpg", "val/notes/"], ["train/a.png"], "the split val of .* has no images"),
        (["a.jpg", "a.png", "b.jpg"], ["a.png", "b.png"], "a.jpg and .*a.png have the same name"),
        (["a.jpg", "b.jpg"], ["a.png", "a.bmp", "b.png"], "a.bmp and .*a.png have the same name"),
        (["a.jpg"], ["a.png"], "1 images with label pictures; at least 2 are needed"),
        ([], ["a.png"], "holds no images"),
        (["a.jpg", "b.jpg"], ["c.png"], "are called a.jpg and c.png; see --image-suffix and --mask-suffix"),
        (["a.jpg", "b.jpg"], [], "are called a.jpg and nothing"),
    ],
)
def test_names_that_make_no_pairs_are_refused(tmp_path, images, masks, message):
    for folder, names in (("images", images), ("masks", masks)):
        (tmp_path / folder).mkdir()
        for name in names:
            if name.endswith("/"):
                (tmp_path / folder / name).mkdir(parents=True)
        files(tmp_path / folder, *(name for name in names if not name.endswith("/")))
    with pytest.raises(UserError, match=message) as refusal:
        found(tmp_path)
    assert len(str(refusal.value).splitlines()) == 1


def test_folders_that_are_not_there_are_refused(tmp_path):
    files(tmp_path / "images", "a.jpg")
    with pytest.raises(UserError, match="masks is not a folder; expected one of images and one of label pictures"):
        found(tmp_path)
