"""COCO's files in, TFRecords out: boxes and masks as the Model Garden's input pipeline reads them.

The Model Garden's own conversion makes every example; around it, what is missing or wrong is refused in one line or
counted, and nothing is left half-written.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from asvit_tf.dataloaders import coco_annotations, experiment_yaml, masks
from asvit_tf.dataloaders.coco_annotations import Content, Split, SplitCount
from asvit_tf.dataloaders.imagefiles import door
from asvit_tf.dataloaders.imagefiles.skipped import Skipped
from asvit_tf.errors import UserError
from asvit_tf.storage import whole_directory

BACKGROUND = "background"  # Class 0 of a map of classes.
SPLITS = {"train": "train", "validation": "val"}  # Ours, and how the names of COCO's begin.
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
      skipped: Image files that were left out, and why.
    """

    directory: str
    class_names: tuple[str, ...]
    counts: Mapping[str, SplitCount]
    semantic: bool = False
    skipped: Skipped = dataclasses.field(default_factory=Skipped)

    @property
    def config_file(self) -> str:
        """Paths, classes and names as a YAML for `--config_file` of a detector."""
        return os.path.join(self.directory, "data.yaml")

    @property
    def semantic_config_file(self) -> str | None:
        """The same for semantic segmentation."""
        return os.path.join(self.directory, "semantic.yaml") if self.semantic else None


def prepare(
    directory: str | os.PathLike,
    data_path: str | os.PathLike,
    names: Mapping[str, str | None] | None = None,
    shards: int = 1,
    include_masks: bool = True,
    skip_missing: bool = False,
    progress: bool = False,
    semantic: bool = False,
) -> Prepared:
    """Writes the TFRecords of a data set in COCO's layout; complete or not at all.

    Args:
      directory: Where they go; it must not exist.
      data_path: Holds `annotations/instances_NAME.json` and the images of each in `NAME/`.
      names: NAME of "train" and "validation"; what is left out is found if there is one that begins with train or val.
      shards: Files of each split, >= 1.
      include_masks: Write masks too; Cascade Mask R-CNN needs them, RetinaNet does not.
      skip_missing: Leave images out whose file is missing or no image, instead of refusing.
      progress: Show a progress bar on standard error.
      semantic: Write a class for every pixel too (see `masks.class_map`), from the masks; segmentation needs it.

    Raises:
      UserError: A file is missing or is no COCO annotation file; identifiers contradict each other; an image has not
        the size that is stated.
      StoppedError: The disk is full.
    """
    if shards < 1:
        raise UserError(f"shards is {shards}; it must be at least 1")
    if semantic and not include_masks:
        raise UserError("a class for every pixel is made from the masks; leave them in")
    if os.path.exists(directory):
        raise UserError(f"{directory} exists; choose another directory")
    directory, data_path, names = os.path.abspath(directory), Path(data_path), names or {}
    found = {
        split: names.get(split) or coco_annotations.find(data_path, split, start) for split, start in SPLITS.items()
    }
    contents = {
        split: coco_annotations.read(data_path / "annotations" / f"instances_{name}.json")
        for split, name in found.items()
    }
    categories = {split: coco_annotations.categories(content, found[split]) for split, content in contents.items()}
    if categories["train"] != categories["validation"]:
        raise UserError(f"the categories of {found['train']} and {found['validation']} are not the same")
    if semantic and len(categories["train"]) >= masks.IGNORED:
        raise UserError(f"{len(categories['train'])} categories; a class for every pixel allows {masks.IGNORED - 1}")
    form = _Form(shards, include_masks, semantic, categories["train"])
    splits = {
        split: _checked(content, data_path / found[split], include_masks, skip_missing, progress)
        for split, content in contents.items()
    }
    skipped = Skipped.of(
        (os.path.join(found[split], str(image["file_name"])), str(door.reason_against(path)))
        for split, content in contents.items()
        for image in coco_annotations.left_out(content["images"], splits[split].images)
        for path in [data_path / found[split] / str(image["file_name"])]
    )
    with whole_directory(directory) as partial:
        for split, rows in splits.items():
            _write(Path(partial), split, rows, form, progress)
        # What an evaluation compares with; the records hold the same objects.
        validation = splits["validation"]
        lists = (validation.images, validation.objects, contents["validation"]["categories"])
        compared = dict(zip(coco_annotations.LISTS, lists))
        (Path(partial) / "annotations_validation.json").write_text(json.dumps(compared))
        class_names = tuple(categories["train"].get(i, "") for i in range(max(categories["train"]) + 1))
        annotations = os.path.join(directory, "annotations_validation.json")
        task = dict(annotation_file=annotations, **_task(directory, class_names, form))
        (Path(partial) / "data.yaml").write_text(experiment_yaml.text(dict(task=task), _COMMENT))
        if semantic:
            classes = (BACKGROUND, *(categories["train"][i] for i in sorted(categories["train"])))
            task = _task(directory, classes, form)
            (Path(partial) / "semantic.yaml").write_text(experiment_yaml.text(dict(task=task), _COMMENT))
    counts = {split: rows.count for split, rows in splits.items()}
    return Prepared(directory, class_names, counts, semantic, skipped)


