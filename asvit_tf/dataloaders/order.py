"""Training records in an order that is a function of (seed, epoch), from any record on.

The Model Garden reads in an order that can only be followed from its beginning. It also repeats the records before it
shuffles them, so that a record may come twice before another has come once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import tensorflow as tf
from official.core import config_definitions as cfg

from asvit_tf import private_names
from asvit_tf.dataloaders import inputs

# Of all files together. More are not counted, nor read up to some place: there each reading begins with files drawn
# anew.
LARGEST_BYTES = 2**30
_FILES_AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class Position:
    """Where reading begins.

    Attributes:
      seed: Of the order, from 1 to 2**31 - 2.
      records: Read before, since the training began.
      draws: TensorFlow's global seed for all that is drawn behind the records: augmentation.
      agreed: Whether all hosts have the same seed; else each of several reads by itself, as the Model Garden does.
    """

    seed: int
    records: int
    draws: int
    agreed: bool = True


Build = Callable[..., tf.data.Dataset]


def continued(build: Build, position: Position) -> Build:
    """A task's `build_inputs` whose training records begin at a position.

    An epoch has every record once: shuffled as far as `shuffle_buffer_size` reaches, files drawn first. Records that
    were read before are read again up to the position, but neither decoded nor augmented.

    Where the records cannot be counted with little work (more than `LARGEST_BYTES`, a cache, TensorFlow Datasets), the
    Model Garden reads, from its beginning, with `params.seed`.

    Args:
      build: Takes a data section and, perhaps, an input context.
      position: Where to begin.
    """

    def build_inputs(
        params: cfg.DataConfig, input_context: tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        tf.random.set_seed(position.draws)
        alone = input_context is None or input_context.num_input_pipelines == 1
        files = _countable_files(params) if alone or position.agreed else {}
        total = _count(tuple(files.items()), params.file_type) if files else 0
        if not total:
            return build(params, input_context)

        def ordered(read: Callable) -> Callable:
            return lambda _: _records(params, list(files), total, position, read)

        # One file, for the reader: it interleaves several, each from its own beginning.
        with private_names.records_read_by(ordered):
            return build(params.replace(input_path=next(iter(files)), shuffle_buffer_size=1), input_context)

    return build_inputs


def _countable_files(params: cfg.DataConfig) -> dict[str, int]:
    """The files of a section, and their bytes, if their records can be counted with little work; else none."""
    paths = params.input_path
    named = isinstance(paths, str) or (isinstance(paths, Sequence) and all(isinstance(path, str) for path in paths))
    if not (named and paths and params.is_training):
        return {}
    if params.cache or params.enable_tf_data_service or params.get("pseudo_label_data", None):
        return {}
    # In the same order at every start.
    files = {file: tf.io.gfile.stat(file).length for file in sorted(inputs.record_files("task.train_data", paths))}
    return files if sum(files.values()) <= LARGEST_BYTES else {}


@functools.lru_cache(maxsize=16)
def _count(files: tuple[tuple[str, int], ...], file_type: str) -> int:
    """Records of files, which are given with their bytes: by these a file that was written anew is another one."""
    records = tf.data.TFRecordDataset(
        [file for file, _ in files], compression_type="GZIP" if file_type.endswith("compressed") else ""
    )
    return int(records.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1))


def _records(
    params: cfg.DataConfig, files: Sequence[str], total: int, position: Position, read: Callable
) -> tf.data.Dataset:
    """All records from a position on, epoch after epoch without end; `read` opens a file."""
    first, read_before = divmod(position.records, total)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        names = tf.data.Dataset.from_tensor_slices(list(files))
        if len(files) > 1:
            names = names.shuffle(len(files), seed=number, reshuffle_each_iteration=False)
        records = names.interleave(
            read,
            cycle_length=min(params.cycle_length or _FILES_AT_ONCE, len(files)),
            block_length=params.block_length,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        buffer = min(params.shuffle_buffer_size, total)
        return records.shuffle(buffer, seed=number, reshuffle_each_iteration=False)

    # The seed of a shuffle is one of its own, the epoch, and the global one: traced here, it is that of the order.
    tf.random.set_seed(position.seed)
    records = tf.data.Dataset.range(first, tf.int64.max).flat_map(epoch).skip(read_before)
    tf.random.set_seed(position.draws)
    return records
