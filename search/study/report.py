"""What a study leaves behind for people: tables, scatter plots, the predictor; each file written whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asvit_tf.storage import write_json, write_text
from search.report.figures import save
from search.scoring.predictor import Predictor
from search.study import figures, tables
from search.study.result import accuracies


def write(
    directory: Path,
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, np.ndarray],
    result: Mapping[str, Any],
    predictor: Predictor | None,
) -> dict[str, Any]:
    """Writes both figures, both CSV files, the predictor and `result.json`.

    Args:
      directory: For all of them.
      rows: Rows of all topologies.
      columns: Every measure and baseline of them, [n] each.
      result: What `result.summarize` returns.
      predictor: None takes away the one of an earlier result.

    Returns:
      The result with the paths: `figures`, `csv`, `predictor`.
    """
    accuracy, measures = accuracies(rows), result["measures"]
    drawings = {
        "published.png": figures.published(columns, accuracy, measures),
        "measures.png": figures.all_measures(columns, accuracy, measures),
    }
    texts = {
        "topologies.csv": tables.topologies_csv(rows, columns),
        "measures.csv": tables.measures_csv(measures),
    }
    for name, text in texts.items():
        write_text(directory / name, text)
    written = directory / "predictor.json"
    if predictor is None:
        written.unlink(missing_ok=True)  # One of more topologies than these.
    else:
        write_json(written, predictor.as_dict())
    complete = dict(
        **result,
        figures=[save(directory / name, drawing) for name, drawing in drawings.items()],
        csv=[str(directory / name) for name in texts],
        predictor=None if predictor is None else str(written),
    )
    write_json(directory / "result.json", complete)
    return complete
