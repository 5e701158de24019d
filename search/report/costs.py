"""What a report says of cost: size and latency of the exported models, seconds of every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.report import pages

_STEPS = {
    "data": "reading images",
    "grow": "growth",
    "train": "training",
    "test": "evaluation of the test split",
    "predictions": "answers to held-out images",
    "serving": "TFLite, size and latency",
}


def serving_parts(serving: Mapping[str, Any], parameters: int, macs: int) -> list[str]:
    """HTML about the exported models.

    Args:
      serving: What `evidence.serve` of `search.runs` returned.
      parameters: Of the network.
      macs: Multiply-accumulates of one image.
    """
    rows = [("SavedModel", "saved_model", *_measured(serving["saved_model"]))]
    tflite = serving["tflite"]
    notes = [
        f"{parameters:,} parameters, {macs:,} multiply-accumulates an image. Times are medians of 5 to 30 calls after "
        f"a warm-up, measured on {serving['cores']} core{'s' if serving['cores'] > 1 else ''} ({serving['system']}), "
        "of which both models use all. The SavedModel takes encoded images and decodes them; TFLite takes pixels."
    ]
    if tflite is not None:
        rows.append(("TFLite, 32-bit floats", "serving/model.tflite", *_measured(tflite)))
        if tflite["largest_difference"] is not None:
            notes.append(
                f"Their probabilities differ by at most {tflite['largest_difference']:.1e} on the images measured."
            )
        if tflite["problem"]:
            notes.append(f"TFLite does not answer {tflite['problem']}.")
    if serving["conversion_problem"]:
        notes.append(f"TFLite's converter does not take this network: {serving['conversion_problem']}.")
    batches = list(serving["saved_model"]["seconds"])
    header = ("model", "in the directory", "size", *(f"{batch} image{'s' * (batch != '1')}" for batch in batches))
    return [pages.table(header, rows), pages.paragraph(" ".join(notes))]


def _measured(model: Mapping[str, Any]) -> list[str]:
    times = ["not possible" if seconds is None else f"{1000 * seconds:.1f} ms" for seconds in model["seconds"].values()]
    return [f"{model['bytes'] / 1e6:.2f} MB", *times]


def seconds_parts(seconds: Mapping[str, float]) -> list[str]:
    """HTML with the seconds of every step and their shares.

    Args:
      seconds: By step, in order.
    """
    total = sum(seconds.values())
    rows = [
        (_STEPS.get(step, step), f"{spent:.1f} s", f"{spent / total:.1%}" if total else "")
        for step, spent in seconds.items()
    ]
    rows.append(("all", f"{total:.1f} s", ""))
    return [
        pages.table(("step", "time", "share"), rows),
        pages.paragraph("A step, or a part of one, that was done before the run was continued is not in these times."),
    ]
