"""The command prepare: a folder of images into TFRecords."""

from __future__ import annotations

from pathlib import Path

import click

from asvit_tf.cli.console import AS_JSON, echo_skipped, only_result_on_stdout, print_json, quiet_tensorflow
from asvit_tf.dataloaders.folders import layout

_PARTS = ("train", "validation")


@click.command()
@click.argument("folder", type=click.Path())
@click.option("--output", required=True, type=click.Path(), help="Directory for the TFRecords; it must not exist.")
@click.option(
    "--shards", default=1, show_default=True, type=click.IntRange(min=1), help="Files of each split; 128 for ImageNet."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads that read images.  [default: one a core]")
@AS_JSON
def prepare(folder: str, output: str, shards: int, threads: int | None, as_json: bool) -> None:
    """Turns FOLDER, with one subfolder of images for each class, into TFRecords for training.

    A fifth of every class is held out, unless FOLDER holds the splits as train, val and test, by these or similar
    names; a test split is kept apart. Whatever Pillow reads is read, and set upright by EXIF; what is not read is
    counted and named. Killed and started again, it continues by shard.
    """
    if Path(output).exists():
        raise click.UsageError(f"{output} exists; choose another directory")
    if not Path(folder).is_dir():
        raise click.UsageError(f"{folder} is not a folder")
    layout(folder, [output])
    with only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf.dataloaders import classification as data

        dataset = data.prepare(output, folder, shards, progress=True, threads=threads)
    result = dataset.as_dict()
    if as_json:
        print_json(result)
        return
    test = f", {dataset.test_examples} of a test split kept apart" if dataset.test_examples else ""
    click.echo(
        f"{len(dataset.class_names)} classes, {dataset.train_examples} images for training and "
        f"{dataset.validation_examples} held out{test}, {len(dataset.skipped)} files skipped"
    )
    echo_skipped(result)
    click.echo(
        f"--params_override=task.train_data.input_path={result['train_path']},"
        f"task.validation_data.input_path={result['validation_path']}"
        + ("" if dataset.jpeg_only else "".join(f",task.{part}_data.decode_jpeg_only=false" for part in _PARTS))
    )