def _checked(content: Content, folder: Path, include_masks: bool, skip_missing: bool, progress: bool) -> Split:
    """A split without contradictions, in one form."""
    try:
        sizes = coco_annotations.image_sizes(content["images"], folder, progress)
        coco_annotations.check_images(content["images"], sizes, folder, skip_missing)
        present = coco_annotations.without_missing(content, sizes)
        coco_annotations.check_annotations(present, folder.name, include_masks)
        return Split.of(folder, present, sizes.count(None), include_masks)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"an image or annotation of {folder.name} lacks a field or has another type: {error}"
        ) from error


@dataclasses.dataclass(frozen=True)
class _Form:
    """What the records of both splits are like: how many files, what they hold, names by category identifier."""

    shards: int
    include_masks: bool
    semantic: bool
    categories: Mapping[int, str]


def _task(directory: str, class_names: Sequence[str], form: _Form) -> dict[str, Any]:
    """The part of a task that names data and classes."""
    paths = {split: os.path.join(directory, _pattern(split, form.shards)) for split in SPLITS}
    return dict(
        class_names=list(class_names),
        model=dict(num_classes=len(class_names)),
        train_data=dict(input_path=paths["train"]),
        validation_data=dict(input_path=paths["validation"]),
    )


def _pattern(split: str, shards: int) -> str:
    return f"{split}.tfrecord" if shards == 1 else f"{split}-*-of-{shards:05d}.tfrecord"


def _write(directory: Path, name: str, split: Split, form: _Form, progress: bool) -> None:
    """Writes the records of one split, images in a fixed random order, dealt out to the shards in turn."""
    # Here, because importing it defines flags. Of it only the conversion is used: its writer forks this process, with
    # TensorFlow's threads in it, and may hang.
    from official.vision.data import create_coco_tf_record

    objects, unboxed = _by_image(split.objects), _by_image(split.unboxed)
    images = split.images
    order = np.random.default_rng(0).permutation(len(images))
    identifiers = sorted(form.categories)
    names = [_pattern(name, form.shards).replace("*", f"{i:05d}") for i in range(form.shards)]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(tf.io.TFRecordWriter(str(directory / name))) for name in names]
        for written, i in enumerate(tqdm.tqdm(order, desc=name, unit="image", disable=not progress)):
            rows = objects[images[i]["id"]]
            example, dropped = create_coco_tf_record.create_tf_example(
                images[i],
                [str(split.folder)],
                bbox_annotations=[masks.convertible(row) for row in rows] if form.include_masks else rows,
                id_to_name_map=form.categories,
                include_masks=form.include_masks,
            )
            # The conversion has read the file as it is.
            encoded = door.read(split.folder / images[i]["file_name"], coco_annotations.stated_size(images[i]))
            for name_of_feature, value in (
                ("encoded", encoded),
                ("key/sha256", hashlib.sha256(encoded).hexdigest().encode()),
            ):
                example.features.feature[f"image/{name_of_feature}"].bytes_list.value[:] = [value]
            if dropped:
                raise UserError(f"the Model Garden dropped {dropped} boxes of {images[i]['file_name']}")
            if form.semantic:
                drawn = rows + unboxed[images[i]["id"]]
                classes = masks.class_map(drawn, identifiers, images[i]["height"], images[i]["width"])
                encoded = tf.io.encode_png(classes[..., None]).numpy()
                example.features.feature["image/segmentation/class/encoded"].bytes_list.value.append(encoded)
            writers[written % form.shards].write(example.SerializeToString())


def _by_image(rows: Sequence[Mapping[str, Any]]) -> Mapping[int, list[Mapping[str, Any]]]:
    """Annotations by the identifier of their image; none for any other."""
    found: dict[int, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        found[row["image_id"]].append(row)
    return found
