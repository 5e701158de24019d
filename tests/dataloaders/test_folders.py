"""Folders as people have them: classes, splits, links, and what other programs leave behind."""

import os
from pathlib import Path

import pytest
from PIL import Image

from asvit_tf.dataloaders import classification, folders
from asvit_tf.dataloaders.imagefiles import skipped, walk
from asvit_tf.dataloaders.imagefiles.skipped import Skipped, in_words
from asvit_tf.errors import OneClassError, UserError


def image(path, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, kind)


def classes(root, names=("cat", "dog"), count=2):
    for name in names:
        for i in range(count):
            image(root / name / f"{i}.png")
    return root


def found(layout):
    return {split: [str(folder.name) for folder in each] for split, each in layout.splits.items()}


def names(files, root):
    return [os.path.relpath(file, root) for file in files]


@pytest.mark.parametrize(
    ("given", "splits"),
    [
        ("train val", "train validation"),
        ("Training Testing", "train test"),
        ("TRAIN Valid Test", "train validation test"),
        ("train dev", "train validation"),
        ("train2017 val2017", "train validation"),
        ("train_set test-set", "train test"),
        ("training validation testing", "train validation test"),
        ("train", "train"),
    ],
)
def test_splits_by_their_usual_names(tmp_path, given, splits):
    for name in given.split():
        classes(tmp_path / name)
    layout = folders.layout(tmp_path)
    assert layout.class_names == ("cat", "dog")
    assert found(layout) == {split: ["cat", "dog"] for split in splits.split()}


def test_what_lies_beside_the_splits_is_counted(tmp_path):
    for name in ("train", "val", "annotations", "extra"):
        classes(tmp_path / name)
    (tmp_path / "README.txt").write_text("hello")
    layout = folders.layout(tmp_path)
    assert set(layout.splits) == {"train", "validation"}
    assert layout.skipped == Skipped((), {skipped.BESIDE: 2, skipped.NOT_AN_IMAGE: 1})


def test_classes_that_are_called_like_splits(tmp_path):
    classes(tmp_path / "flat", ("bus", "train", "tram"))
    assert folders.layout(tmp_path / "flat").class_names == ("bus", "train", "tram")
    classes(tmp_path / "deep", ("bus", "train", "tram"), 1)
    image(tmp_path / "deep/train/steam/0.png")
    assert folders.layout(tmp_path / "deep").class_names == ("bus", "train", "tram")
    classes(tmp_path / "deeper", ("bus", "tram"))
    image(tmp_path / "deeper/train/steam/0.png")  # No images beside its folders.
    assert folders.layout(tmp_path / "deeper").class_names == ("bus", "train", "tram")
    classes(tmp_path / "inside/train", ("bus", "train"))
    classes(tmp_path / "inside/test", ("bus", "train"))
    assert found(folders.layout(tmp_path / "inside")) == {split: ["bus", "train"] for split in ("train", "test")}


def test_stray_images_beside_the_class_folders_of_a_split_are_named(tmp_path):
    for name in ("train", "val"):
        classes(tmp_path / name)
    image(tmp_path / "train/sheet.png")
    layout = folders.layout(tmp_path)
    assert found(layout) == {split: ["cat", "dog"] for split in ("train", "validation")}
    assert layout.skipped == Skipped((("train/sheet.png", "beside the class folders"),))
    image(tmp_path / "figures/0.png")
    assert set(folders.layout(tmp_path).splits) == {"train", "validation"}
    image(tmp_path / "val/sheet.png")
    assert set(folders.layout(tmp_path).splits) == {"train", "validation"}


