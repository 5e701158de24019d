"""Annotation files as other programs write them: read where the meaning is clear, and every entry accounted for."""

import json

import numpy as np
import pytest
import tensorflow as tf
from helpers import compressed
from official.vision.dataloaders import tf_example_decoder
from PIL import Image

from asvit_tf.dataloaders import coco
from asvit_tf.errors import UserError

HEIGHT, WIDTH = 40, 60
BOX = [4, 6, 12, 15]


def polygon(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def content(images=2):
    rows = [dict(id=i + 1, file_name=f"{i}.png", width=WIDTH, height=HEIGHT) for i in range(images)]
    objects = [
        dict(id=i + 1, image_id=i + 1, category_id=1 + i % 2, bbox=BOX, area=180, iscrowd=0, segmentation=polygon(*BOX))
        for i in range(images)
    ]
    return dict(images=rows, annotations=objects, categories=[dict(id=1, name="cat"), dict(id=2, name="dog")])


def written(root, change=None, encode=lambda text: text.encode(), save=None):
    """COCO's layout; `change` edits the content of both splits."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            (save or (lambda image, path: image.save(path)))(Image.fromarray(pixels), root / split / f"{i}.png")
        whole = content()
        if change is not None:
            change(whole)
        (root / f"annotations/instances_{split}.json").write_bytes(encode(json.dumps(whole)))
    return root


def records(directory, include_mask=True):
    decoder = tf_example_decoder.TfExampleDecoder(include_mask=include_mask)
    return [decoder.decode(record) for record in tf.data.TFRecordDataset(f"{directory}/train.tfrecord")]


def accounted(count):
    assert count.given_images == count.images + sum(count.images_left_out.values())
    assert count.given_objects == count.objects + sum(count.objects_left_out.values())


def prepared(root, tmp_path, **options):
    found = coco.prepare(tmp_path / "records", root, **options)
    for count in found.counts.values():
        accounted(count)
    return found


def each(of, **fields):
    def change(whole):
        for row in whole[of]:
            row.update(fields)

    return change


def without(of, field):
    def change(whole):
        for row in whole[of]:
            del row[field]

    return change


def texts(whole):
    for row in whole["images"]:
        row.update(id=str(row["id"]), width=str(row["width"]), height=float(row["height"]))
    for row in whole["annotations"]:
        row.update(image_id=float(row["image_id"]), category_id=str(row["category_id"]), bbox=[*map(str, row["bbox"])])


SAME = {
    "texts and floats": texts,
    "no sizes": each("images", width=None, height=0),
    "no area": without("annotations", "area"),
    "area null": each("annotations", area=None),
    "area a text": each("annotations", area="large"),
    "area NaN": each("annotations", area=float("nan")),
    "area 0": each("annotations", area=0),
    "area infinite": each("annotations", area=float("inf")),
    "no iscrowd": without("annotations", "iscrowd"),
    "iscrowd false": each("annotations", iscrowd=False),
    "iscrowd a text": each("annotations", iscrowd="0"),
    "iscrowd null": each("annotations", iscrowd=None),
    "no identifiers": without("annotations", "id"),
    "the same identifiers": each("annotations", id=0),
    "no box": each("annotations", bbox=[]),
    "a text of JSON": each("annotations", segmentation=json.dumps(polygon(*BOX))),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_the_same_data_in_other_spellings(tmp_path, change):
    prepared(written(tmp_path / "data", change), tmp_path)
    rows = records(tmp_path / "records")
    assert sorted(int(row["source_id"].numpy()) for row in rows) == [1, 2]
    for row in rows:
        box = row["groundtruth_boxes"].numpy()[0] * [HEIGHT, WIDTH, HEIGHT, WIDTH]
        np.testing.assert_allclose(box, [6, 4, 21, 16], atol=1e-4)  # Top, left, bottom, right.
        assert row["groundtruth_area"].numpy().tolist() == [180]
        assert row["groundtruth_is_crowd"].numpy().tolist() == [False]
        assert row["groundtruth_classes"].numpy().tolist() == [int(row["source_id"].numpy())]
        expected = np.zeros((HEIGHT, WIDTH))
        expected[6:21, 4:16] = 1
        np.testing.assert_array_equal(row["groundtruth_instance_masks"].numpy()[0] > 0, expected)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_encodings(tmp_path, encoding):
    prepared(written(tmp_path / "data", encode=lambda text: text.encode(encoding)), tmp_path)
    assert len(records(tmp_path / "records")) == 2


def numbered(of, field, numbers, refers):
    """Gives identifiers, and what refers to them, other numbers."""

    def change(whole):
        for row in whole[of]:
            row["id"] = numbers[row["id"]]
        for row in whole["annotations"]:
            row[refers] = numbers[row[refers]]

    return change


@pytest.mark.parametrize("numbers", [{1: 0, 2: 1}, {1: -5, 2: 3}, {1: "a", 2: "b"}, {1: 2**40, 2: 2**40 + 1}])
def test_identifiers_of_images_that_an_evaluation_cannot_use_are_given_anew(tmp_path, numbers):
    found = prepared(written(tmp_path / "data", numbered("images", "id", numbers, "image_id")), tmp_path)
    assert found.counts["train"].notes == {"image identifiers given anew": 2}
    assert sorted(int(row["source_id"].numpy()) for row in records(tmp_path / "records")) == [1, 2]
    listed = json.loads((tmp_path / "records/annotations_validation.json").read_text())
    assert [row["id"] for row in listed["images"]] == [row["image_id"] for row in listed["annotations"]] == [1, 2]


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        ({1: 3, 2: 7}, ("", "", "", "cat", "", "", "", "dog")),
        ({1: 0, 2: 1}, ("", "cat", "dog")),
        ({1: 5_000_000, 2: 3}, ("", "dog", "cat")),
        ({1: -1, 2: 1}, ("", "cat", "dog")),
        ({1: "x", 2: "b"}, ("", "dog", "cat")),
        ({1: "1", 2: 2.0}, ("", "cat", "dog")),
    ],
)
def test_identifiers_of_categories(tmp_path, numbers, names):
    found = prepared(written(tmp_path / "data", numbered("categories", "id", numbers, "category_id")), tmp_path)
    assert found.class_names == names
    classes = {
        int(row["source_id"].numpy()): row["groundtruth_classes"].numpy().tolist() for row in records(found.directory)
    }
    assert classes == {1: [names.index("cat")], 2: [names.index("dog")]}


def test_a_category_0_without_annotations_is_left_out(tmp_path):
    change = lambda whole: whole["categories"].insert(0, dict(id=0, name="pets"))  # noqa: E731
    found = prepared(written(tmp_path / "data", change), tmp_path)
    assert found.class_names == ("", "cat", "dog")
    assert found.notes == ("category 0, 'pets', has no annotations and is left out",)


def test_categories_of_two_splits_are_put_together(tmp_path):
    root = written(tmp_path / "data")
    path = root / "annotations/instances_val.json"
    whole = json.loads(path.read_text())
    whole["categories"] = [dict(id=3, name="bird"), *whole["categories"]]
    path.write_text(json.dumps(whole))
    assert prepared(root, tmp_path).class_names == ("", "cat", "dog", "bird")
    whole["categories"][0] = dict(id=3, name="cat")
    path.write_text(json.dumps({**whole, "categories": whole["categories"][:1]}))
    with pytest.raises(UserError, match="not the same; give a name the same id in both"):
        coco.prepare(tmp_path / "other", root)


def test_what_cannot_be_read_is_listed_by_kind_and_can_be_left_out(tmp_path):
    def change(whole):
        first = whole["annotations"][0]
        whole["annotations"] += [
            {**first, "id": 50, "bbox": [1, 2, float("nan"), 4]},
            {**first, "id": 51, "bbox": [1, 2]},
            {**first, "id": 52, "image_id": 99},
            {**first, "id": 53, "segmentation": dict(size=[HEIGHT, WIDTH], counts=[5, 5, 5])},
            {**first, "id": 54, "segmentation": []},
            "nothing",
        ]
        whole["images"].append(dict(whole["images"][0], file_name="again.png"))

    root = written(tmp_path / "data", change)
    with pytest.raises(UserError) as refused:
        coco.prepare(tmp_path / "records", root)
    line = str(refused.value)
    assert "2 annotations have a box that is not four finite numbers (the first: annotation 50: [1, 2, nan, 4])" in line
    assert "1 annotation(s) name no image that is listed (the first: annotation 52: 99)" in line
    assert "2 images have the identifier of another image (the first: image '0.png': 1)" in line
    assert line.endswith("repair them, or --skip-invalid leaves them out and counts them")
    assert "\n" not in line
    count = prepared(root, tmp_path, leniency=coco.Leniency(invalid=True)).counts["train"]
    assert (count.images, count.objects) == (1, 1)
    # Nobody knows whose boxes they are.
    assert count.images_left_out == {"have the identifier of another image": 2}
    assert count.objects_left_out == {
        "belong to an image that is left out": 3,
        "have a box that is not four finite numbers": 2,
        "name no image that is listed": 1,
        "are no objects of JSON": 1,
    }


def turned(stated, box):
    """Pictures that EXIF 6 turns; annotations of the file's 60 x 40 pixels, or of the 40 x 60 picture."""

    def change(whole):
        for row in whole["images"]:
            row.update(width=stated[0], height=stated[1])
        for row in whole["annotations"]:
            row.update(bbox=box, segmentation=polygon(*box))

    def save(image, path):
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif)

    return dict(change=change, save=save)


