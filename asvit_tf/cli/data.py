"""The command prepare: a folder of images into TFRecords."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from asvit_tf.cli.console import AS_JSON, only_result_on_stdout, print_json, quiet_tensorflow
from asvit_tf.cli.options import PathName

_PARTS = ("train", "validation")


@click.command()
@click.argument("folder", type=PathName())
@click.option("--output", required=True, type=PathName(), help="Directory for the TFRecords; it must not exist.")
@click.option(
    "--shards", default=1, show_default=True, type=click.IntRange(min=1), help="Files of each split; 128 for ImageNet."
)
@AS_JSON
def prepare(folder: str, output: str, shards: int, as_json: bool) -> None:
    """Turns FOLDER, with one subfolder of images for each class, into TFRecords for training.

    A fifth of every class is held out, unless FOLDER holds the two splits as train and val. Files that are no images
    are skipped and counted.
    """
    if Path(output).exists():
        raise click.UsageError(f"{output} exists; choose another directory")
    if not Path(folder).is_dir():
        raise click.UsageError(f"{folder} is not a folder")
    with only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf.dataloaders import classification as data

        dataset = data.prepare(output, folder, shards, progress=True)
    paths = dict(train_path=dataset.train_path, validation_path=dataset.validation_path)
    if as_json:
        print_json({**dataclasses.asdict(dataset), **paths})
        return
    click.echo(
        f"{len(dataset.class_names)} classes, {dataset.train_examples} images for training and "
        f"{dataset.validation_examples} held out, {len(dataset.skipped)} files skipped\n"
        f"--params_override=task.train_data.input_path={paths['train_path']},"
        f"task.validation_data.input_path={paths['validation_path']}"
        + ("" if dataset.jpeg_only else "".join(f",task.{part}_data.decode_jpeg_only=false" for part in _PARTS))
    )