def test_a_class_that_is_called_train_may_have_subfolders_beside_its_images(tmp_path):
    classes(tmp_path, ("bus", "train", "tram"))
    classes(tmp_path / "train", ("diesel", "steam"))
    assert folders.layout(tmp_path).class_names == ("bus", "train", "tram")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "train/cat train/dog test figures",
            "figures, test of .* hold images of no class beside the split train; take them away, or name the splits",
        ),
        ("train/cat train/dog test", "test of .* holds images of no class beside the split train; take it away, or"),
        ("train/cat train/dog figures", "figures of .* holds images of no class beside the split train"),
        ("train/cat train/dog bus/cat bus/dog", "bus of .* holds images of no class beside the split train"),
        (
            "train/cat train/dog val/cat val/dog test",
            "test of .* images of no class beside the splits train, val; take",
        ),
        (
            "train train/cat train/dog test figures",
            "figures, test of .* hold images of no class beside the split train",
        ),
        (
            "val/cat val/dog test/cat test/dog",
            "holds test, val: name the splits train and one of validation, val, valid",
        ),
        ("train/a train/b val/a val/b valid/a valid/b", "holds train, val, valid: name the splits"),
        ("train test", "train.*hold no class folders; name the splits"),
        (
            "train/cat train/dog val/cat val/wolf",
            "do not have the same class folders; only in .*val: wolf; only in .*train: dog",
        ),
    ],
)
def test_splits_that_cannot_be_used_are_refused(tmp_path, given, message):
    for name in given.split():
        image(tmp_path / name / "0.png")
    with pytest.raises(UserError, match=message):
        folders.layout(tmp_path)


def test_a_folder_around_the_classes_is_named(tmp_path):
    classes(tmp_path / "dataset")
    with pytest.raises(OneClassError, match=f"one subfolder, 'dataset'.*give {tmp_path / 'dataset'}"):
        folders.layout(tmp_path)


LEFTOVERS = [".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini", "x.jpg~", ".0.png.swp", "a.crdownload", "~$b.doc"]


def test_leftovers_are_counted_and_only_lost_images_are_named(tmp_path):
    root = classes(tmp_path)
    for name in LEFTOVERS:
        (root / "cat" / name).write_bytes(b"\xff\xd8\xff")
    for folder in (".git", "__MACOSX", ".ipynb_checkpoints", "@eaDir"):
        image(root / "cat" / folder / "0.png")
        image(root / folder / "0.png")
    image(root / "cat/._0.png")
    (root / "cat/notes.txt").write_text("a note")
    (root / "cat/labels.json").write_text("{}")
    (root / "cat/nothing").write_bytes(b"")
    layout = folders.layout(root)
    assert layout.class_names == ("cat", "dog")
    assert layout.skipped == Skipped((), {skipped.LEFTOVER: 4})
    files, left = walk.images(root / "cat", root)
    assert names(files, root) == ["cat/0.png", "cat/1.png"]
    assert left.files == (("cat/._0.png", skipped.LEFTOVER),)
    assert left.others == {skipped.LEFTOVER: len(LEFTOVERS) + 4, skipped.NOT_AN_IMAGE: 2, skipped.EMPTY: 1}
    assert left.reasons[skipped.LEFTOVER] == len(LEFTOVERS) + 5