@pytest.mark.parametrize(
    ("stated", "box", "note"),
    [
        ((HEIGHT, WIDTH), [10, 20, 5, 30], None),
        ((WIDTH, HEIGHT), [20, 25, 30, 5], "images turned upright by EXIF, their annotations with them"),
        (
            (None, None),
            [10, 20, 5, 30],
            "images turned by EXIF whose annotations were taken as upright, by their boxes",
        ),
        ((None, None), [20, 25, 30, 5], "images turned by EXIF whose annotations were taken as stored, by their boxes"),
    ],
)
def test_pictures_are_upright_and_annotations_with_them(tmp_path, stated, box, note):
    found = prepared(written(tmp_path / "data", **turned(stated, box)), tmp_path)
    assert found.counts["train"].notes.get(note, 0) == (0 if note is None else 2)
    for row in records(tmp_path / "records"):
        assert row["image"].shape == (WIDTH, HEIGHT, 3)
        assert (int(row["height"]), int(row["width"])) == (WIDTH, HEIGHT)
        # Left 10, top 20, 5 wide, 30 high on the upright picture of 40 x 60.
        np.testing.assert_allclose(row["groundtruth_boxes"][0] * [60, 40, 60, 40], [20, 10, 50, 15], atol=1e-4)
        expected = np.zeros((WIDTH, HEIGHT))
        expected[20:50, 10:15] = 1
        np.testing.assert_array_equal(row["groundtruth_instance_masks"].numpy()[0] > 0, expected)


