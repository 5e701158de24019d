"""Size and latency of a classifier's SavedModel and TFLite model on this machine."""

from __future__ import annotations

import functools
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from asvit_tf.dataloaders.imagefiles import parallel
from asvit_tf.serving import predict

BATCHES = (1, 32)
_WARM_UP = 2  # Calls that are not counted: they trace, allocate and fill caches.
_LEAST, _MOST, _SECONDS = 5, 30, 3.0  # Calls of which the median is taken: until the seconds are over.


def median_seconds(call: Callable[[], Any]) -> float:
    """The median time of a call, in seconds, after warm-up: of 5 to 30 calls, as many as fit into three seconds."""
    for _ in range(_WARM_UP):
        call()
    taken: list[float] = []
    while len(taken) < _LEAST or (len(taken) < _MOST and sum(taken) < _SECONDS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure(saved_model: str, tflite_model: str | None, encoded: Sequence[bytes], pixels: np.ndarray) -> dict[str, Any]:
    """Sizes, and seconds a call, of both models on the same images.

    Args:
      saved_model: Directory that `export` wrote with input type "image_bytes". Its time has the decoding in it.
      tflite_model: File that `tflite.convert` made; None for none. It takes decoded images.
      encoded: Images as files' contents, [n], with n at least the largest of `BATCHES`.
      pixels: The same images decoded and resized, [n, H, W, 3], float32, 0 to 255.

    Returns:
      `cores` that the process may use, all of which both models use; `system`; `saved_model`, with `bytes` and
      `seconds` (by the number of images in a call, as text); `tflite`, the same, with `largest_difference` of its
      probabilities from the SavedModel's, or None. Where TFLite cannot answer a batch, its seconds are None and
      `problem` says why.

    Raises:
      UserError: There is no such SavedModel.
    """
    predict.check_saved_model(saved_model)
    serve = predict.load_serving(saved_model, {"probs"}, "classify")
    calls = {batch: functools.partial(serve, inputs=tf.constant(list(encoded[:batch]))) for batch in BATCHES}
    seconds = {str(batch): median_seconds(call) for batch, call in calls.items()}
    expected = calls[max(BATCHES)]()["probs"].numpy()
    return dict(
        cores=parallel.cores(),
        system=f"{platform.system()} {platform.machine()}",
        saved_model=dict(bytes=directory_bytes(saved_model), seconds=seconds),
        tflite=None if tflite_model is None else _measure_tflite(tflite_model, pixels, expected),
    )


def _measure_tflite(file: str, pixels: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """`tflite` of `measure`; `expected` are the SavedModel's probabilities of the largest batch."""
    interpreter = tf.lite.Interpreter(file, num_threads=parallel.cores())
    runner = interpreter.get_signature_runner()
    seconds: dict[str, float | None] = {}
    differences, problem = [], None
    for batch in BATCHES:
        call = functools.partial(runner, inputs=pixels[:batch])
        try:
            answer = call()["probs"]
            seconds[str(batch)] = median_seconds(call)
        except (RuntimeError, ValueError) as error:  # The model's shapes do not allow this batch.
            seconds[str(batch)] = None
            problem = f"{batch} images in a call: {str(error).splitlines()[0]}"
            continue
        differences.append(float(np.abs(answer - expected[:batch]).max()))
    return dict(
        bytes=os.path.getsize(file), seconds=seconds, problem=problem, largest_difference=max(differences, default=None)
    )


def directory_bytes(directory: str) -> int:
    """Size of all files in a directory, in bytes."""
    return sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())
