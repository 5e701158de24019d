"""Annotation files of COCO, mutated field by field."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from official.vision.dataloaders import tf_example_decoder
from PIL import Image

from asvit_tf.dataloaders import coco
from asvit_tf.errors import UserError
from fuzzing.lines import check_line

WIDTH, HEIGHT, IMAGES = 24, 16, 3


_NUMBERS = [0, 1, -1, 3, 24, 24.0, 0.5, 1e9, -1e9, 1e300, 2**63, 10**400, float("nan"), float("inf"), "7", " 7 ", "1e3"]
_SCALARS = st.sampled_from([*_NUMBERS, None, True, False, "", "x", "\ud83d", "a\0b", "\u202e", [], {}, [[]], [None]])
_COORDINATE = st.sampled_from([-3, 0, 0.5, 5, 10, 23.999, 24, 30, 1e9, -1e9, 1e300, "4", None, float("nan")])
_COUNTS = st.one_of(
    st.lists(st.sampled_from([0, 1, 5, 16, 368, 384, -1, 0.5, "3", 2**40]), max_size=6),
    st.text("0123456789:;<=>?@ABCoPQ\\~b'\u00e9", max_size=12),
    _SCALARS,
)
_SEGMENTATIONS = st.one_of(
    st.lists(st.lists(_COORDINATE, max_size=9), max_size=3),
    st.lists(_COORDINATE, max_size=9),
    st.lists(st.lists(st.lists(_COORDINATE, min_size=2, max_size=2), max_size=5), max_size=2),
    st.builds(
        lambda size, counts: dict(size=size, counts=counts), st.sampled_from([[16, 24], [24, 16], [16], None]), _COUNTS
    ),
    st.builds(lambda counts: [dict(counts=counts)], _COUNTS),
    _SCALARS,
    st.builds(json.dumps, st.lists(st.lists(st.integers(0, 20), min_size=6, max_size=6), max_size=2)),
)
_NAMES = st.sampled_from(
    ["0.png", "1.png", "train\\1.png", "http://h/2.png?a", "/x/0.png", "../train/0.png", "1.jpg", "gone.png", "a/" * 40]
)
_FIELDS = {
    "images": dict(id=_SCALARS, file_name=st.one_of(_NAMES, _SCALARS), width=_SCALARS, height=_SCALARS),
    "annotations": dict(
        id=_SCALARS,
        image_id=_SCALARS,
        category_id=_SCALARS,
        bbox=st.one_of(st.lists(_COORDINATE, min_size=3, max_size=5), _SCALARS),
        area=_SCALARS,
        iscrowd=_SCALARS,
        segmentation=_SEGMENTATIONS,
    ),
    "categories": dict(id=_SCALARS, name=_SCALARS),
}
_GONE = object()


@st.composite
def mutations(draw) -> list[tuple]:
    """Changes of an annotation file: split, list, entry, field and new value; or a whole entry or list."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        part = draw(st.sampled_from(["annotations"] * 4 + ["images"] * 2 + ["categories"]))
        field = draw(st.sampled_from([*_FIELDS[part], *_FIELDS[part], None]))
        value = draw(_SCALARS) if field is None else draw(st.one_of(_FIELDS[part][field], st.just(_GONE)))
        found.append((draw(st.sampled_from(["train", "val"])), part, draw(st.integers(0, 3)), field, value))
    if draw(st.integers(0, 20)) == 0:
        found.append(("train", draw(st.sampled_from([*_FIELDS])), None, None, draw(_SCALARS)))
    return found


def annotated(root: Path) -> Path:
    """COCO's layout: in both splits three images with two objects each."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        for i in range(IMAGES):
            pixels = np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
    return root


def _content() -> dict:
    images = [dict(id=i + 1, file_name=f"{i}.png", width=WIDTH, height=HEIGHT) for i in range(IMAGES)]
    box = dict(bbox=[2, 3, 8, 6], area=48, iscrowd=0, segmentation=[[2, 3, 10, 3, 10, 9, 2, 9]])
    objects = [dict(id=i, image_id=1 + i // 2, category_id=1 + i % 2, **box) for i in range(2 * IMAGES)]
    return dict(images=images, annotations=objects, categories=[dict(id=1, name="a"), dict(id=2, name="b")])


def annotations_case(root: Path, case: list[tuple], include_masks: bool, lenient: bool) -> str:
    """Prepares a data set with these changes; what is read is trained on, and everything is accounted for."""
    contents = {split: copy.deepcopy(_content()) for split in ("train", "val")}
    for split, part, entry, field, value in case:
        rows = contents[split][part]
        if entry is None:
            contents[split][part] = value
        elif isinstance(rows, list) and entry < len(rows):
            if field is None:
                rows[entry] = value
            elif isinstance(rows[entry], dict):
                rows[entry].pop(field, None) if value is _GONE else rows[entry].update({field: copy.deepcopy(value)})
    for split, content in contents.items():
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    output = root.with_name("records")
    shutil.rmtree(output, ignore_errors=True)
    leniency = coco.Leniency(missing=lenient, invalid=lenient)
    try:
        prepared = coco.prepare(output, root, include_masks=include_masks, leniency=leniency, semantic=include_masks)
    except UserError as error:
        check_line(error)
        assert not output.exists(), "something was left behind"
        return "refused"
    decoder = tf_example_decoder.TfExampleDecoder(include_mask=include_masks)
    for split, name in (("train", "train"), ("validation", "val")):
        count = prepared.counts[split]
        given = contents[name]
        assert len(given["images"]) == count.images + sum(count.images_left_out.values())
        assert len(given["annotations"]) == count.objects + sum(count.objects_left_out.values())
        rows = [decoder.decode(record) for record in tf.data.TFRecordDataset(f"{output}/{split}.tfrecord")]
        assert (len(rows), sum(len(row["groundtruth_boxes"]) for row in rows)) == (count.images, count.objects)
        for row in rows:
            boxes = row["groundtruth_boxes"].numpy()
            assert row["image"].shape == (HEIGHT, WIDTH, 3)
            assert ((boxes >= 0) & (boxes <= 1)).all()
            assert (boxes[:, 2:] >= boxes[:, :2]).all()
            assert np.isfinite(row["groundtruth_area"]).all()
            assert int(row["source_id"].numpy()) > 0
            assert ((row["groundtruth_classes"].numpy() > 0) & (row["groundtruth_classes"].numpy() < 3)).all()
            if include_masks and len(boxes):
                sizes = row["groundtruth_instance_masks"].numpy().astype(bool).sum((1, 2))
                assert (sizes > 0).all()
    return "read"
