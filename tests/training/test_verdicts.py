import math

import numpy as np
import pytest

from asvit_tf.training import verdicts
from asvit_tf.training.verdicts import Observation, Verdict


def history(*ratios, guessing=2.0, steps=40):
    return [Observation((i + 1) * steps, ratio * guessing, guessing) for i, ratio in enumerate(ratios)]


SOUND, SUSPECT, COLLAPSED, UNLEARNED = Verdict.SOUND, Verdict.SUSPECT, Verdict.COLLAPSED, Verdict.UNLEARNED


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        # Learns, is lost, stays.
        ((1.0, 0.8, 0.5, 1.1, 1.0, 1.0, 1.0), (SOUND, SOUND, SOUND, SUSPECT, SUSPECT, COLLAPSED, COLLAPSED)),
        # A spike is no collapse, and neither are two.
        ((0.8, 0.8, 0.8, 1.3, 1.2, 0.9, 1.0, 0.7), (SOUND, SOUND, SOUND, SUSPECT, SUSPECT, SOUND, SUSPECT, SOUND)),
        # Data that can hardly be learned hover; they have nothing to lose. One low observation is noise.
        ((1.0, 0.96, 0.98, 0.95, 0.99, 0.97, 0.98), (SOUND,) * 7),
        ((1.0, 0.8, 1.05, 1.0, 1.0, 1.0, 1.0), (SOUND,) * 7),
        # A change of tokens raises the loss, but not to guessing.
        ((0.4, 0.3, 0.9, 0.8, 0.7, 0.5, 0.3), (SOUND,) * 7),
    ],
)
def test_verdicts_against_a_table(ratios, expected):
    blocks = history(*ratios, steps=100)
    assert tuple(verdicts.judge(blocks[: i + 1], 10_000) for i in range(len(blocks))) == expected


def test_the_last_step_leaves_no_time_to_recover():
    assert verdicts.judge(history(0.5, 0.5, 0.5, 1.0), 160) is COLLAPSED
    # Data that can hardly be learned: one observation above the line is noise, two are not.
    hovering = (0.85, 0.85, 0.85, 0.93, 0.95, 0.94, 0.96, 0.95, 0.98)
    assert verdicts.judge(history(*hovering), 360) is SOUND
    assert verdicts.judge(history(*hovering, 0.99), 400) is COLLAPSED
    assert verdicts.judge(history(0.5, 0.5, 0.5, 1.0), 200) is SUSPECT
    assert verdicts.judge(history(0.5, 0.5, 0.5, 0.9), 160) is SOUND


@pytest.mark.parametrize(("total", "stays"), [(1000, 5), (20_000, 5), (40_000, 10)])
def test_staying_takes_200_steps_and_a_hundredth_of_the_training(total, stays):
    blocks = history(0.5, 0.5, 0.5, *[1.0] * 12)
    found = [verdicts.judge(blocks[: i + 1], total) for i in range(15)]
    assert found == [SOUND] * 3 + [SUSPECT] * (stays - 1) + [COLLAPSED] * (13 - stays)


def test_weights_are_confirmed_by_the_observation_behind_them():
    """Losses are those before each update: the block that ends at 300 says nothing of the weights there."""
    assert verdicts.last_confirmed(history(0.8, 0.7, 0.6, 1.1, 1.2, steps=100)) == 200
    assert verdicts.last_confirmed(history(0.8, 0.7, math.nan, steps=100)) == 100
    assert verdicts.last_confirmed(history(0.8, 1.0, steps=100)) == 0
    assert verdicts.last_confirmed([Observation(10, 3.0), Observation(20, 2.0), Observation(30, math.inf)]) == 10


@pytest.mark.parametrize(("rare", "ratio"), [(0.05, 1.0), (0.02, 1.0), (0.05, 0.8)])
def test_uneven_classes_raise_no_alarm(rare, ratio):
    """Blocks of 640 images of which few are rare: their own loss of guessing moves with the loss."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        shares = generator.binomial(640, rare, size=100) / 640
        own = -shares * math.log(rare) - (1 - shares) * math.log(1 - rare)
        noise = 0.02 * generator.standard_normal(100)
        blocks = [Observation(20 * i, guess * (ratio + e), guess) for i, (guess, e) in enumerate(zip(own, noise), 1)]
        assert {verdicts.judge(blocks[: i + 1], 2000) for i in range(100)} <= {SOUND, UNLEARNED}


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("guessing", [2.0, None])
def test_a_loss_that_is_no_number(loss, guessing):
    assert verdicts.judge([Observation(1, 0.5, guessing), Observation(2, loss, guessing)], 100) is Verdict.DIVERGED


def test_without_a_loss_of_guessing_nothing_collapses():
    assert all(verdicts.judge([Observation(i, loss) for i in range(1, 9)], 8) is SOUND for loss in (0.1, 1e9))


def test_a_third_of_all_steps_at_guessing():
    blocks = history(*[1.0] * 10, steps=100)
    assert [verdicts.judge(blocks[: i + 1], 1500) for i in range(6)] == [*[SOUND] * 4, UNLEARNED, UNLEARNED]
    assert verdicts.judge(history(*[1.0] * 7), 600) is SOUND  # Networks begin at guessing: 280 steps are few.
    assert verdicts.judge(history(1.0, 1.0, 0.96, 1.0, 1.0, steps=100), 1500) is SOUND


def test_short_blocks_are_joined_by_hand():
    rows = [
        dict(step=10, steps=10, training_loss=1.0, guessing_loss=2.0),
        dict(step=16, steps=6, training_loss=3.0, guessing_loss=2.1),
        dict(step=20, steps=4, training_loss=2.0, guessing_loss=2.2),
        dict(step=50, steps=30, training_loss=4.0),
        dict(step=60, steps=10, training_loss=5.0),
    ]
    first = Observation(20, (10 * 1 + 6 * 3 + 4 * 2) / 20, (10 * 2 + 6 * 2.1 + 4 * 2.2) / 20)
    assert verdicts.observations(rows, 1, 100) == [first, Observation(50, 4.0)]
    assert verdicts.observations(rows, 50, 100) == [Observation(50, (36 + 120) / 50)]
    assert verdicts.observations(rows, 1, 60) == [first, Observation(50, 4.0), Observation(60, 5.0)]  # The last step.
    for loss in (math.nan, None):
        broken = [*rows[:1], dict(step=12, steps=2, training_loss=loss)]
        assert math.isnan(verdicts.observations(broken, 50, 100)[-1].loss)  # Not hidden until a block is full.


def test_turns_of_a_transition_with_a_rare_class_are_no_noise():
    """Turns of 3 to 40 steps of 32 images; the network names the shares of the classes all the time."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        rows, step = [], 0
        while step < 2000:
            steps = int(generator.integers(3, 41))
            step += steps
            share = generator.binomial(32 * steps, 0.05) / (32 * steps)
            loss = -share * math.log(0.05) - (1 - share) * math.log(0.95)
            rows.append(dict(step=step, steps=steps, training_loss=loss, guessing_loss=loss))
        seen = verdicts.observations(rows, 44, 2000)
        assert all(observation.ratio == pytest.approx(1) for observation in seen)
        assert verdicts.judge(seen, 2000) is UNLEARNED


def test_a_collapse_that_comes_at_once_is_suspect_before_anything_more_is_saved():
    blocks = history(0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, steps=100)
    assert [verdicts.judge(blocks[: i + 1], 10_000) for i in range(4)] == [SOUND, SOUND, SUSPECT, COLLAPSED]
