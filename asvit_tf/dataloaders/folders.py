"""Where images lie: folders, and what TensorFlow Datasets has prepared. No TensorFlow: wrong paths fail at once."""

from __future__ import annotations

import os
from pathlib import Path

from asvit_tf.errors import OneClassError, UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


def class_folders(data_path: Path) -> list[Path]:
    """The class subfolders of an image folder, sorted by name; hidden ones (`.git`, `__MACOSX`) are none.

    Raises:
      OneClassError: It has one subfolder.
      UserError: It is not a folder, has no subfolders, or one has a name that is not text.
    """
    if not data_path.is_dir():
        raise UserError(f"{data_path} is not a folder; expected one with a subfolder of images for each class")
    folders = sorted(path for path in data_path.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    if not folders:
        raise UserError(f"{data_path} has 0 subfolders; expected at least two, one for each class")
    if len(folders) == 1:
        raise OneClassError(
            f"{data_path} has one subfolder, {folders[0].name!r}; a single class cannot be learned; expected at "
            "least two, one for each class"
        )
    for folder in folders:
        if os.fsencode(folder.name).decode("utf-8", "replace") != folder.name:
            raise UserError(f"class folder {os.fsencode(folder.name)!r} of {data_path} is not named in UTF-8")
    return folders


def image_files(folder: Path) -> list[Path]:
    """Files below a class folder that are named like images, sorted; whether they are images shows when decoded."""
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def prepared_tfds(name: str, data_dir: str | None = None) -> Path:
    """Newest version of a data set that TensorFlow Datasets has prepared on this machine.

    TensorFlow Datasets itself would first try the network, for minutes.

    Args:
      name: Name of the data set, with or without configuration and version.
      data_dir: Where it was prepared; None for the default of TensorFlow Datasets.

    Raises:
      UserError: It is not there.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    prepared = [file.parent for file in (root / name.replace(":", "/")).rglob("dataset_info.json")]
    if not prepared:
        raise UserError(
            f"dataset {name!r} is not prepared in {root}; let TensorFlow Datasets build it there, or name the "
            "directory where it has (TFDS_DATA_DIR, --data_dir, or tfds_data_dir in a config)"
        )
    return max(prepared, key=lambda path: [int(part) if part.isdigit() else 0 for part in path.name.split(".")])
