import itertools
import json

import pytest

from asvit_tf import Phase, Schedule, Tokenization, Topology, UserError
from asvit_tf.design import savings
from asvit_tf.design.retokenization import transition_steps


@pytest.mark.parametrize(
    ("kernel_size", "dilations"),
    [(4, (5, 2, 1)), (8, (2, 1, 1)), (5, (3, 1, 1)), (1, (15, 7, 3))],
)
def test_auto_dilation(kernel_size, dilations):
    assert tuple(Tokenization.auto(stride, kernel_size).dilation for stride in (16, 8, 4)) == dilations


def test_schedule_against_a_table():
    schedule = Schedule((Phase(3, Tokenization(16, 5)), Phase(5, Tokenization(8, 2)), Phase(None, Tokenization(4, 1))))
    table = [16, 16, 16, 8, 8, 4, 4, 4]
    assert [schedule.tokenization(step).stride for step in range(len(table))] == table
    assert schedule.boundaries == (3, 5)
    assert schedule.final == Tokenization(4, 1)
    assert schedule.steps_per_phase(8) == (3, 2, 3)
    assert schedule.steps_per_phase(4) == (3, 1, 0)


@pytest.mark.parametrize("transition", [None, 0, 5])
def test_behind_the_last_transition_tokens_are_the_final_ones(transition):
    schedule = Schedule.preset("published", 300, 4, transition=transition)
    assert schedule.settled == 132 + {None: 8, 0: 0, 5: 3}[transition]  # A twentieth of 300 steps; half of it, up.
    assert {schedule.tokenization(step) for step in range(schedule.settled, 400)} == {schedule.final}
    assert schedule.tokenization(schedule.settled - max(2, schedule.transition)) != schedule.final
    assert Schedule.constant().settled == 0


def test_presets_over_300_epochs():
    published = Schedule.preset("published", 300, 4)
    assert published.boundaries == (80, 132)
    assert [(p.tokenization.stride, p.tokenization.dilation) for p in published.phases] == [(16, 5), (8, 2), (4, 1)]
    assert Schedule.preset("thirds", 300, 4).boundaries == (100, 200)
    assert Schedule.preset("published", 300, 4, block=50).boundaries == (100, 150)
    assert Schedule.preset("published", 18, 4, block=6).boundaries == (6, 12)  # Not (6, 6): each phase has a block.
    assert Schedule.preset("none", 300, 4) == Schedule.constant()


def test_a_transition_against_a_table():
    """Four periods of 6 around step 14: the new tokenization gets a fifth, then two, three and four of each."""
    phases = (Phase(14, Tokenization(16, 5)), Phase(None, Tokenization(4, 1)))
    schedule = Schedule(phases, transition=24, period=6)
    turns = [[16] * 5 + [4], [16] * 4 + [4] * 2, [16] * 2 + [4] * 4, [16] + [4] * 5]
    table = [16, 16, *itertools.chain(*turns), 4, 4, 4]
    assert [schedule.tokenization(step).stride for step in range(len(table))] == table
    assert schedule.boundaries == (14,)
    assert schedule.changes(0, len(table)) == [7, 8, 12, 14, 16, 20, 21]
    assert schedule.changes(8, 14) == [12]  # A block that starts or ends at a change is not cut there.
    assert schedule.steps_per_phase(len(table)) == (table.count(16), table.count(4))
    assert schedule.steps_per_phase(9) == (8, 1)


def test_a_short_transition_has_shorter_periods():
    """Room for one period of 6 is used for two of 4; six steps are one period, with three of each."""
    phases = (Phase(6, Tokenization(16)), Phase(None, Tokenization(4)))
    strides = [Schedule(phases, transition=8, period=6).tokenization(step).stride for step in range(12)]
    assert strides == [16, 16, 16, 16, 16, 4, 16, 4, 4, 4, 4, 4]
    strides = [Schedule(phases, transition=6, period=6).tokenization(step).stride for step in range(12)]
    assert strides == [16] * 6 + [4] * 6


