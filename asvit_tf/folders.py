"""Image folders: one subfolder for each class. No TensorFlow, so that a wrong path is refused at once."""

from __future__ import annotations

from pathlib import Path

from asvit_tf.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


def class_folders(data_path: Path) -> list[Path]:
    """The class subfolders of an image folder, sorted by name.

    Raises:
      UserError: It is not a folder, or has fewer than two subfolders.
    """
    if not data_path.is_dir():
        raise UserError(f"{data_path} is not a folder; expected one with a subfolder of images for each class")
    folders = sorted(entry for entry in data_path.iterdir() if entry.is_dir())
    if len(folders) < 2:
        raise UserError(f"{data_path} has {len(folders)} subfolders; expected at least two, one for each class")
    return folders


def image_files(folder: Path) -> list[Path]:
    """Files below a class folder that are named like images, sorted; whether they are images shows when decoded."""
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
