"""docs/figures/cells.png, docs/figures/streets.png: held-out photographs of finished runs, truth beside found.

    python benchmarks/detection/photograph_figure.py cells RUN [RUN ...]      # of asvit detect-run, a row each
    python benchmarks/detection/photograph_figure.py streets RUN              # of asvit segment-run

The pictures are those of the runs' reports, RUN/pictures, evenly taken from the held-out images and not chosen: of a
detector the first two (truth, then found), of a segmenter the first three (photograph, truth, answer).
"""

from __future__ import annotations

from pathlib import Path

import click
from PIL import Image

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
ROWS, COLUMNS = {"cells": 1, "streets": 3}, {"cells": 2, "streets": 1}
WIDTH = 1280  # Pixels of the figure.


def pictures(run: Path, number: int) -> list[Image.Image]:
    """The first ones of a run, by their numbers."""
    files = sorted((run / "pictures").glob("*.png"), key=lambda path: int(path.stem))
    return [Image.open(file).convert("RGB") for file in files[:number]]


@click.command()
@click.argument("name", type=click.Choice(["cells", "streets"]))
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(name: str, runs: tuple[Path, ...]) -> None:
    shown = [picture for run in runs for picture in pictures(run, ROWS[name] * COLUMNS[name])]
    width = WIDTH // COLUMNS[name]
    height = max(round(picture.height * width / picture.width) for picture in shown)
    figure = Image.new("RGB", (WIDTH, height * -(-len(shown) // COLUMNS[name])), "white")
    for place, picture in enumerate(shown):
        row, column = divmod(place, COLUMNS[name])
        resized = picture.resize((width, height), Image.Resampling.LANCZOS)
        figure.paste(resized, (column * width, row * height))
    figure.quantize(256).save(FIGURES / f"{name}.png", optimize=True)  # A third of the bytes.


if __name__ == "__main__":
    main()
