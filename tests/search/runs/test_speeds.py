"""Which member is trained: the chosen one was measured, with what it reads; seconds by hand."""

import types

import pytest

from asvit_tf.training.rehearsal import Speed
from search.runs import speeds, timetable

FAMILY = [dict(topology=f"4,2,2,1|2,2,2,1|2,1,2,1|2,1,2,{depth}|8,16", macs=float(depth)) for depth in (1, 2, 4)]
AUGMENTED = 30  # Epochs from which reading takes longer.


@pytest.fixture
def rehearsed(monkeypatch):
    """Epochs of ten steps that take as many seconds as the last stage has blocks, twice that where images are
    augmented; nothing else takes time. Returns what was measured: blocks and whether images were augmented."""
    measured = []

    def rehearse(params, validation_examples):
        assert validation_examples == 7
        measured.append((params.blocks, params.task.train_data.augmented))
        seconds = params.blocks * (2 if params.task.train_data.augmented else 1) / 10
        return Speed({4: seconds}, 0.0, 0.0)

    schedule = types.SimpleNamespace(
        phases=[types.SimpleNamespace(tokenization=types.SimpleNamespace(stride=4))], steps_per_phase=lambda n: [n]
    )
    monkeypatch.setattr(speeds.rehearsal, "rehearse", rehearse)
    monkeypatch.setattr(speeds.schedules, "schedule_of", lambda params: schedule)
    return measured


def experiment(topology, epochs):
    data = types.SimpleNamespace(augmented=(epochs or 20) >= AUGMENTED)
    data.as_dict = lambda: {"augmented": data.augmented}
    trainer = types.SimpleNamespace(train_steps=10 * (epochs or 20), steps_per_loop=10)
    return types.SimpleNamespace(
        blocks=topology.depths[-1], trainer=trainer, task=types.SimpleNamespace(train_data=data, retokenization=data)
    )


@pytest.fixture
def few_are_enough(monkeypatch):
    """As many epochs as the recipe has, 20, are enough for a member."""
    monkeypatch.setattr(speeds, "_MEMBER_EPOCHS", 20)


def chosen(seconds, enough_epochs=None):
    said = []
    choice = speeds.choose(FAMILY, experiment, 7, seconds, enough_epochs=enough_epochs, say=said.append)
    return choice.member, choice.epochs, len(said)


@pytest.mark.usefixtures("few_are_enough")
def test_the_largest_is_measured_first(rehearsed):
    assert chosen(4 * 25 + 0.5) == (2, 25, 1)
    assert rehearsed == [(4, False)]


@pytest.mark.usefixtures("few_are_enough")
def test_whichever_is_chosen_was_measured(rehearsed):
    # The largest takes 4 s an epoch, so the root says 2 s for the smallest; measured, it is 1.
    assert chosen(2 * 25 + 0.5) == (1, 25, 3)
    assert rehearsed == [(4, False), (1, False), (2, False)]


@pytest.mark.usefixtures("few_are_enough")
def test_long_trainings_are_measured_with_their_augmentation(rehearsed):
    assert chosen(4 * 100 + 0.5) == (2, 50, 2)
    assert rehearsed == [(4, False), (4, True)]


def test_a_recipe_of_few_epochs_is_not_enough(rehearsed, monkeypatch):
    """The largest has 38 epochs where the recipe has 20; the next has twice as many, and more than 40."""
    assert chosen(2 * 4 * 38 + 0.5) == (1, 76, 2)
    monkeypatch.setattr(speeds, "_MEMBER_EPOCHS", 20)
    assert chosen(2 * 4 * 38 + 0.5) == (2, 38, 2)


def test_epochs_that_were_asked_for_are_measured_and_kept(rehearsed):
    """There is time for 100 of the largest, which would read augmented images; ten take 40 s."""
    said = []
    choice = speeds.choose(FAMILY, experiment, 7, 4 * 100 + 0.5, enough_epochs=10, say=said.append)
    assert choice == timetable.Choice(2, 10, 40.0)
    assert rehearsed == [(4, False)]


@pytest.mark.usefixtures("few_are_enough")
def test_at_the_border_it_ends_with_the_slower_reading(rehearsed):
    # 32 epochs as short ones are read; 16 as those of 32 are. Measured twice, it is not asked for a third time.
    member, _, measurements = chosen(4 * 32 + 0.5)
    assert measurements <= 5
    assert member in (0, 1, 2)


@pytest.mark.parametrize(
    ("fitting", "size", "seconds", "stride", "measured"),
    [
        # An epoch takes 4 s at a base stride of 1, and half at each that is twice as large.
        (2, (32, 32), 60.5, 2, 1),
        (2, (32, 32), 59.5, 4, 1),
        (2, (40, 32), 1.0, 4, 1),
        (2, (30, 32), 1.0, 2, 0),  # 7 tokens a side would be left.
        (1, (32, 28), 1.0, 2, 1),
        (1, (32, 32), 1.0, 4, 2),
        (1, (32, 32), 60.5, 2, 2),
        (4, (224, 224), 1.0, 4, 0),
    ],
)
def test_the_base_stride_is_as_fine_as_the_time_allows(rehearsed, fitting, size, seconds, stride, measured):
    def small(stride):
        params = experiment(types.SimpleNamespace(depths=[4 / stride]), None)
        assert stride == fitting * 2 ** len(rehearsed)
        return params

    scale = seconds / 30 * speeds._ENOUGH_EPOCHS
    said = []
    assert speeds.base_stride(fitting, size, small, 7, scale, enough_epochs=None, say=said.append) == stride
    assert len(said) == len(rehearsed) == measured
    rehearsed.clear()
    assert speeds.base_stride(fitting, size, small, 7, seconds, enough_epochs=30, say=said.append) == stride
