"""What a run did not do, so that nobody takes its numbers for more than they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def sentences(
    result: Mapping[str, Any],
    seed: int,
    sampled: int,
    space_size: int | None,
    lacking: Sequence[str],
    quantizing: str,
) -> list[str]:
    """One text for each thing.

    Args:
      result: What `pipeline.run` returns.
      seed: Of the run.
      sampled: Topologies that the search sampled.
      space_size: Topologies that the search could have sampled; None where it is not known.
      lacking: Why parts of the report are missing.
      quantizing: The command that exports the network with TFLite of 8 bits.
    """
    found = []
    if result.get("test_accuracy") is None:
        found.append(
            "No image was held back from choosing: there is no test split, and all numbers are of the validation "
            "images. Whoever prefers one run to another by them has chosen by these images. A folder test beside train "
            "and val is evaluated once, at the end."
        )
    if result.get("too_few_examples"):
        found.append("Held-out images: too few to show whether anything was learned.")
    if result.get("skipped_images"):
        found.append(f"{_counted(result['skipped_images'], 'image file')} could not be used (see above).")
    if sampled:
        of = f" of the {space_size:,} in its space" if space_size else ""
        found.append(
            f"The search sampled {_counted(sampled, 'topology', 'topologies')}{of}, and trained none of them: what it "
            "found was chosen by measures that need no training."
        )
    else:
        found.append("Nothing was searched: the design was given.")
    if result.get("failed_scores"):
        found.append(f"{_counted(result['failed_scores'], 'topology', 'topologies')} could not be scored.")
    found.append("One design was trained, with one recipe. Others were not tried.")
    found.append(f"One seed ({seed}): with another one, design and accuracy differ. The intervals know of images only.")
    if result["saved_model"] is None:
        found.append("Nothing was exported, because nothing was learned. So size and latency were not measured.")
    else:
        found.append(f"TFLite was not quantized; this does it, likewise with fp16: {quantizing}")
    return [*found, *lacking]


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
