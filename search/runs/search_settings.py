"""What a search or a growth depends on, as the commands build it once: images, scores, sizes, processes. No TensorFlow.

Each part checks itself; `ScoredRun` checks that they fit together.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import zlib
from typing import Any

from asvit_tf.choices import PUBLISHED
from asvit_tf.design.topology import DEFAULT_WIDTH, STRIDE
from asvit_tf.errors import UserError
from search.runs.settings import check_least
from search.scoring.settings import ScoringSettings
from search.strategy import space
from search.strategy.limits import Limits
from search.strategy.settings import LEAST_HEAD_DIM
from search.strategy.space import Space

LOCAL_CLUSTER = "local:"
_CLUSTER = re.compile(r"local:\d+|(\w+://)?[^\s:/]+:\d+")


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """The images of the NTK, and the size of all images; whether they are there is looked up when they are drawn.

    Attributes:
      dataset: Embedded or from TensorFlow Datasets; None where there is a data path.
      data_path: Folder of image files, or TFRecords by a pattern.
      data_dir: Where TensorFlow Datasets keeps its data sets; None for its own default.
      batch_size: Images in an NTK, >= 2.
      image_size: Pixels per side, >= 1.

    Raises:
      UserError: A value is out of range, or neither a data set nor a path is given.
    """

    dataset: str | None = None
    data_path: str | None = None
    data_dir: str | None = None
    batch_size: int = 16
    image_size: int = 224

    def __post_init__(self) -> None:
        check_least(self, {"batch_size": 2, "image_size": 1})
        if self.dataset is None and self.data_path is None:
            raise UserError("give --data_path, or --dataset (noise needs no data)")

    @property
    def size(self) -> tuple[int, int]:
        """H and W in pixels."""
        return self.image_size, self.image_size


@dataclasses.dataclass(frozen=True)
class SizeSettings:
    """Limits of a classifier in the units of the command line.

    Attributes:
      max_parameters: Millions; None for any number.
      max_macs: Billions of multiply-accumulates of one image; None for any number.
      num_classes: Classes of the classifier that is counted, >= 1.

    Raises:
      UserError: A value is out of range.
    """

    max_parameters: float | None = None
    max_macs: float | None = None
    num_classes: int = 1000

    def __post_init__(self) -> None:
        check_least(self, {"num_classes": 1})
        self.limits((1, 1))  # Refuses limits that round to nothing.

    def limits(self, image_size: tuple[int, int], base_stride: int = STRIDE) -> Limits:
        """The same in whole numbers, for images of H x W pixels."""

        def whole(value: float | None, unit: float) -> int | None:
            return None if value is None else round(value * unit)

        return Limits(
            whole(self.max_parameters, 1e6), whole(self.max_macs, 1e9), image_size, self.num_classes, base_stride
        )


@dataclasses.dataclass(frozen=True)
class WorkerSettings:
    """Processes that score or train side by side; results do not depend on them.

    Attributes:
      processes: How many, >= 1; one is this process itself.
      threads: Threads of each process, >= 1; None shares the cores out, and leaves workers elsewhere as they are.
      gpus: CUDA_VISIBLE_DEVICES of the processes, in turn (`choice.Chosen.worker_gpus`); none leaves it as it is.
      cluster: Of Dask, instead of processes: a scheduler's address such as "10.0.0.1:8786", or "local:N".

    Raises:
      UserError: A value is out of range.
    """

    processes: int = 1
    threads: int | None = None
    gpus: tuple[str, ...] = ()
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.processes < 1 or (self.threads is not None and self.threads < 1):
            raise UserError(f"workers is {self.processes} and threads {self.threads}; both must be at least 1")
        if self.cluster is None:
            return
        if self.processes > 1:
            raise UserError("--workers are processes of this command, and --cluster has its own; give one of the two")
        if not _CLUSTER.fullmatch(self.cluster) or self.local_workers == 0:
            raise UserError(
                f"cluster is {self.cluster!r}; it must be a scheduler's address such as 10.0.0.1:8786, or local:N with "
                "N of at least 1"
            )

    @property
    def threads_each(self) -> int:
        """Threads of every process."""
        return self.threads_of(self.processes)

    def threads_of(self, number: int) -> int:
        """Threads of each of so many processes."""
        return self.threads or max(1, (os.cpu_count() or 1) // number)

    @property
    def local_workers(self) -> int | None:
        """N of a cluster `local:N`."""
        if self.cluster is None or not self.cluster.startswith(LOCAL_CLUSTER):
            return None
        return int(self.cluster.removeprefix(LOCAL_CLUSTER))

    @property
    def spread(self) -> bool:
        """Whether other processes than this one work."""
        return self.processes > 1 or self.cluster is not None


@dataclasses.dataclass(frozen=True)
class ScoredRun:
    """What a search and a growth share.

    Attributes:
      images: Images of the NTK.
      scoring: How topologies are scored, on images of the same size.
      sizes: Which topologies are allowed.
      workers: What scores them.

    Raises:
      UserError: The parts do not fit together.
    """

    images: ImageSettings
    scoring: ScoringSettings
    sizes: SizeSettings = SizeSettings()
    workers: WorkerSettings = WorkerSettings()

    def __post_init__(self) -> None:
        if self.scoring.image_size != self.images.size:
            raise UserError(f"scores are of images of {self.scoring.image_size}, not of {self.images.size}")
        self.scoring.check_images(self.images.batch_size)

    @property
    def limits(self) -> Limits:
        """Limits of the classifiers, counted on these images."""
        return self.sizes.limits(self.images.size, self.scoring.base_stride)

    @property
    def space(self) -> Space:
        """The topologies that fit these images; with a predictor, those of them that its study could have sampled."""
        asked, predictor = (self.images.size, self.scoring.base_stride), self.scoring.predictor
        if predictor is None or predictor.space == PUBLISHED:
            return space.fitting(*asked)
        sampled = space.fitting(*asked, predictor.width, LEAST_HEAD_DIM)
        return dataclasses.replace(
            sampled, width=DEFAULT_WIDTH
        )  # Measured at the predictor's, found at every search's.

    def identity(self) -> dict[str, Any]:
        """What must not change between starts: the content of `settings.json`, but for the strategy's own settings."""
        images, scoring, sizes = self.images, self.scoring, self.sizes
        identity = dict(
            dataset=images.dataset,
            data_dir=images.data_dir,
            batch_size=images.batch_size,
            image_size=images.image_size,
            repeats=scoring.repeats,
            points=scoring.points,
            radius=scoring.radius,
            initialization=scoring.initialization,
            normalization=scoring.normalization,
            engine=scoring.engine,
            max_parameters=sizes.max_parameters,
            max_macs=sizes.max_macs,
            num_classes=sizes.num_classes,
            data_path=None if images.data_path is None else os.path.abspath(images.data_path),
            measures=list(scoring.measures),
            seed=scoring.seed,
            base_stride=scoring.base_stride,
        )
        if scoring.predictor is not None:
            identity["predictor"] = zlib.crc32(json.dumps(scoring.predictor.identity()).encode())
        return identity
