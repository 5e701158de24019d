"""Options that several commands share."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from asvit_tf.choices import ENGINES, HARDWARE, INITIALIZATIONS, NORMALIZATIONS, RADII
from asvit_tf.cli.console import Choice

_LONGEST_NAME = 255  # Bytes of one name on the file systems of Linux and macOS.
_LONGEST_PATH = 4095  # Bytes that Linux opens.


class Positive(click.ParamType):
    """A finite number above 0; NaN and infinity are none."""

    name = "number above 0"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            self.fail(f"{value!r} is not a number above 0", param, ctx)
        return number


class ImageSize(click.ParamType):
    """Pixels per side, as 224; or rows and columns, as 160x224, which become a pair unless they are equal."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, int]:
        sides = re.fullmatch(r"(\d{1,5})(?:\s*[xX]\s*(\d{1,5}))?", str(value).strip(), re.ASCII)
        if sides is None:
            self.fail(f"{value!r} is no image size; allowed are pixels per side, as 224, or rows x columns, as 160x224")
        rows, columns = int(sides[1]), int(sides[2] or sides[1])
        return rows if rows == columns else (rows, columns)


class PathName(click.Path):
    """A path as the other libraries can open it: ~ is the home directory, a slash at the end goes.

    TensorFlow takes names in UTF-8 only. Addresses such as gs://bucket/x stay as they are.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = os.fsdecode(value)
        try:
            path.encode("utf-8")
        except UnicodeEncodeError:
            self.fail(f"{os.fsencode(path)!r} is not named in UTF-8, as TensorFlow needs it; rename it", param, ctx)
        if not path or "\0" in path:
            self.fail("the path is empty" if not path else "a path cannot hold a zero", param, ctx)
        if "://" in path:
            return path
        if path.startswith("~"):
            path = os.path.expanduser(path)
        for name in path.split("/"):
            if len(name.encode()) > _LONGEST_NAME:
                self.fail(f"{name[:20]}... has {len(name.encode())} bytes; allowed are {_LONGEST_NAME}", param, ctx)
        path = path.rstrip("/") or "/"
        if len(path.encode()) > _LONGEST_PATH:
            self.fail(f"{path[:20]}... has {len(path.encode())} bytes; allowed are {_LONGEST_PATH}", param, ctx)
        return path


def together(*options: Callable) -> Callable:
    """Several click options as one decorator."""

    def decorate(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def cluster_option(work: str) -> Callable:
    """`--cluster`; `work` as of `worker_options`."""
    return click.option(
        "--cluster",
        metavar="ADDRESS|local:N",
        help=f"A Dask scheduler, such as 10.0.0.1:8786, whose workers score{work}; local:N starts N workers here.",
    )


def worker_options(work: str) -> Callable:
    """`--workers`, `--worker-threads` and `--cluster`, from which `WorkerSettings` are built.

    Args:
      work: What a process does.
    """
    return together(
        click.option(
            "--workers",
            default=1,
            show_default=True,
            type=click.IntRange(min=1),
            help=f"Processes{work} (not threads that read data).",
        ),
        click.option(
            "--worker-threads",
            type=click.IntRange(min=1),
            help="Threads of each process.  [default: an equal share of the cores; elsewhere what the worker has]",
        ),
        cluster_option(work),
    )


def hardware_option(words: Sequence[str], help: str) -> Callable:
    """`--hardware` of a command.

    Args:
      words: Which of `choices.HARDWARE` it takes.
      help: What it does.
    """
    return click.option("--hardware", default=HARDWARE[0], show_default=True, type=Choice(words), help=help)


HARDWARE_OF_RUN = hardware_option(
    HARDWARE, "What scores and trains. auto: GPUs that TensorFlow can use, else this machine's TPU, else the CPU."
)
# The measures do not run on TPUs.
HARDWARE_OF_SCORES = hardware_option(
    [word for word in HARDWARE if word != "tpu"], "What scores. auto: GPUs that TensorFlow can use, else the CPU."
)
TPU = click.option("--tpu", help="Name or address of a TPU; local is this machine's.")
IMAGES = together(
    click.option(
        "--dataset", help="digits, cluttered_digits, noise, or a data set that TensorFlow Datasets has prepared."
    ),
    click.option("--data-path", type=PathName(), help="Folder of images, or TFRecords by a pattern; no labels needed."),
    click.option("--data-dir", type=PathName(), help="Where TensorFlow Datasets keeps its data sets."),
    click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=2), help="Images in an NTK."),
    click.option("--image-size", default=224, show_default=True, type=click.IntRange(min=1), help="Pixels per side."),
)
BASE_STRIDE = click.option(
    "--base-stride",
    type=click.IntRange(min=1),
    help="Pixels between tokens at the finest tokenization.  [default: 4 from 96 pixels a side, 2 from 32, 1 below]",
)
MEASURING = together(
    BASE_STRIDE,
    click.option("--points", default=10, show_default=True, type=click.IntRange(min=3), help="Angles on a circle."),
    click.option(
        "--radius",
        default="sqrt_n",
        show_default=True,
        type=Choice(RADII),
        help="Radius of the circle: the root of the number of inputs, or 1.",
    ),
    click.option(
        "--normalization",
        default="identity",
        show_default=True,
        type=Choice(NORMALIZATIONS),
        help="Norms of the network that the circle goes through; the NTK always keeps them.",
    ),
    click.option(
        "--initialization",
        default="released",
        show_default=True,
        type=Choice(INITIALIZATIONS),
        help="Initial weights: deviation 0.02, or one over the root of the fan-in.",
    ),
    click.option(
        "--engine",
        default="jet",
        show_default=True,
        type=Choice(ENGINES),
        help="How to differentiate along the circle; all give the same.",
    ),
)
LABELS = together(
    click.option("--classes", type=PathName(), help="Text file: a class a line, as NAME, NUMBER NAME or R G B NAME."),
    click.option(
        "--ignored",
        multiple=True,
        help="Number or class of pixels to leave out; may be repeated. Among numbers 255 is.",
    ),
    click.option("--splits", type=PathName(), help="Folder with lists of names: train.txt, val.txt, test.txt."),
    click.option("--image-suffix", help="End of the images' names, before the dot, such as _leftImg8bit."),
    click.option("--mask-suffix", help="End of the label pictures' names, such as _gtFine_labelIds."),
    click.option("--skip-missing", is_flag=True, help="Leave images out that have no label picture or are damaged."),
)
