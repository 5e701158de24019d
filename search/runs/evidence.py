"""Two steps of a run behind its training: answers to the held-out images, and what serving the network costs.

Each is in a directory of its own, written whole, and made again where the checkpoint is another one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from official.core import config_definitions as cfg

from asvit_tf.dataloaders.classification import Dataset
from asvit_tf.errors import UserError
from asvit_tf.modeling import checkpoints
from asvit_tf.serving import export, held_out, latency, tflite
from asvit_tf.serving.held_out import Predictions
from asvit_tf.storage import write_error, write_json
from asvit_tf.tasks import calibration
from asvit_tf.training.display.log_file import captured
from asvit_tf.training.saving import best

PREDICTIONS, SERVING = "predictions", "serving"
RESULT, TFLITE_FILE = "result.json", "model.tflite"


def predict(
    directory: Path, params: cfg.ExperimentConfig, dataset: Dataset, say: Callable[[str], None], checkpoint: str | None
) -> dict[str, Predictions]:
    """Answers to every image of the validation split, and of the test split where there is one.

    They are kept in `predictions/SPLIT.npz`, and `predictions/result.json` sums them up.

    Args:
      directory: Of the run.
      params: The experiment that was trained.
      dataset: Its images.
      say: Receives a line where there is something to do.
      checkpoint: Path of the checkpoint; None takes what is kept, whatever it is of, and asks nothing.

    Returns:
      By the name of the split; without a checkpoint, those that are kept.

    Raises:
      UserError: Something kept is damaged, or the records or the checkpoint are.
    """
    folder = directory / PREDICTIONS
    paths = {"validation": dataset.validation_path, "test": dataset.test_path}
    numbers = {"validation": dataset.validation_examples, "test": dataset.test_examples}
    found: dict[str, Predictions] = {}
    is_new = False
    for split, path in paths.items():
        if path is None:
            continue
        file = folder / f"{split}.npz"
        kept = Predictions.load(file) if file.exists() else None
        if checkpoint is not None and not _is_of(kept, checkpoint, numbers[split]):
            say(f"asking about {numbers[split]} images of the {split} split")
            folder.mkdir(exist_ok=True)
            kept, is_new = held_out.predict(params, path, checkpoint, True, numbers[split]), True
            kept.save(file)
        if kept is not None:
            found[split] = kept
    if is_new or (found and not (folder / RESULT).exists()):
        write_json(folder / RESULT, {split: _in_numbers(each) for split, each in found.items()})
    return found


def _is_of(kept: Predictions | None, checkpoint: str, images: int) -> bool:
    return kept is not None and kept.checkpoint == held_out.fingerprint(checkpoint) and len(kept.labels) == images


def _in_numbers(predictions: Predictions) -> dict[str, Any]:
    return dict(
        images=len(predictions.labels),
        accuracy=predictions.accuracy,
        calibration_error=calibration.reliability(predictions.labels, predictions.probabilities).error,
        checkpoint=predictions.checkpoint,
    )


def calibration_error(found: Mapping[str, Predictions]) -> float | None:
    """The expected calibration error on the validation images; None where the network was not asked about them."""
    return _in_numbers(found["validation"])["calibration_error"] if "validation" in found else None


def serve(
    directory: Path, params: cfg.ExperimentConfig, dataset: Dataset, say: Callable[[str], None], checkpoint: str | None
) -> dict[str, Any] | None:
    """Size and latency of the run's SavedModel, and of a TFLite model that is written to `serving/model.tflite`.

    Args: as `predict`.

    Returns:
      What `latency.measure` returns, with `conversion_problem` (why there is no TFLite model; None where there is one)
      and `checkpoint`, as `serving/result.json` keeps it; None without a SavedModel and nothing kept.

    Raises:
      UserError: What is kept is damaged, or the records or the checkpoint are.
      OSError, StoppedError: The disk is full; nothing is kept then.
    """
    folder, saved_model = directory / SERVING, directory / "saved_model"
    kept = _read(folder / RESULT)
    if checkpoint is None or not saved_model.exists():
        return kept
    of = held_out.fingerprint(checkpoint)
    if kept is not None and kept["checkpoint"] == of:
        return kept
    say("converting for TFLite, measuring latency")
    folder.mkdir(exist_ok=True)
    file: Path | None = folder / TFLITE_FILE
    problem = None
    with captured(), tflite.quiet():
        try:
            tflite.write(params, checkpoint, folder / TFLITE_FILE)
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # The converter's own kinds. The SavedModel is there, and a run does not end here.
            explained = write_error(error, folder)
            if explained is not None:  # TensorFlow's words for a full disk: no fault of the network's.
                raise explained from error
            file, problem = None, str(error).splitlines()[0]
        encoded, pixels = held_out.first_images(params, dataset.validation_path, max(latency.BATCHES))
        measured = latency.measure(str(saved_model), None if file is None else str(file), encoded, pixels)
    measured = dict(measured, conversion_problem=problem, checkpoint=of)
    write_json(folder / RESULT, measured)
    return measured


def _read(path: Path) -> dict[str, Any] | None:
    """What `serve` kept."""
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return (
            kept
            if {"checkpoint", "cores", "system", "saved_model", "tflite", "conversion_problem"} <= kept.keys()
            else None
        )
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged; remove it, and asvit report makes it again") from error


def checkpoint_of(params: cfg.ExperimentConfig, directory: Path) -> str | None:
    """Path of the checkpoint that the run exports; None where it is gone."""
    train = directory / "train"
    found = best.read(train)
    if found is not None:
        return found.checkpoint
    return None if checkpoints.newest(train) is None else export.checkpoint_of(params, str(train))
