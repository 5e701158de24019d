"""Sets of networks with measures and accuracies: the topologies of a study, and the networks of ViT-Bench-101."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import vit_bench


class Networks(NamedTuple):
    """A set of networks: its columns and accuracies, [n] each, NaN where undefined; of a study also its topologies."""

    name: str
    columns: dict[str, np.ndarray]
    accuracy: np.ndarray
    topologies: tuple[str, ...] = ()


def choices_of(topology: str) -> str:
    """A topology without its width, at which it is another network of the same choices."""
    return topology.rpartition(",")[0]


def half(networks: Networks, judging: bool) -> Networks:
    """Those of a study that judge, or those that choose: the same topologies in every study."""
    odd = np.array([zlib.crc32(choices_of(topology).encode()) % 2 for topology in networks.topologies])
    kept = np.flatnonzero(odd == judging)
    return Networks(
        f"{networks.name}, {'judging' if judging else 'choosing'}",
        {name: column[kept] for name, column in networks.columns.items()},
        networks.accuracy[kept],
        tuple(networks.topologies[i] for i in kept),
    )


def study(directory: Path, name: str) -> Networks:
    """The topologies of a study."""
    from asvit_tf.dataloaders.classification import Dataset
    from asvit_tf.journals import rows_in
    from search.study import result
    from search.study.settings import EARLIER, EXTENT, StudySettings

    saved = json.loads((directory / "settings.json").read_text(encoding="utf-8"))
    settings = StudySettings(**{**EARLIER, **{key: value for key, value in saved.items() if key not in EXTENT}})
    dataset = Dataset.load(directory / "data")
    rows = result.without_guessing(rows_in(directory / "topologies.jsonl"), dataset.shares("validation"))
    columns = result.columns_of(settings, rows, len(dataset.class_names))
    return Networks(name, columns, result.accuracies(rows), tuple(row["topology"] for row in rows))


def others(rows: Path, data: Path, image_size: int) -> Iterator[Networks]:
    """The networks of ViT-Bench-101, once for each column of accuracies.

    Raises:
      UsageError: None was measured at this image size, or not all were measured alike.
    """
    from asvit_tf.journals import rows_in

    bench = json.loads(data.read_text(encoding="utf-8"))
    measured = vit_bench.of_size(rows_in(rows), image_size)
    for name in vit_bench.SETS:
        of_set = [row for row in measured if row["set"] == name]
        if not of_set:
            continue
        networks = [bench[name][row["index"]] for row in of_set]
        columns = vit_bench.columns_of(of_set, [vit_bench.specification(name, network) for network in networks])
        for key in (key for key in networks[0] if key.endswith("_acc")):
            accuracy = np.array([network[key] for network in networks], np.float64)
            yield Networks(f"{name}, {key.removesuffix('_acc').replace('_', ' ')}", columns, accuracy)
