"""How hours are shared out, by hand; and that a killed run keeps to what was decided."""

import json
import types

import pytest

from asvit_tf import UserError
from search.runs import timetable
from search.runs.settings import RunSettings
from search.runs.timetable import Choice, Timetable

MACS = [1.0, 2.0, 4.0, 8.0]


def choose(seconds, enough=20, least=3, measured=(0, 3)):
    """An epoch takes a second for each unit of operations."""
    epoch = {member: lambda epochs, member=member: MACS[member] * epochs for member in measured}
    return timetable.choose(MACS, epoch, seconds, enough, least)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (160, (3, 20, 160)),  # The largest, just so.
        (159, (2, 39, 156)),
        (1000, (3, 125, 1000)),
        (40, (1, 20, 40)),
        (19, (0, 19, 19)),  # None is fast enough: the smallest, for as long as there is time.
        (0, (0, 3, 3)),  # No time at all: what the schedule needs.
        (10**6, (3, timetable.MOST_EPOCHS, 8 * timetable.MOST_EPOCHS)),
    ],
)
def test_the_largest_member_that_trains_long_enough(seconds, expected):
    for measured in ((0, 3), (1, 2), (0, 1, 2, 3)):  # Whichever were measured.
        choice = choose(seconds + 1e-9, measured=measured)
        assert (choice.member, choice.epochs) == expected[:2]
        assert choice.seconds == pytest.approx(expected[2])


def test_of_one_measured_member_seconds_go_with_the_root_of_operations():
    # 8 operations take 8 s an epoch: 4 take 8 / sqrt(2), 2 take 4.
    assert choose(159, measured=(3,)).member == 2
    assert choose(159, measured=(3,)).epochs == int(159 / (8 / 2**0.5))
    assert choose(80.1, measured=(3,)).member == 1


@pytest.mark.parametrize(
    ("asked", "seconds", "expected"),
    [
        (5, 1000, (3, 5, 40)),  # Time for more.
        (500, 4000, (3, 500, 4000)),  # More than are ever chosen.
        (500, 2000, (2, 500, 2000)),
        (500, 100, (0, 500, 500)),  # Time for fewer.
        (3, 20, (2, 3, 12)),  # As few as the schedule allows, which is no time for a large one.
    ],
)
def test_epochs_that_were_asked_for(asked, seconds, expected):
    epoch = {member: lambda epochs, member=member: MACS[member] * epochs for member in (0, 3)}
    assert timetable.choose(MACS, epoch, seconds + 1e-9, asked, 3, is_asked=True) == Choice(*expected)


def test_a_recipe_of_more_epochs_than_are_ever_chosen():
    assert (choose(4000, enough=500).member, choose(4000, enough=500).epochs) == (3, 500)


def test_networks_that_are_as_fast_as_each_other():
    choice = timetable.choose([1.0, 2.0, 4.0], {0: lambda epochs: 2.0 * epochs, 2: lambda epochs: epochs}, 30, 20, 1)
    assert choice == Choice(2, 30, 30)  # The larger was measured to be faster; no power below 0 comes of it.


