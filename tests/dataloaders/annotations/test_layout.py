"""Where annotation files and images are found, and where they are not."""

import os
from pathlib import Path

import pytest

from asvit_tf.dataloaders.annotations import layout
from asvit_tf.errors import UserError


def made(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    return root


@pytest.mark.parametrize(
    ("names", "train", "folder"),
    [
        (("annotations/instances_train2017.json", "annotations/instances_val2017.json"), "train2017", "train2017"),
        (("annotations/captions_train2017.json", "annotations/instances_Train.json"), "Train", "Train"),
        (("annotations/train.json", "images/train/0.png"), "train", "images/train"),
        (
            ("train/_annotations.coco.json", "valid/_annotations.coco.json", "test/_annotations.coco.json"),
            "train",
            "train",
        ),
        (("train/labels.json", "train/images/0.png"), "train", "train/images"),
        (("train.json", "val.json", "images/0.png"), "train", "images"),
        (("instances_train.json", "train/0.png"), "train", "train"),
    ],
)
def test_layouts(tmp_path, names, train, folder):
    place = layout.find(made(tmp_path, *names), "train")
    assert (place.name, place.folder) == (train, tmp_path / folder)
    assert place.file.is_file()


def test_several_are_refused_and_one_may_be_named(tmp_path):
    made(tmp_path, "annotations/instances_train2014.json", "annotations/instances_train2017.json")
    with pytest.raises(UserError, match=r"holds .*train2014.json, .*train2017.json; name one split with --train"):
        layout.find(tmp_path, "train")
    assert layout.find(tmp_path, "train", "train2014").name == "train2014"
    with pytest.raises(UserError, match=r"should hold one annotations/instances_val\*.json.*found annotations"):
        layout.find(tmp_path, "validation")
    with pytest.raises(UserError, match="found none"):
        layout.find(tmp_path / "nothing", "train")


FILES = ("train/a b.png", "train/sub/1.png", "train/sub/2.png", "train/other/2.png", "train/3.jpg", "train/\u00e9.png")


@pytest.mark.parametrize(
    ("file_name", "expected", "is_elsewhere"),
    [
        ("a b.png", "train/a b.png", False),
        ("sub/1.png", "train/sub/1.png", False),
        ("sub\\1.png", "train/sub/1.png", True),
        ("C:\\images\\sub\\1.png", "train/sub/1.png", True),
        ("train/sub/1.png", "train/sub/1.png", True),
        ("./train/sub/../sub/1.png", "train/sub/1.png", True),
        ("/home/somebody/data/train/sub/1.png", "train/sub/1.png", True),
        ("https://host/train/a%20b.png?x=1#y", "train/a b.png", True),
        ("a%20b.png", "train/a b.png", True),
        ("1.png", "train/sub/1.png", True),
        ("sub/2.png", "train/sub/2.png", False),
        ("2.png", None, False),  # Two of this name.
        ("sub/3.png", "train/3.jpg", True),
        ("SUB/1.PNG", "train/sub/1.png", True),
        ("e\u0301.png", "train/\u00e9.png", True),  # As macOS writes it.
        ("../outside.png", None, False),
        ("gone.png", None, False),
        ("", None, False),
        (None, None, False),
        (["a b.png"], None, False),
        ("a\0b", None, False),
        ("\ud83d.png", None, False),
        ("x" * 5000, None, False),
    ],
)
def test_file_names(tmp_path, file_name, expected, is_elsewhere):
    root = made(tmp_path / "data", *FILES)
    made(tmp_path, "outside.png")
    path, elsewhere = layout.ImageFiles(root, root / "train").find(file_name)
    assert path == (None if expected is None else root / Path(expected))
    if path is not None:
        assert elsewhere is is_elsewhere


def test_the_picture_of_another_suffix_lies_where_the_name_says(tmp_path):
    root = made(tmp_path, "train/masks/1.png", "train/masks/2.png", "train/2.webp", "train/sub/3.webp")
    files = layout.ImageFiles(root, root / "train")
    assert files.find("1.jpg") == (None, False)  # A mask is not its image.
    assert files.find("2.jpg") == (root / "train/2.webp", True)
    assert files.find("masks/1.jpg") == (root / "train/masks/1.png", True)
    assert files.find("/home/somebody/Sub/3.jpg") == (root / "train/sub/3.webp", True)


def test_folders_that_cannot_be_listed_are_passed_by_or_named(tmp_path, monkeypatch):
    """As lost+found, which belongs to root; tests may run as root, who may read everything."""
    made(tmp_path, "train.json", "lost+found/x", "images/0.png")
    listed = os.listdir

    def listdir(path):
        if os.path.basename(path) == "lost+found":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert layout.find(tmp_path, "train").file == tmp_path / "train.json"
    with pytest.raises(UserError, match=r"found train.json; cannot read lost\+found \(Permission denied\); name the"):
        layout.find(tmp_path, "validation")


def test_a_name_that_no_system_opens_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"found none; cannot read .* \(File name too long\)"):
        layout.find(tmp_path / ("x" * 300), "train")
