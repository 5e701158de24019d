"""COCO's files in, TFRecords out: boxes and masks as the Model Garden's input pipeline reads them.

The Model Garden's own conversion makes every example; around it, what is missing or wrong is refused in one line or
counted, and nothing is left half-written.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from asvit_tf.dataloaders import experiment_yaml, masks
from asvit_tf.dataloaders.annotations import box_forms, division, pictures, problems, schema, splits
from asvit_tf.dataloaders.annotations.layout import Place
from asvit_tf.dataloaders.annotations.splits import ImageFile, Split, SplitCount
from asvit_tf.dataloaders.imagefiles import duplicates, reduced
from asvit_tf.dataloaders.imagefiles.skipped import Skipped, in_words
from asvit_tf.dataloaders.labels import records
from asvit_tf.errors import UserError
from asvit_tf.storage import whole_directory

BACKGROUND = "background"  # Class 0 of a map of classes.
_MASKED = 0.99  # Of the objects, so that masks are trained on.
_COMMENT = "Written by asvit prepare-coco; to be given to asvit train as a further --config_file."


@dataclasses.dataclass(frozen=True)
class Prepared:
    """TFRecords of detection data.

    Attributes:
      directory: Holds the records, `annotations_validation.json` and `data.yaml`; with a class for every pixel
        `semantic.yaml` too.
      class_names: By category identifier; "" where there is no such category.
      counts: Counts of both splits.
      semantic: Whether the records hold a class for every pixel too.
      notes: A line for everything about the splits and categories that is not as the files have it.
      skipped: Image files that were left out, and why.
      duplicates: Images that are there more than once, as `duplicates.count` has them, without labels.
    """

    directory: str
    class_names: tuple[str, ...]
    counts: Mapping[str, SplitCount]
    semantic: bool = False
    notes: tuple[str, ...] = ()
    skipped: Skipped = dataclasses.field(default_factory=Skipped)
    duplicates: Mapping[str, Any] | None = None

    @property
    def config_file(self) -> str:
        """Paths, classes and names as a YAML for `--config_file` of a detector."""
        return os.path.join(self.directory, "data.yaml")

    @property
    def left_out(self) -> tuple[str, ...]:
        """A line for everything that the records do not hold, or not as the files have it."""
        lines = []
        for split, count in self.counts.items():
            for what, reasons in (("images", count.images_left_out), ("objects", count.objects_left_out)):
                lines += [f"{split}: {number} {what} left out: {reason}" for reason, number in reasons.items()]
            lines += [f"{split}: {number} {note}" for note, number in count.notes.items()]
        copies = duplicates.in_words(self.duplicates, "AP").splitlines()
        return (*lines, *in_words(self.skipped.as_dict()).splitlines(), *self.notes, *copies)

    @property
    def semantic_config_file(self) -> str | None:
        """The same for semantic segmentation."""
        return os.path.join(self.directory, "semantic.yaml") if self.semantic else None


@dataclasses.dataclass(frozen=True)
class Leniency:
    """What is left out and counted instead of refused.

    Attributes:
      missing: Images whose file is missing or no image.
      invalid: Images and annotations that cannot be read.
    """

    missing: bool = False
    invalid: bool = False


def prepare(
    directory: str | os.PathLike,
    data_path: str | os.PathLike,
    names: Mapping[str, str | None] | None = None,
    shards: int = 1,
    include_masks: bool | None = True,
    leniency: Leniency = Leniency(),
    progress: bool = False,
    semantic: bool = False,
    stored_pixels: int | None = None,
) -> Prepared:
    """Writes the TFRecords of a data set in COCO's layout, or a relative of it; complete or not at all.

    Args:
      directory: Where they go; it must not exist.
      data_path: Holds `annotations/instances_NAME.json` and the images of each in `NAME/`; or see `layout`.
      names: NAME of "train" and "validation"; what is left out is found (`division.find`), or a fifth is held out.
      shards: Files of each split, >= 1.
      include_masks: Write masks too; Cascade Mask R-CNN can use them, RetinaNet cannot. None: if nearly all objects
        have one.
      leniency: What is left out and counted instead of refused.
      progress: Show a progress bar on standard error.
      semantic: Write a class for every pixel too (see `masks.class_map`), from the masks; segmentation needs it.
      stored_pixels: Most pixels of photographs in the training records, with their masks; larger ones are reduced
        (`reduced.within`). None stores all as they are.

    Raises:
      UserError: A file is missing or is no COCO annotation file, or entries of it cannot be read.
      StoppedError: The disk is full.
    """
    if shards < 1:
        raise UserError(f"shards is {shards}; it must be at least 1")
    if semantic and include_masks is False:
        raise UserError("a class for every pixel is made from the masks; leave them in")
    if os.path.lexists(directory):
        raise UserError(f"{directory} exists; choose another directory")
    directory, data_path, names = os.path.abspath(directory), Path(data_path), names or {}
    places = division.find(data_path, names)
    files = dict(train=places.train)
    if places.validation is not None:
        files["validation"] = places.validation
    contents = {place: schema.load(place.file) for place in files.values()}
    if not contents[files.get("validation", places.train)]["annotations"]:
        raise UserError(f"{files.get('validation', places.train).file} has no annotations; an evaluation needs some")
    notes = list(places.notes)
    if include_masks is None:
        include_masks, lines = _have_masks(contents)
        notes += lines
    categories = schema.categories(contents)
    if semantic and len(categories.names) >= masks.IGNORED:
        raise UserError(f"{len(categories.names)} categories; a class for every pixel allows {masks.IGNORED - 1}")
    form = _Form(shards, include_masks, semantic, categories.names, stored_pixels)
    entries = {
        split: schema.entries(place, contents[place], categories, include_masks) for split, place in files.items()
    }
    del contents
    if not leniency.invalid:
        problems.refuse([its.problems for its in entries.values()])
    for its in entries.values():
        box_forms.check(its, {image.key: image.stated for image in its.images})
    if places.validation is None:
        entries, line = division.divide(entries["train"], data_path, progress)
        notes.append(line)
    built = {
        split: splits.build(its, data_path, include_masks, leniency.missing, progress) for split, its in entries.items()
    }
    if not leniency.invalid:
        problems.refuse([its.problems for its in entries.values()])
    for split, rows in built.items():
        _check_anything_left(split, entries[split].place.name, rows)
    if stored_pixels is not None:
        built["train"] = splits.noting_reduced(built["train"], stored_pixels)
    with whole_directory(directory) as partial:
        for split, rows in built.items():
            _write(Path(partial), split, rows, form, progress)
        # What an evaluation compares with; the records hold the same objects, but for those without a mask.
        listed = [dict(id=number, name=name) for number, name in categories.names.items()]
        images = [image.row() for image in built["validation"].images]
        objects = built["validation"].objects
        unmasked = [{**row, "id": number} for number, row in enumerate(built["validation"].unmasked, len(objects) + 1)]
        compared = dict(zip(schema.LISTS, (images, [*objects, *unmasked], listed)))
        (Path(partial) / "annotations_validation.json").write_text(json.dumps(compared), encoding="utf-8")
        class_names = tuple(categories.names.get(i, "") for i in range(max(categories.names) + 1))
        annotations = f"{experiment_yaml.HERE}/annotations_validation.json"
        _write_yaml(Path(partial) / "data.yaml", dict(annotation_file=annotations, **_task(class_names, form)))
        if semantic:
            classes = (BACKGROUND, *(categories.names[i] for i in sorted(categories.names)))
            _write_yaml(Path(partial) / "semantic.yaml", _task(classes, form))
    counts = {split: rows.count for split, rows in built.items()}
    left_out = Skipped.of(file for rows in built.values() for file in rows.left_out)
    if number := sum(len(rows.unmasked) for rows in built.values()):
        notes.append(
            f"{number} objects without a mask are not trained on, and what is found there is no mistake; without masks "
            "they are objects"
        )
    copies = _copies(built, data_path)
    return Prepared(directory, class_names, counts, semantic, (*notes, *categories.notes), left_out, copies)


def _have_masks(contents: Mapping[Place, schema.Content]) -> tuple[bool, list[str]]:
    """Whether nearly all objects of every split have a segmentation; and a line if only some have."""
    masked = {
        place.name: sum(isinstance(row, dict) and bool(row.get("segmentation")) for row in content["annotations"])
        for place, content in contents.items()
    }
    numbers = {place.name: len(content["annotations"]) for place, content in contents.items()}
    if all(masked[name] >= _MASKED * numbers[name] for name in masked):
        return True, []
    shares = ", ".join(f"{masked[name]} of {numbers[name]} objects of {name}" for name in masked)
    return False, [f"boxes alone are trained on: {shares} have a segmentation"] if any(masked.values()) else []


def _copies(built: Mapping[str, Split], data_path: Path) -> dict[str, Any]:
    """Images that are there more than once, in a split or in both."""

    def part(images: Sequence[ImageFile]) -> duplicates.Part:
        digests = b"".join(image.digest for image in images)
        labels = np.zeros(len(images), np.int32)  # Images have none.
        return duplicates.Part(digests, labels, lambda place: os.path.relpath(images[place].path, data_path))

    found = duplicates.count({split: part(rows.images) for split, rows in built.items()})
    found["names"].pop("conflicting")
    found.pop("conflicting")
    return found


def _check_anything_left(split: str, name: str, rows: Split) -> None:
    """Refuses a split of which nothing is left, or no object to evaluate on."""
    count = rows.count
    if not count.images:
        raise UserError(f"no image of {name} is left: {_reasons(count.images_left_out)}")
    if count.given_objects and not count.objects:
        hint = "; --no-masks writes boxes alone" if splits.NO_MASK in count.objects_left_out else ""
        raise UserError(f"no object of {name} is left: {_reasons(count.objects_left_out)}{hint}")
    if split == "validation" and count.objects == count.crowds:
        raise UserError(f"all {count.objects} objects of {name} are crowds; an evaluation needs others")


def _reasons(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in left_out.items())


@dataclasses.dataclass(frozen=True)
class _Form:
    """What the records are like: how many files, what they hold, names by category identifier, pixels in training."""

    shards: int
    include_masks: bool
    semantic: bool
    categories: Mapping[int, str]
    stored_pixels: int | None = None


def _task(class_names: Sequence[str], form: _Form) -> dict[str, Any]:
    """The part of a task that names data and classes."""
    return records.task(class_names, form.shards, form.stored_pixels)


def _write_yaml(path: Path, task: Mapping[str, Any]) -> None:
    path.write_text(experiment_yaml.text(dict(task=task), _COMMENT), encoding="utf-8")


def _write(directory: Path, name: str, split: Split, form: _Form, progress: bool) -> None:
    """Writes the records of one split, images in a fixed random order, dealt out to the shards in turn."""
    objects, regions = _by_image(split.objects), _by_image([*split.unboxed, *split.unmasked])
    images = split.images
    identifiers = sorted(form.categories)
    pixels = form.stored_pixels if name == "train" else None
    with records.writer(directory, name, form.shards) as write:
        for i in tqdm.tqdm(records.order(len(images)), desc=name, unit="image", disable=not progress):
            image, rows = images[i], objects[images[i].identifier]
            example = _example(image, rows, form, pixels)
            if form.semantic:
                drawn = rows + regions[image.identifier]
                classes = masks.class_map(drawn, identifiers, image.height, image.width)
                if pixels is not None:
                    classes = reduced.nearest(classes, reduced.size_within((image.height, image.width), pixels))
                encoded = tf.io.encode_png(classes[..., None]).numpy()
                example.features.feature[records.CLASSES].bytes_list.value.append(encoded)
            write(example)


def _example(image: ImageFile, rows: Sequence[Mapping[str, Any]], form: _Form, pixels: int | None) -> tf.train.Example:
    """One record; of a picture of more than `pixels` pixels reduced to them. Boxes count in shares of its sides."""
    # Here, because importing it defines flags. Of it only the conversion is used: its writer forks this process, with
    # TensorFlow's threads in it, and may hang.
    from official.vision.data import create_coco_tf_record, tfrecord_lib

    encoded, kind = pictures.encoded(image.path)
    size = stored = (image.height, image.width)
    if pixels is not None and (stored := reduced.size_within(size, pixels)) != size:
        encoded = reduced.within(encoded, pixels)
        share = stored[0] * stored[1] / (size[0] * size[1])
        rows = [{**row, "area": share * row["area"]} for row in rows]
    features = tfrecord_lib.image_info_to_feature_dict(*stored, image.file_name, image.identifier, encoded, kind)
    if stored != size:
        features |= dict(zip(records.OWN_SIZE, map(tfrecord_lib.convert_to_feature, size)))
    if rows:
        objects, dropped = create_coco_tf_record.bbox_annotations_to_feature_dict(
            [masks.convertible(row, stored) for row in rows] if form.include_masks else rows,
            *size,
            form.categories,
            form.include_masks,
        )
        if dropped:
            raise UserError(f"the Model Garden dropped {dropped} boxes of {image.file_name}")
        features |= objects
    return tf.train.Example(features=tf.train.Features(feature=features))


def _by_image(rows: Sequence[Mapping[str, Any]]) -> Mapping[int, list[Mapping[str, Any]]]:
    """Annotations by the identifier of their image; none for any other."""
    found: dict[int, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        found[row["image_id"]].append(row)
    return found
