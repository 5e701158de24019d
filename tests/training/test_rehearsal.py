"""Speeds of a rehearsal, by hand: a trainer whose clock stands still but for what it says it takes."""

import contextlib
import types

import pytest
import tensorflow as tf

from asvit_tf.design.retokenization import Phase, Schedule, Tokenization
from asvit_tf.training import rehearsal
from asvit_tf.training.trainer import StepBlock

STEP_SECONDS, TRACING = {8: 0.1, 4: 0.4}, {8: 5.0, 4: 7.0}
READING_AHEAD, EVERY_BLOCK = 3.0, 0.6
BEGINNING, BATCH_SECONDS, EVALUATION_TRACING = 2.0, 0.25, 11.0


class Trainer:
    """Two strides, four blocks each; the second block is slow, too, and each takes some time of its own."""

    def __init__(self, clock):
        self.blocks = []
        self._clock = clock
        self._evaluated = False

    def train(self, steps):
        stride = 8 if len(self.blocks) < 4 else 4
        place = len(self.blocks) % 4
        traced = place == 0
        seconds = int(steps) * STEP_SECONDS[stride] + traced * TRACING[stride] + (place == 1) * READING_AHEAD
        seconds += EVERY_BLOCK
        self._clock.now += seconds
        self.blocks.append(StepBlock(0, int(steps), 0, stride, 1, traced, seconds, {}))

    def evaluate(self, batches):
        self._clock.now += BEGINNING + int(batches) * BATCH_SECONDS + (not self._evaluated) * EVALUATION_TRACING
        self._evaluated = True


@pytest.fixture
def speed(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(rehearsal, "time", types.SimpleNamespace(perf_counter=lambda: clock.now))
    session = types.SimpleNamespace(strategy=tf.distribute.get_strategy(), trainer=Trainer(clock))
    monkeypatch.setattr(rehearsal, "connected", lambda *_: contextlib.nullcontext(session))

    def of(validation_examples, drop_remainder=False):
        data = types.SimpleNamespace(global_batch_size=100, drop_remainder=drop_remainder)
        trainer = types.SimpleNamespace(train_steps=72)
        params = types.SimpleNamespace(task=types.SimpleNamespace(validation_data=data), trainer=trainer)
        return rehearsal._speed(params, "nowhere", validation_examples)

    return of


def test_the_beginning_of_an_evaluation_is_not_every_batchs(speed):
    found = speed(10_000)
    assert found.evaluation_seconds == pytest.approx(BATCH_SECONDS / 100)
    assert found.step_seconds == pytest.approx(STEP_SECONDS)
    assert found.tracing_seconds == pytest.approx(sum(TRACING.values()) + 2 * EVERY_BLOCK + EVALUATION_TRACING)


def test_few_images_are_one_batch(speed):
    assert speed(50).evaluation_seconds == pytest.approx((BEGINNING + BATCH_SECONDS) / 50)


def test_the_last_batch_may_be_smaller(speed):
    assert speed(250).evaluation_seconds == pytest.approx(2 * BATCH_SECONDS / 150)


def test_a_batch_that_is_left_out_is_not_waited_for(speed):
    """Of 102 images one batch of 100 is evaluated, not another of 2."""
    assert speed(102, drop_remainder=True).evaluation_seconds == pytest.approx((BEGINNING + BATCH_SECONDS) / 100)


def test_seconds_of_a_training_by_phase():
    schedule = Schedule((Phase(10, Tokenization(8, 1)), Phase(None, Tokenization(4, 1))))
    found = rehearsal.Speed(STEP_SECONDS, 12.0, 0.01)
    assert found.training_seconds(schedule, 30) == pytest.approx(10 * 0.1 + 20 * 0.4)
