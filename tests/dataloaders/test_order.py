"""The order of training records: every record once an epoch, from any record on."""

import numpy as np
import pytest
import tensorflow as tf
from official.common import dataset_fn
from official.core import input_reader
from official.vision.configs import image_classification

from asvit_tf.dataloaders import order

RECORDS, BATCH = 30, 4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Numbers from 0 on, in three files of different lengths."""
    root, numbers = tmp_path_factory.mktemp("numbers"), iter(range(RECORDS))
    for name, count in (("a", 17), ("b", 4), ("c", 9)):
        with tf.io.TFRecordWriter(str(root / f"{name}.tfrecord")) as writer:
            for _ in range(count):
                writer.write(str(next(numbers)).encode())
    return str(root / "*.tfrecord")


def build(params, input_context=None):
    """Number and a draw, batch by batch, as the Model Garden's tasks read."""
    reader = input_reader.InputReader(
        params,
        dataset_fn=dataset_fn.pick_dataset_fn(params.file_type),
        decoder_fn=lambda record: (tf.strings.to_number(record, tf.int32), tf.random.uniform(())),
    )
    return reader.read(input_context=input_context)


def read(files, records=0, batches=20, draws=7, context=None, seed=3, buffer=100):
    """Numbers and draws of the first batches from a position on."""
    params = image_classification.DataConfig(
        input_path=files, is_training=True, global_batch_size=BATCH, shuffle_buffer_size=buffer, seed=draws
    )
    dataset = order.continued(build, order.Position(seed, records, draws))(params, context)
    numbers, drawn = zip(*dataset.take(batches).as_numpy_iterator())
    return np.concatenate(numbers), np.concatenate(drawn)


@pytest.mark.parametrize("buffer", [100, 5])
def test_every_epoch_has_every_record_once_in_another_order(files, buffer):
    numbers, _ = read(files, buffer=buffer, batches=15)
    epochs = numbers.reshape(2, RECORDS)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(RECORDS))
    assert not np.array_equal(*epochs)
    assert not np.array_equal(epochs[0], np.arange(RECORDS))
    assert not np.array_equal(epochs[0], read(files, buffer=buffer, seed=4)[0][:RECORDS])


@pytest.mark.parametrize("records", [8, 28, 32, 60])
def test_reading_from_a_record_on_is_the_rest_of_reading_from_the_first(files, records):
    whole, _ = read(files, batches=30)
    rest, _ = read(files, records, batches=10, draws=8)
    np.testing.assert_array_equal(rest, whole[records : records + len(rest)])


def test_draws_have_a_seed_of_their_own(files):
    (numbers, drawn), (_, again), (same, other) = read(files), read(files), read(files, draws=8)
    np.testing.assert_array_equal(numbers, same)
    # Threads draw in whatever order, and the last draws are of batches to come; tests/training/test_resume.py is exact.
    assert len({*drawn} & {*again}) > 0.8 * len(drawn)
    assert not {*drawn} & {*other}


def test_two_hosts_share_each_epoch(files):
    contexts = [tf.distribute.InputContext(2, host, 2) for host in range(2)]
    halves = [read(files, records=8, batches=15, context=context)[0] for context in contexts]
    whole, _ = read(files, records=8)
    np.testing.assert_array_equal(np.stack(halves, 1).ravel()[:40], whole[:40])


def test_more_than_can_be_counted_is_read_by_the_model_garden(files, monkeypatch):
    """Its reader repeats before it shuffles: no epoch of this seed has every record."""
    monkeypatch.setattr(order, "LARGEST_BYTES", 10)
    numbers, _ = read(files, batches=15)
    assert all(len(set(epoch)) < RECORDS for epoch in numbers.reshape(2, RECORDS))
    np.testing.assert_array_equal(numbers, read(files, records=8, batches=15)[0])