@pytest.mark.parametrize("preset", ["published", "thirds"])
@pytest.mark.parametrize("total", [200, 3520, 100_000])
def test_a_transition_raises_the_share_evenly(preset, total):
    schedule = Schedule.preset(preset, total, 4)
    assert schedule.transition == round(0.05 * total)
    strides = [schedule.tokenization(step).stride for step in range(total)]
    cuts = [0, *schedule.changes(0, total), total]
    assert [strides[cut] for cut in cuts[:-1]] == [stride for stride, _ in itertools.groupby(strides)]
    assert schedule.steps_per_phase(total) == tuple(map(strides.count, (16, 8, 4)))
    half = schedule.transition // 2
    for boundary, old, new in zip(schedule.boundaries, (16, 8), (8, 4)):
        before, after = strides[boundary - half : boundary], strides[boundary : boundary + half]
        assert set(before) | set(after) == {old, new}
        assert strides[boundary - half - 1] == old
        assert strides[boundary + schedule.transition - half] == new
        assert before.count(new) / half < 0.5 < after.count(new) / half
        assert abs(before.count(new) - after.count(old)) <= 16  # As many steps of each as without.


def test_a_transition_that_does_not_fit():
    phases = (Phase(4, Tokenization(16)), Phase(10, Tokenization(8)), Phase(None, Tokenization(4)))
    assert Schedule(phases, transition=6).transition == 6
    with pytest.raises(UserError, match="a transition of 7 steps does not fit these phases; allowed are up to 6"):
        Schedule(phases, transition=7)
    with pytest.raises(UserError, match="allowed are up to 0"):
        Schedule((Phase(None, Tokenization()),), transition=1)
    for bad in (-1, 1.5, True):
        with pytest.raises(UserError, match="transition is"):
            Schedule(phases, transition=bad)
    with pytest.raises(UserError, match="period is 1; allowed are whole numbers of steps from 2"):
        Schedule(phases, period=1)


def test_thirds_save_what_the_paper_states_when_cost_is_tokens():
    phases = [savings.PlannedPhase(s, 1, (1, 1), 100, macs, 0.0) for s, macs in ((16, 1), (8, 4), (4, 16))]
    assert savings.planned_saving(phases) == pytest.approx(0.5625)


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_thirds_save_at_least_56_percent_of_published_sizes(name):
    topology = Topology.named(name)
    schedule = Schedule.preset("thirds", 300, 8)
    phases = savings.plan(topology, schedule, 300, (224, 224), 1000)
    assert 0.56 < savings.planned_saving(phases) < 0.60
    assert [phase.token_grid for phase in phases] == [(14, 14), (28, 28), (56, 56)]
    assert sum(phase.share for phase in phases) == pytest.approx(1)
    assert f"saves {savings.planned_saving(phases):.1%}" in savings.plan_in_words(phases)


def test_measured_savings_by_hand():
    blocks = [
        dict(step=2, steps=2, phase=0, stride=16, dilation=1, traced=True, seconds=9.0),
        dict(step=4, steps=2, phase=0, stride=16, dilation=1, traced=False, seconds=2.0),
        dict(step=6, steps=2, phase=1, stride=4, dilation=1, traced=True, seconds=13.0),
        dict(step=8, steps=2, phase=1, stride=4, dilation=1, traced=False, seconds=8.0),
    ]
    times = savings.phase_times(blocks)
    assert [time.step_seconds for time in times] == [1, 4]
    assert [time.trace_seconds for time in times] == [7, 5]
    assert savings.measured_saving(times) == pytest.approx(1 - (4 * 1 + 4 * 4) / (8 * 4))
    phases = savings.plan(Topology.named("seed"), Schedule.preset("thirds", 12, 8), 12, (224, 224), 1000)
    assert savings.summary(phases, blocks)["measured_saving"] == pytest.approx(0.375)
    assert savings.summary(phases, blocks[:2])["measured_saving"] is None  # The last phase is still to come.
    assert savings.summary(phases, [])["trace_seconds"] == 0


def test_blocks_of_a_version_without_phases():
    rows = [dict(step=step, steps=2, stride=stride, dilation=1) for step, stride in ((2, 16), (4, 16), (6, 8), (8, 16))]
    again = dict(step=6, steps=2, stride=8, dilation=2)
    text = "\n".join(map(json.dumps, [*rows, again]))
    assert [row["phase"] for row in savings.parse_blocks("\n".join(map(json.dumps, rows)))] == [0, 0, 1, 2]
    assert [(row["step"], row["dilation"], row["phase"]) for row in savings.parse_blocks(text)] == [
        (2, 1, 0),
        (4, 1, 0),
        (6, 2, 1),
    ]


