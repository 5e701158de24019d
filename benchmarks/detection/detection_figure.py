"""docs/figures/detection.png: what exported detectors find on held-out synthetic scenes.

    python benchmarks/detection/detection_figure.py SCENES SAVED_MODEL [SAVED_MODEL ...]

SCENES is what asvit shapes wrote. A row for each SavedModel, the first scenes of the held-out split, drawn by asvit
detect on three times enlarged images.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from asvit_tf.serving import detect

FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "detection.png"
COLUMNS, SIDE = 4, 384


def main():
    scenes, *models = sys.argv[1:]
    files = sorted((Path(scenes) / "validation").iterdir())[:COLUMNS]
    figure = Image.new("RGB", (COLUMNS * SIDE, len(models) * SIDE))
    with tempfile.TemporaryDirectory() as directory:
        image, drawn = (str(Path(directory) / name) for name in ("image.png", "drawn.png"))
        for row, model in enumerate(models):
            for column, file in enumerate(files):
                Image.open(file).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(image)
                detect.draw(image, detect.detect(model, image), drawn)
                figure.paste(Image.open(drawn), (column * SIDE, row * SIDE))
    figure.quantize(256).save(FIGURE, optimize=True)  # A third of the bytes.


if __name__ == "__main__":
    main()