def test_a_larger_member_need_not_have_more_operations():
    choice = timetable.choose([3.0, 2.0], {1: lambda epochs: 2.0 * epochs}, 48, 20, 1)
    assert (choice.member, choice.epochs) == (1, 24)


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(timetable, "time", types.SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_shares_of_an_hour(tmp_path, clock):
    table = Timetable(tmp_path / "t.json", 1.0, started=90.0)
    assert table.used == 10
    left = []
    assert table.base_stride(lambda seconds: left.append(seconds) or 2) == 2
    assert left == [pytest.approx(3600 * 0.8 - timetable.END_SECONDS)]
    # 3600 * 0.2 / 3 = 240 s for the search.
    assert table.search_steps(lambda: 4.0) == 60
    clock.seconds = 90 + 700
    assert not table.growth_ends(20.0)
    assert table.growth_ends(20.1)
    left = []
    table.choice(lambda seconds: left.append(seconds) or Choice(1, 7, 50.0))
    assert left == [pytest.approx((3600 - 700 - timetable.END_SECONDS) * 0.97)]


@pytest.mark.parametrize(("score", "steps"), [(1000.0, timetable.LEAST_STEPS), (0.001, timetable.MOST_STEPS)])
def test_searches_have_bounds(tmp_path, clock, score, steps):
    assert Timetable(tmp_path / "t.json", 1.0, 100.0).search_steps(lambda: score) == steps


def test_a_killed_run_keeps_to_its_decisions(tmp_path, clock):
    path = tmp_path / "t.json"
    first = Timetable(path, 0.5, started=100.0)
    first.base_stride(lambda seconds: 4)
    first.search_steps(lambda: 2.0)
    clock.seconds += 60
    first.choice(lambda seconds: Choice(2, 11, 300.0))
    clock.seconds += 1000  # Killed; not known how long it went on.
    again = Timetable(path, 0.5, started=clock.seconds)
    assert again.used == 60
    refuse = pytest.fail
    assert again.base_stride(refuse) == 4
    assert again.search_steps(refuse) == 60
    assert again.choice(refuse) == Choice(2, 11, 300.0)
    assert json.loads(path.read_text())["choice"]["epochs"] == 11


@pytest.mark.parametrize("hours", [0, -1, 0.049, float("nan"), float("inf")])
def test_hours_that_nothing_can_be_done_in(hours):
    with pytest.raises(UserError, match=r"must be a number from 0\.05"):
        RunSettings(hours=hours)


def test_what_time_decides_is_left_open():
    assert (RunSettings().search_steps, RunSettings().budget) == (20, 1.0)
    timed = RunSettings(hours=1)
    assert (timed.search_steps, timed.budget) == (None, 100.0)
    assert (RunSettings(data_path=".").base_stride, RunSettings(data_path=".", hours=1).base_stride) == (2, None)
    assert RunSettings(data_path=".", hours=1).stride == 2
    kept = RunSettings(hours=1, search_steps=7, budget=2.5, base_stride=1)
    assert (kept.search_steps, kept.budget, kept.base_stride, kept.stride) == (7, 2.5, 1, 1)


@pytest.fixture
def trained(tmp_path, clock):
    """A training of 20 epochs of 10 steps in an hour, looked at behind every second epoch; seconds by epoch."""

    def behind(seconds_of_an_epoch, used=720.0, since=0, hours=1.0):
        (tmp_path / "t.json").unlink(missing_ok=True)
        table = Timetable(tmp_path / "t.json", hours, started=clock.seconds - used)
        table.choice(lambda seconds: Choice(0, 20, seconds))
        pace = timetable.Pace(table, 20, 10, since)
        for epoch in range(2, 21, 2):
            clock.seconds += 2 * seconds_of_an_epoch
            try:
                pace(10 * epoch)
            except timetable.EpochsChangedError as change:
                table.change(change.epochs)
                return epoch, table.epochs
        return None

    return behind


# 3600 - 720 - 60 = 2820 s are left for 20 epochs of 141 s; 4 % of an hour are 144 s.
def test_epochs_that_fit_stay(trained):
    assert trained(141.0) is None
    assert trained(147.0) is None
    assert trained(135.0) is None


def test_fewer_epochs_where_the_training_is_slower(trained):
    # Behind epoch 4: 2820 - 640 - 40 = 2140 s for epochs of 160.
    assert trained(160.0) == (4, 4 + 13)


def test_more_epochs_where_it_is_faster(trained):
    # 2820 - 400 - 40 = 2380 s for epochs of 100.
    assert trained(100.0) == (4, 4 + 23)


def test_a_training_that_is_nearly_done_is_not_stretched(trained):
    assert trained(100.0, since=150) is None
    assert trained(200.0, since=150) is not None


def test_a_training_that_has_ended_late_gets_no_more(trained):
    assert trained(2000.0, since=170) is None


def test_one_more_epoch_is_the_least(trained):
    assert trained(2000.0) == (4, 5)


def test_what_beginning_again_would_cost_is_not_saved(trained):
    # Of 0.1 hours 44 are left behind epoch 4, for 16 epochs of 5 s: 36 s late, and 60 are tolerated.
    assert trained(5.0, used=236.0, hours=0.1) is None


def test_a_start_that_was_killed_in_its_training_has_used_its_time(trained, tmp_path):
    assert trained(141.0) is None
    again = Timetable(tmp_path / "t.json", 1.0, started=timetable.time.monotonic())
    assert again.used == 720 + 20 * 141


def test_an_evaluation_before_programs_are_traced_tells_nothing_of_the_speed(tmp_path, clock):
    """A start goes on at epoch 4 and evaluates there; the next two epochs take 60 s more, then it is as expected."""
    table = Timetable(tmp_path / "t.json", 1.0, started=clock.seconds - 720 - 4 * 141)
    table.choice(lambda seconds: Choice(0, 20, seconds))
    pace = timetable.Pace(table, 20, 10, since=0, begun=40)
    pace(40)
    clock.seconds += 60
    for epoch in range(6, 21, 2):
        clock.seconds += 2 * 141
        pace(10 * epoch)


def test_a_training_that_lost_its_devices_is_timed_anew(tmp_path, clock):
    table = Timetable(tmp_path / "t.json", 1.0, started=clock.seconds - 720)
    table.choice(lambda seconds: Choice(0, 20, seconds))
    pace = timetable.Pace(table, 20, 10, since=0)
    for epoch, seconds in ((2, 282), (2, 60), (4, 282), (6, 282)):
        clock.seconds += seconds
        pace(10 * epoch)


def test_epochs_change_twice_at_most(tmp_path, clock):
    table = Timetable(tmp_path / "t.json", 1.0, started=clock.seconds)
    table.choice(lambda seconds: Choice(0, 20, seconds))
    assert (table.changes, table.epochs) == (0, 20)
    for epochs in (18, 17):
        table.change(epochs)
    assert Timetable(tmp_path / "t.json", 1.0, started=clock.seconds).epochs == 17
    pace = timetable.Pace(table, 17, 10, 0)
    for epoch in range(1, 10):
        clock.seconds += 1000
        pace(10 * epoch)
