"""The command prepare: a folder of images into TFRecords."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

import click

from asvit_tf.cli.console import AS_JSON, echo_skipped, only_result_on_stdout, print_json, quiet_tensorflow
from asvit_tf.cli.options import PathName
from asvit_tf.dataloaders import experiment_yaml, record_paths
from asvit_tf.dataloaders.folders import layout

_PARTS = ("train", "validation")
_PLAIN = re.compile(r"/[A-Za-z0-9_./*-]+")  # What nobody takes for anything but a path.


@click.command()
@click.argument("folder", type=PathName())
@click.option("--output", required=True, type=PathName(), help="Directory for the TFRecords; it must not exist.")
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
    if os.path.lexists(output):
        raise click.UsageError(f"{output} exists; choose another directory")
    layout(folder, [output])
    with only_result_on_stdout():
        quiet_tensorflow()
        from asvit_tf.dataloaders import classification as data

        dataset = data.prepare(output, folder, shards, progress=True, threads=threads)
    result = dataset.as_dict()
    if as_json:
        print_json(result)
        return
    fields: dict[str, dict[str, Any]] = {part: dict(input_path=pasted(result[f"{part}_path"])) for part in _PARTS}
    if not dataset.jpeg_only:
        fields = {part: {**its, "decode_jpeg_only": False} for part, its in fields.items()}
    test = f", {dataset.test_examples} of a test split kept apart" if dataset.test_examples else ""
    click.echo(
        f"{len(dataset.class_names)} classes, {dataset.train_examples} images for training and "
        f"{dataset.validation_examples} held out{test}, {len(dataset.skipped)} files skipped"
    )
    echo_skipped(result)
    click.echo(override_flag(fields))


def pasted(path: str) -> str:
    """A path of records as `input_path` takes it, from any directory."""
    directory, name = os.path.split(os.path.abspath(path))
    return record_paths.pattern(directory, name)


def override_flag(fields: Mapping[str, Mapping[str, Any]]) -> str:
    """`--params_override=...` for a shell: as `a.b=c,...`, or as YAML where a path does not allow that.

    Args:
      fields: Of the data sections by part, "train" or "validation".
    """
    if all(_PLAIN.fullmatch(its["input_path"]) for its in fields.values()):
        keys = [key for key in ("input_path", "decode_jpeg_only") if key in next(iter(fields.values()))]
        pairs = [(f"task.{part}_data.{key}", its[key]) for key in keys for part, its in fields.items()]
        value = ",".join(f"{key}={'false' if value is False else value}" for key, value in pairs)
    else:
        value = experiment_yaml.one_line(dict(task={f"{part}_data": dict(its) for part, its in fields.items()}))
    return f"--params_override={shlex.quote(value)}"
