"""What a training shows: lines, the bar, the time left; and what stays off the screen."""

import io
import logging
import sys
import time
from types import SimpleNamespace

import pytest
import tensorflow as tf
from absl import logging as absl_logging

from asvit_tf import Tokenization
from asvit_tf.design.retokenization import Phase, Schedule
from asvit_tf.training.display import screen as screens
from asvit_tf.training.display.log_file import LOG_FILE, captured
from asvit_tf.training.display.pace import Pace
from asvit_tf.training.display.screen import Screen
from asvit_tf.training.trainer import RunningBlock, StepBlock

SCHEDULE = Schedule((Phase(10, Tokenization(16, 5)), Phase(None, Tokenization(4, 1))))
TOTAL = 30


def block(step, steps, phase, seconds, traced=False, **metrics):
    stride, dilation = ((16, 5), (4, 1))[phase]
    return StepBlock(step, steps, phase, stride, dilation, traced, seconds, {"training_loss": 1.5, **metrics})


def test_the_time_left_by_hand():
    pace = Pace(SCHEDULE, TOTAL, macs=[1, 4])
    assert pace.step_seconds(0) is None
    pace.add(block(4, 4, 0, seconds=40.0, traced=True))
    assert pace.step_seconds(0) == 10.0  # The best guess there is; too long, so no time left is told from it.
    assert pace.seconds_left(4) is None
    pace.add(block(8, 4, 0, seconds=2.0))
    # Two more steps of 0.5 seconds, then 20 with four times the operations, each 4^(3/4) times as long.
    assert pace.seconds_left(8) == pytest.approx(2 * 0.5 + 20 * 2**0.5)
    pace.add(block(14, 4, 1, seconds=80.0, traced=True))
    assert pace.seconds_left(14) == pytest.approx(16 * 2**0.5)
    pace.add(block(18, 4, 1, seconds=12.0))
    assert pace.seconds_left(18) == pytest.approx(12 * 3.0)
    assert pace.seconds_left(TOTAL) == 0


@pytest.mark.parametrize(("second", "third"), [(2.0, 8.0), (1.0, 2.0), (0.25, 0.25)])
def test_of_two_phases_follows_how_seconds_go_with_operations(second, third):
    tokenizations = [Tokenization(16, 5), Tokenization(8, 2), Tokenization(4, 1)]
    schedule = Schedule(tuple(Phase(end, each) for end, each in zip((10, 20, None), tokenizations)))
    pace = Pace(schedule, 30, macs=[1, 4, 16])
    pace.add(StepBlock(10, 10, 0, 16, 5, False, 5.0, {}))
    pace.add(StepBlock(20, 10, 1, 8, 2, False, 10 * second, {}))
    # 0.5 s, then `second` for four times the operations; the same step again, and never less for more of them.
    assert pace.seconds_left(20) == pytest.approx(10 * third)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """In place of standard error; called by a test itself, because pytest sets that anew after its fixtures."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def trainer(**fields):
    config = SimpleNamespace(
        trainer=SimpleNamespace(train_steps=TOTAL),
        task=SimpleNamespace(train_data=SimpleNamespace(global_batch_size=64)),
    )
    return SimpleNamespace(config=config, schedule=SCHEDULE, running=None, evaluating=False, **fields)


def last_bar(stream):
    return stream.getvalue().split("\r")[-1]


def test_the_bar_moves_inside_a_block_and_never_passes_its_end(monkeypatch):
    """Resumed at step 10; blocks of ten steps that take one second each."""
    monkeypatch.setattr(screens, "_REFRESH_SECONDS", 1000.0)  # The test moves the bar.
    stream = terminal(monkeypatch)
    fake = trainer()
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    with Screen(fake, [], shows=True) as screen:
        screen.begin(10)
        fake.running = RunningBlock(10, 10, 1, 4, True, now)
        now += 50
        screen.refresh()
        assert "| 10/30 [" in last_bar(stream)  # While it is traced nothing is known.
        assert "tracing" in last_bar(stream)
        fake.running = None
        screen.trained(block(20, 10, 1, seconds=10.0))
        assert "| 20/30 [" in last_bar(stream)
        fake.running = RunningBlock(20, 10, 1, 4, False, now)
        for seconds, step in ((0.5, 20), (3.5, 23), (9.9, 29), (100.0, 30)):
            now = fake.running.since + seconds
            screen.refresh()
            assert f"| {step}/30 [" in last_bar(stream)
            assert f"00:{30 - step:02} left, training at stride 4, loss 1.500" in last_bar(stream)
    assert "step/s" not in stream.getvalue()
    assert "continuing from step 10 of 30\n" in stream.getvalue()


def test_the_bar_moves_by_itself(monkeypatch):
    stream = terminal(monkeypatch)
    monkeypatch.setattr(screens, "_REFRESH_SECONDS", 0.01)
    fake = trainer()
    with Screen(fake, [], shows=True) as screen:
        screen.begin(0)
        screen.trained(block(10, 10, 0, seconds=0.1))
        fake.running = RunningBlock(10, 20, 1, 4, False, time.perf_counter())
        deadline = time.monotonic() + 20
        while not any(f"| {step}/30 [" in stream.getvalue() for step in range(11, 30)):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_line_for_a_block(capsys):
    """Off a terminal there is no bar."""
    with Screen(trainer(), [], shows=True) as screen:
        screen.begin(0)
        screen.trained(block(5, 5, 0, seconds=2.0, traced=True, accuracy=0.25))
        screen.trained(block(TOTAL, 10, 1, seconds=0.5))
        screen.evaluated(TOTAL, {"accuracy": 0.5, "validation_loss": 1.25, "learned": 1.0})
    assert capsys.readouterr().err.splitlines() == [
        " 5/30  phase 1/2  stride 16  loss 1.5000  accuracy 0.2500  160 images/s with tracing",
        "30/30  phase 2/2  stride 4  loss 1.5000  1,280 images/s  00:00 left",
        "evaluated at step 30: validation loss 1.2500, accuracy 0.5000",
    ]


def test_lines_that_would_follow_each_other_within_a_second_are_in_the_log_only(capsys, tmp_path):
    with captured() as log, Screen(trainer(), [], shows=True) as screen:
        log.open(str(tmp_path))
        for step in range(1, 10):
            screen.trained(block(step, 1, 0, seconds=0.01))
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (tmp_path / LOG_FILE).read_text().count("images/s") == 9


def test_what_libraries_say_goes_to_the_log(capfd, tmp_path):
    """Also what was said before its place is known; and it is appended to."""
    (tmp_path / LOG_FILE).write_text("earlier\n")
    levels = [logging.getLogger(name).level for name in ("absl", "tensorflow")]
    with captured() as log:
        print("printed early")
        log.open(str(tmp_path))
        absl_logging.warning("Gradients do not exist for %s", "norm")
        tf.get_logger().warning("triggered retracing")
        print("np.float64(1.0)")
    print("printed afterwards")
    assert capfd.readouterr() == ("printed afterwards\n", "")
    text = (tmp_path / LOG_FILE).read_text()
    said = ("earlier", "printed early", "WARNING Gradients do not exist for norm", "triggered retracing", "np.float64")
    assert [text.index(words) for words in said] == sorted(text.index(words) for words in said)
    assert [logging.getLogger(name).level for name in ("absl", "tensorflow")] == levels


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with captured() as log:
        log.open(str(tmp_path / "file" / "below"))
        print("lost")
