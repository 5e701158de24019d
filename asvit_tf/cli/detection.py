"""The commands prepare-coco, prepare-segmentation, shapes, detect and segment."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping
from typing import Any

import click

from asvit_tf.cli.console import AS_JSON, only_result_on_stdout, print_json, quiet_tensorflow
from asvit_tf.cli.options import LABELS, PathName


@click.command("prepare-coco")
@click.argument("folder", type=PathName())
@click.option("--output", required=True, type=PathName(), help="Directory for the TFRecords; it must not exist.")
@click.option("--train", "train_name", help="Split to train on, such as train2017.  [default: the one named train...]")
@click.option(
    "--validation",
    "validation_name",
    help="Split to evaluate on.  [default: the one named val...; of a single file a fifth]",
)
@click.option(
    "--shards", default=1, show_default=True, type=click.IntRange(min=1), help="Files of each split; 256 for COCO."
)
@click.option("--masks/--no-masks", default=True, show_default=True, help="Write masks; RetinaNet needs none.")
@click.option("--semantic", is_flag=True, help="Write a class for every pixel too, for segmentation_asvit_coco.")
@click.option("--skip-missing", is_flag=True, help="Leave images out that are missing, instead of refusing.")
@click.option(
    "--skip-invalid", is_flag=True, help="Leave images and annotations out that cannot be read, instead of refusing."
)
@AS_JSON
def prepare_coco(
    folder: str,
    output: str,
    train_name: str | None,
    validation_name: str | None,
    shards: int,
    masks: bool,
    semantic: bool,
    skip_missing: bool,
    skip_invalid: bool,
    as_json: bool,
) -> None:
    """Turns FOLDER, laid out as COCO is, into TFRecords for detection.

    FOLDER holds annotations/instances_NAME.json, and the images of each in NAME/; or, as Roboflow exports it, both in
    train/ and valid/. Images without boxes and crowds are kept; objects with an empty box are left out and counted;
    boxes are cut at the border of their image.
    """
    if os.path.lexists(output):
        raise click.UsageError(f"{output} exists; choose another directory")
    names = dict(train=train_name, validation=validation_name)
    with only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf.dataloaders import coco

        leniency = coco.Leniency(skip_missing, skip_invalid)
        prepared = coco.prepare(output, folder, names, shards, masks, leniency, progress=True, semantic=semantic)
    if as_json:
        files = dict(config_file=prepared.config_file, semantic_config_file=prepared.semantic_config_file)
        print_json({**dataclasses.asdict(prepared), **files, **prepared.skipped.as_dict()})
        return
    for split, count in prepared.counts.items():
        click.echo(
            f"{split}: {count.images} images, {count.without_boxes} of them without boxes; {count.objects} objects, "
            f"{count.crowds} of them crowds; left out: {count.degenerate} empty objects, {count.missing} missing images"
        )
    for line in prepared.left_out:
        click.echo(line)
    click.echo(f"--config_file={shlex.quote(prepared.config_file)}")
    if prepared.semantic_config_file is not None:
        click.echo(f"for segmentation_asvit_coco --config_file={shlex.quote(prepared.semantic_config_file)}")


@click.command("prepare-segmentation")
@click.argument("images", type=PathName())
@click.argument("masks", type=PathName())
@click.option("--output", required=True, type=PathName(), help="Directory for the TFRecords; it must not exist.")
@LABELS
@click.option("--shards", default=1, show_default=True, type=click.IntRange(min=1), help="Files of each split.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads that read images.  [default: one a core]")
@AS_JSON
def prepare_segmentation(
    images: str,
    masks: str,
    output: str,
    classes: str | None,
    ignored: tuple[str, ...],
    shards: int,
    threads: int | None,
    as_json: bool,
    **naming: Any,
) -> None:
    """Turns IMAGES and MASKS, one label picture for each image, into TFRecords for segmentation_asvit_coco.

    A label picture is a PNG of the image's size with the number of a class at every pixel, as grey value or index of a
    palette, or with its colour. It lies in the same folder below MASKS as its image below IMAGES, under the same name.
    Folders named train, val and test are splits; without them and --splits a fifth of the images is held out.
    """
    if os.path.lexists(output):
        raise click.UsageError(f"{output} exists; choose another directory")
    with only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf.dataloaders.labels import pairs, prepare

        prepared = prepare.prepare(
            output, images, masks, classes, ignored, pairs.Naming(**naming), shards, threads, progress=True
        )
    if as_json:
        fields = dataclasses.asdict(prepared)
        print_json({**fields, "config_file": prepared.config_file, **prepared.skipped.as_dict()})
        return
    for split, count in prepared.counts.items():
        ignored_share = count.ignored_pixels / (count.ignored_pixels + sum(count.pixels))
        click.echo(
            f"{split}: {count.images} images up to {count.height} x {count.width} pixels, {ignored_share:.1%} of all "
            "pixels ignored"
        )
    shares = [(name, *_shares(prepared.counts, place)) for place, name in enumerate(prepared.class_names)]
    for name, *its in shares:
        click.echo(f"  {name:<24}" + "".join(f"  {split} {share:6.2%}" for split, share in zip(prepared.counts, its)))
    for line in prepared.left_out:
        click.echo(line)
    click.echo(f"--config_file={shlex.quote(prepared.config_file)}")


def _shares(counts: Mapping[str, Any], label: int) -> list[float]:
    """The share of a class in the pixels of each split that are of any class."""
    return [count.pixels[label] / sum(count.pixels) for count in counts.values()]


@click.command()
@click.option("--output", required=True, type=PathName(), help="Directory for the scenes; it must not exist.")
@click.option("--train", default=1000, show_default=True, type=click.IntRange(min=1), help="Scenes to train on.")
@click.option("--validation", default=200, show_default=True, type=click.IntRange(min=1), help="Held-out scenes.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the scenes.")
@AS_JSON
def shapes(output: str, as_json: bool, **options: int) -> None:
    """Draws synthetic scenes of overlapping shapes in clutter, with exact boxes and masks, in COCO's layout.

    They try the path of detection out on a laptop: next is asvit prepare-coco.
    """
    with only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf.dataloaders import shapes as drawing

        drawing.write(output, **options, progress=True)
    if as_json:
        print_json(dict(output=output, **options))
    else:
        click.echo(f"synthetic scenes {output}")


@click.command()
@click.argument("saved-model", type=PathName())
@click.argument("image", type=PathName())
@click.option("--output", required=True, type=PathName(), help="PNG or JPEG with what was found drawn on it.")
@click.option("--min-score", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Least score to show.")
@AS_JSON
def detect(saved_model: str, image: str, output: str, min_score: float, as_json: bool) -> None:
    """Finds objects in IMAGE with SAVED_MODEL and draws boxes, masks, labels and scores."""
    quiet_tensorflow()
    from asvit_tf.serving import detect as detection
    from asvit_tf.serving import drawing

    with only_result_on_stdout():
        drawing.check_output(output)
        found = detection.detect(saved_model, image, min_score)
        detection.draw(image, found, output)
    if as_json:
        print_json(dict(image=image, output=output, detections=[item.as_dict() for item in found]))
        return
    for item in found:
        left, top, right, bottom = item.box
        click.echo(f"{item.label:<20}{item.score:.3f}  {left:.0f} {top:.0f} {right:.0f} {bottom:.0f}")
    click.echo(f"{len(found)} objects, drawn in {output}")


@click.command()
@click.argument("saved-model", type=PathName())
@click.argument("image", type=PathName())
@click.option(
    "--output", required=True, type=PathName(), help="PNG or JPEG with the classes drawn on it, and a legend."
)
@click.option("--mask", type=PathName(), help="PNG for the class of every pixel, as index of a palette.")
@AS_JSON
def segment(saved_model: str, image: str, output: str, mask: str | None, as_json: bool) -> None:
    """Finds the class of every pixel of IMAGE with SAVED_MODEL, at the image's own size, and draws it."""
    quiet_tensorflow()
    from asvit_tf.serving import drawing
    from asvit_tf.serving import segment as segmentation

    with only_result_on_stdout():
        drawing.check_output(output)
        if mask is not None:
            drawing.check_output(mask, (".png",))
        found = segmentation.segment(saved_model, image)
        segmentation.draw(image, found, output)
        if mask is not None:
            segmentation.write_mask(found, mask)
    shares = found.shares
    if as_json:
        rows = [dict(label=found.class_names[label], number=label, share=share) for label, share in shares]
        print_json(dict(image=image, output=output, mask=mask, classes=rows))
        return
    for label, share in shares:
        click.echo(f"{found.class_names[label]:<24}{share:7.2%}")
    click.echo(f"{len(shares)} classes, drawn in {output}")