def test_a_schedule_may_come_back_to_a_tokenization():
    rows = [
        dict(step=step, steps=2, phase=phase, stride=(4, 8, 4)[phase], dilation=1, traced=traced, seconds=seconds)
        for step, phase, traced, seconds in [(2, 0, True, 5.0), (4, 0, False, 2.0), (6, 1, True, 3.0)]
        + [(8, 1, False, 1.0), (10, 2, True, 6.0), (12, 2, False, 2.2)]
    ]
    times = savings.phase_times(rows)
    assert [(time.stride, time.steps, time.step_seconds) for time in times] == [(4, 4, 1.0), (8, 4, 0.5), (4, 4, 1.1)]
    assert savings.measured_saving(times) == pytest.approx(1 - (4.0 + 2.0 + 4.4) / (1.1 * 12))


@pytest.mark.parametrize(
    "phases",
    [
        (),
        (Phase(10, Tokenization()),),
        (Phase(None, Tokenization(8, 1)), Phase(None, Tokenization())),
        (Phase(10, Tokenization(16, 5)), Phase(10, Tokenization(8, 2)), Phase(None, Tokenization())),
        (Phase(0, Tokenization(8, 2)), Phase(None, Tokenization())),
    ],
)
def test_phases_out_of_order_are_refused(phases):
    with pytest.raises(UserError, match="phase"):
        Schedule(phases)


def test_shares_of_a_transition():
    assert transition_steps([100, 200], 1000, 0.05) == 50
    assert transition_steps([100, 120], 1000, 0.05) == 20  # No more than there is room for.
    assert transition_steps([100, 990], 1000, 0.05) == 20
    assert transition_steps([10], 60, 0.05) == 0  # Too short to take turns in.
    assert transition_steps([], 1000) == 0
    for share in ("abc", None, True, -0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match=r"retokenization.transition is .*; allowed are shares of all steps from 0"):
            transition_steps([100], 1000, share)


@pytest.mark.parametrize("values", [(0, 1), (4, 0), (4.0, 1), (True, 1), (8, "auto")])
def test_bad_tokenizations_are_refused(values):
    with pytest.raises(UserError, match="allowed are whole numbers"):
        Tokenization(*values)


@pytest.mark.parametrize(
    ("image_size", "strides"),
    [
        (None, [16, 8, 4]),
        ((224, 224), [16, 8, 4]),
        ((49, 49), [16, 8, 4]),  # Four tokens a side, rounded up.
        ((48, 48), [8, 4]),
        ((224, 48), [8, 4]),
        ((25, 25), [8, 4]),
        ((24, 24), [4]),
        ((8, 8), [4]),  # Two tokens a side: the finest stays.
    ],
)
@pytest.mark.parametrize(("preset", "ends"), [("published", (80, 132)), ("thirds", (100, 200)), ("none", ())])
def test_a_preset_leaves_out_strides_that_leave_few_tokens(preset, ends, image_size, strides):
    schedule = Schedule.preset(preset, 300, 4, image_size=image_size, base_stride=4)
    expected = strides if preset != "none" else [4]
    assert [phase.tokenization.stride for phase in schedule.phases] == expected
    assert schedule.boundaries == ends[len(ends) - len(expected) + 1 :]


@pytest.mark.parametrize(
    ("image_size", "strides"),
    [((96, 200), [16, 8, 4]), ((95, 200), [8, 4, 2]), ((32, 32), [8, 4, 2]), ((31, 31), [4, 2, 1]), ((8, 8), [2, 1])],
)
def test_strides_are_multiples_of_what_fits_the_image(image_size, strides):
    schedule = Schedule.preset("thirds", 300, 4, image_size=image_size)
    assert [phase.tokenization.stride for phase in schedule.phases] == strides
    assert Schedule.preset("none", 300, 4, image_size=image_size).final == Tokenization(strides[-1])


@pytest.mark.parametrize("preset", ["none", "published", "thirds"])
@pytest.mark.parametrize("kernel_size", [2, 4, 8])
@pytest.mark.parametrize("base_stride", [1, 4, 8, 16])
def test_the_last_phase_is_what_is_evaluated(preset, kernel_size, base_stride):
    schedule = Schedule.preset(preset, 300, kernel_size, image_size=(224, 224), base_stride=base_stride)
    assert schedule.final == Tokenization(base_stride, 1)


def test_unknown_preset_and_too_few_steps_are_refused():
    with pytest.raises(UserError, match="allowed are none, published, thirds"):
        Schedule.preset("halves", 300, 4)
    with pytest.raises(UserError, match="20 steps are too few for schedule 'thirds'; it needs more than 20"):
        Schedule.preset("thirds", 20, 4, block=10)