def test_the_content_decides_where_the_name_does_not(tmp_path):
    for name, kind in (
        ("UPPER.JPG", "JPEG"),
        ("none", "JPEG"),
        ("a.TIFF", "TIFF"),
        ("b.webp", "WEBP"),
        ("c.dat", "PNG"),
    ):
        image(tmp_path / "cat" / name, kind)
    (tmp_path / "cat/data.bin").write_bytes(bytes(range(256)) * 99)
    (tmp_path / "cat/photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    files, left = walk.images(tmp_path / "cat")
    # The suffix of an image alone makes a file one that is counted if it cannot be read.
    assert names(files, tmp_path / "cat") == ["UPPER.JPG", "a.TIFF", "b.webp", "c.dat", "none", "photo.heic"]
    assert left.reasons == {skipped.NOT_AN_IMAGE: 1}


def test_links_are_followed_and_circles_end(tmp_path):
    classes(tmp_path / "elsewhere")
    root = tmp_path / "images"
    root.mkdir()
    for name in ("cat", "dog"):
        (root / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere/cat/up").symlink_to(root)
    (tmp_path / "elsewhere/cat/self").symlink_to(tmp_path / "elsewhere/cat")
    (root / "loop").symlink_to(root)
    layout = folders.layout(root)
    assert layout.class_names == ("cat", "dog")
    assert layout.skipped.others == {skipped.CIRCLE: 1}
    files, left = walk.images(root / "cat", root)
    assert names(files, root) == ["cat/0.png", "cat/1.png"]
    assert left.others == {skipped.CIRCLE: 2}
    everything, _ = walk.images(root)
    assert sorted(names(everything, root)) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]


RECORDS = ("dataset.json", "train-00000-of-00002.tfrecord")


def test_a_class_with_a_dataset_json_of_another_program_is_a_class(tmp_path):
    root = classes(tmp_path)
    (root / "cat/dataset.json").write_text('{"labels": null}')  # As StyleGAN's tools write it.
    assert folders.layout(root).class_names == ("cat", "dog")
    assert walk.images(root / "cat", root)[1].reasons == {skipped.NOT_AN_IMAGE: 1}


def test_a_class_that_is_a_link_to_another_is_none(tmp_path):
    root = classes(tmp_path)
    for name in ("a", "kitty"):  # Before and behind the folder itself.
        (root / name).symlink_to("cat")
    layout = folders.layout(root)
    assert layout.class_names == ("cat", "dog")
    assert layout.skipped == Skipped((), {skipped.CIRCLE: 2})


@pytest.mark.parametrize("name", ["x" * 300, "none/below"])
def test_a_path_that_no_system_opens_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(UserError, match=r"is not a folder|cannot read .*: File name too long"):
        folders.layout(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_below_a_folder_without_permission_nothing_is_read(tmp_path):
    classes(tmp_path / "closed/images")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(UserError, match=r"cannot read .*images: Permission denied"):
            folders.layout(tmp_path / "closed/images")
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_results_of_this_package_are_no_class(tmp_path):
    root = classes(tmp_path)
    for folder, files in (("run", (".lock", "settings.json")), ("records", RECORDS), ("x.partial", ("a",))):
        image(root / folder / "figure.png")
        for name in files:
            (root / folder / name).write_text("{}")
    image(root / "new/figure.png")
    layout = folders.layout(root, without=[root / "new"])
    assert layout.class_names == ("cat", "dog")
    assert layout.skipped.others == {skipped.OWN: 3, skipped.LEFTOVER: 1}
    files, _ = walk.images(root, without=[root / "new"])
    assert len(files) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_counted(tmp_path):
    root = classes(tmp_path)
    (root / "cat").chmod(0)
    try:
        assert walk.images(root / "cat")[1].others == {"cannot be read (Permission denied)": 1}
    finally:
        (root / "cat").chmod(0o700)


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    files, left = walk.images(tmp_path)
    assert [Path(file).name for file in files] == ["pipe.png"]  # Opening it shows what it is, and nothing waits.
    assert left.others == {skipped.NOT_REGULAR: 1}


def test_what_many_folders_leave_is_put_together_at_once(monkeypatch, tmp_path):
    """Added one to the next, the files of a thousand folders would be copied and sorted a thousand times."""
    root = classes(tmp_path, [f"{i:02d}" for i in range(20)])
    for folder in root.iterdir():
        image(folder / "._0.png")
        (folder / "notes.txt").write_text("a note")
    monkeypatch.setattr(Skipped, "__add__", lambda self, other: pytest.fail("added one by one"))
    _, splits, left = classification._folder(root, False, 1, [])
    assert sum(map(len, splits.values())) == 40
    assert left.files == tuple((f"{i:02d}/._0.png", skipped.LEFTOVER) for i in range(20))
    assert left.others == {skipped.NOT_AN_IMAGE: 20}


def test_the_words():
    files = [(f"{i:02d}.png", skipped.DAMAGED) for i in range(12)]
    left = Skipped.of(files, [skipped.LEFTOVER]) + Skipped.of([("a.jpg", skipped.EMPTY)])
    lines = str(left).splitlines()
    assert lines[0] == (
        "13 image files skipped; of all that was not read: 1 empty file, 1 hidden, or left by another program, "
        "12 truncated or damaged"
    )
    assert lines[1:3] == ["  00.png: truncated or damaged", "  01.png: truncated or damaged"]
    assert lines[-1] == "  and 3 more"
    assert str(Skipped()) == ""
    bytes_of_latin_1 = Skipped.of([(os.fsdecode(b"caf\xe9.jpg"), skipped.DAMAGED)])
    assert str(bytes_of_latin_1).encode().endswith(b"\n  caf\\udce9.jpg: truncated or damaged")
    assert Skipped.of_text(bytes_of_latin_1.text().encode().decode()) == bytes_of_latin_1
    assert in_words(dict(skipped_images=2)) == "2 image files skipped"  # Of an earlier version.
    assert Skipped.of_text(left.text()) == left
    assert left.as_dict()["skipped_files"][-1] == dict(file="a.jpg", reason="empty file")
