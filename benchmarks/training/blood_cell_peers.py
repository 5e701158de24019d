"""Blood cells without any flag of `asvit run`, beside a linear classifier on raw pixels and ResNet-20.

    python benchmarks/training/blood_cell_peers.py --cells CELLS --run DIR [--seed 0]

`CELLS` is what benchmarks/training/blood_cells.py wrote, `DIR` what `asvit run --data_path CELLS --output DIR` left.
The linear classifier is scikit-learn's multinomial logistic regression on the pixels of the images at 32 x 32, its
penalty the best of seven on a fifth of the training images. ResNet-20 (photograph_peers.py) has the epochs, images and
augmentation of the run, and its own optimizer. Rows go to benchmarks/results/blood_cell_peers.jsonl (or --results).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np
from PIL import Image

RESULTS = Path(__file__).parents[1] / "results" / "blood_cell_peers.jsonl"
SIDE = 32
PENALTIES = tuple(10.0**power for power in range(-4, 3))


def pixels(folder: Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, pixels and channels] from 0 to 1, and labels [N]."""
    paths = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    images = [np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE))).ravel() / 255 for path, _ in paths]
    return np.stack(images), np.array([label for _, label in paths])


def linear(cells: Path, names: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Accuracies of the linear classifier."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    split = StratifiedShuffleSplit(1, test_size=0.2, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    found = GridSearchCV(model, {"logisticregression__C": PENALTIES}, cv=split).fit(*pixels(cells / "train", names))
    images, labels = pixels(cells / "val", names)
    return {**accuracies(labels, found.predict(images)), "inverse_penalty": found.best_params_["logisticregression__C"]}


def resnet20(run: Path, seed: int) -> dict[str, Any]:
    """Accuracies of ResNet-20, trained as long as the run's network was, on what it was trained on."""
    import photograph_peers
    import tensorflow as tf

    from asvit_tf import registry_imports  # noqa: F401
    from asvit_tf.serving import export

    tf.keras.utils.set_random_seed(seed)
    params = photograph_peers.experiment(export.read_params(str(run / "train")), "resnet20", 0)
    params.task.train_data.seed = seed
    trainer = photograph_peers.trained(params)[0]
    predicted, labels = [], []
    for images, given in trainer.task.build_inputs(params.task.validation_data):
        predicted.append(trainer.model(images, training=False).numpy().argmax(-1))
        labels.append(given.numpy().argmax(-1) if given.shape.rank == 2 else given.numpy())
    epochs = params.trainer.train_steps // params.trainer.steps_per_loop
    return {**accuracies(np.concatenate(labels), np.concatenate(predicted)), "epochs": epochs}


def accuracies(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, and the mean of the classes' accuracies."""
    from sklearn.metrics import balanced_accuracy_score

    return dict(
        accuracy=float(np.mean(labels == predicted)), balanced=float(balanced_accuracy_score(labels, predicted))
    )


@click.command()
@click.option("--cells", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--run", "run", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--seed", default=0, show_default=True)
@click.option("--results", default=RESULTS, show_default=True, type=click.Path(path_type=Path))
def main(cells: Path, run: Path, seed: int, results: Path) -> None:
    from asvit_tf.journals import Journal

    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    names = tuple(sorted(folder.name for folder in (cells / "train").iterdir()))
    ours = dict(accuracy=result["accuracy"], balanced=result["balanced_accuracy"], network=result["grown"])
    rows: dict[str, Any] = {"asvit run": lambda: {**ours, "run_seconds": sum(result["seconds"].values())}}
    rows |= {"linear": lambda: linear(cells, names, seed), "resnet20": lambda: resnet20(run, seed)}
    journal = Journal(results)
    for name, measure in rows.items():
        start = time.perf_counter()
        row = dict(name=name, seed=seed, **measure(), seconds=time.perf_counter() - start)
        journal.append(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