@pytest.mark.parametrize(
    ("stated", "box", "message"),
    [
        ((WIDTH, HEIGHT), [10, 20, 5, 30], "fit the picture as EXIF turns it; state its width and height upright"),
        ((HEIGHT, WIDTH), [20, 25, 30, 5], "fit the file's pixels; state the width and height of these"),
    ],
)
def test_boxes_that_contradict_the_stated_frame_are_refused(tmp_path, stated, box, message):
    root = written(tmp_path / "data", **turned(stated, box))
    with pytest.raises(UserError, match=f"2 images have boxes outside of .* {message}"):
        coco.prepare(tmp_path / "records", root)


def test_without_a_size_boxes_that_fit_both_frames_follow_those_that_fit_one(tmp_path):
    options = turned((None, None), [2, 3, 20, 10])

    def change(whole):
        options["change"](whole)
        whole["annotations"][0].update(bbox=[20, 25, 30, 5], segmentation=polygon(20, 25, 30, 5))

    found = prepared(written(tmp_path / "data", change, save=options["save"]), tmp_path)
    notes = {note: number for note, number in found.counts["train"].notes.items() if "turned by EXIF" in note}
    assert notes == {
        "images turned by EXIF whose annotations were taken as stored, by their boxes": 1,
        "images turned by EXIF whose annotations were taken as stored": 1,
    }


def test_one_file_by_two_ways_is_one_file(tmp_path):
    def change(whole):
        whole["images"][1]["file_name"] = "../train/0.png"

    root = written(tmp_path / "data", change)
    with pytest.raises(UserError, match=r"1 image\(s\) name the file of another image"):
        coco.prepare(tmp_path / "records", root)
    (root / "link").symlink_to("train")
    whole = content()
    whole["images"][1]["file_name"] = "../link/0.png"
    (root / "annotations/instances_train.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"1 image\(s\) name the file of another image"):
        coco.prepare(tmp_path / "records", root)


def test_crowds_of_every_form_and_boxes_beyond_the_border(tmp_path):
    def change(whole):
        whole["annotations"][0].update(iscrowd=True, segmentation=compressed(np.eye(HEIGHT, WIDTH, dtype=np.uint8)))
        whole["annotations"][1].update(bbox=[50.3, -1e300, 1e300, 2e300])

    count = prepared(written(tmp_path / "data", change), tmp_path).counts["train"]
    assert (count.objects, count.crowds) == (2, 1)
    boxes = {
        int(row["source_id"].numpy()): row["groundtruth_boxes"].numpy()[0] for row in records(tmp_path / "records")
    }
    np.testing.assert_allclose(boxes[2] * [HEIGHT, WIDTH, HEIGHT, WIDTH], [0, 50.3, HEIGHT, WIDTH], atol=1e-4)
