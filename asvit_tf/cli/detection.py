"""The commands prepare-coco, shapes and detect."""

from __future__ import annotations

import dataclasses
import os
import shlex

import click

from asvit_tf.cli.console import AS_JSON, echo_skipped, only_result_on_stdout, print_json, quiet_tensorflow
from asvit_tf.cli.options import PathName


@click.command("prepare-coco")
@click.argument("folder", type=PathName())
@click.option("--output", required=True, type=PathName(), help="Directory for the TFRecords; it must not exist.")
@click.option("--train", "train_name", help="Split to train on, such as train2017.  [default: the one named train...]")
@click.option("--validation", "validation_name", help="Split to evaluate on.  [default: the one named val...]")
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
        for what, left_out in (("images", count.images_left_out), ("objects", count.objects_left_out)):
            for reason, number in left_out.items():
                click.echo(f"  {number} {what} left out: {reason}")
        for note, number in count.notes.items():
            click.echo(f"  {number} {note}")
    echo_skipped(prepared.skipped.as_dict())
    for note in prepared.notes:
        click.echo(note)
    click.echo(f"--config_file={shlex.quote(prepared.config_file)}")
    if prepared.semantic_config_file is not None:
        click.echo(f"for segmentation_asvit_coco --config_file={shlex.quote(prepared.semantic_config_file)}")


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

    with only_result_on_stdout():
        detection.check_output(output)
        found = detection.detect(saved_model, image, min_score)
        detection.draw(image, found, output)
    if as_json:
        print_json(dict(image=image, output=output, detections=[item.as_dict() for item in found]))
        return
    for item in found:
        left, top, right, bottom = item.box
        click.echo(f"{item.label:<20}{item.score:.3f}  {left:.0f} {top:.0f} {right:.0f} {bottom:.0f}")
    click.echo(f"{len(found)} objects, drawn in {output}")
