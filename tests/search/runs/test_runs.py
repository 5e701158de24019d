"""The commands search and grow: released flags, workers, kills, bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT

from asvit_tf import UserError, cli
from search.runs.search_settings import ImageSettings, ScoredRun, SizeSettings, WorkerSettings
from search.scoring.settings import ScoringSettings
from search.strategy.limits import Limits

SMALL = ["--image_size", "16", "--batch_size", "2", "--repeat", "1", "--points", "3"]
GROW = [
    "grow",
    "--arch",
    "4,2,2|2,1,2|2,1,2|2,1,2|16",
    "--dataset",
    "noise",
    *SMALL,
    "--width",
    "16",
    "--proxy-divisor=8",
]
GROW += [
    "--reward_types",
    "exp",
    "--num-classes",
    "10",
    "--stop-parameters",
    "0.38",
    "--max-parameters",
    "0.6",
    "--targets",
    "0.3,0.36",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 20, 3), np.uint8)
        (root / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    return root


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def rows(path):
    rows = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return [{name: value for name, value in row.items() if name not in ("seconds", "split")} for row in rows]


def wait_for_rows(path, count, process, seconds=900):
    """Until a journal has so many rows, or the process has ended; a busy machine takes minutes to import TensorFlow."""
    end = time.monotonic() + seconds
    while len(rows(path)) < count and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)


@pytest.mark.usefixtures("rewritten_graphs")
def test_the_released_command_line_with_every_flag_and_a_kill(folder, tmp_path):
    command = [ROOT / "search/reinforce.py", "--save_dir", tmp_path / "killed", "--data_path", folder]
    command += ["--dataset", "imagenet", "--learning_rate", "0.08", "--total_steps", "2", "--EMA_momentum", "0.9"]
    command += ["--workers", "1", "--rand_seed", "8", "--te_buffer_size", "20", "--reward_types", "ntk_exp"]
    command += ["--timestamp", "first", *SMALL, "--json"]
    process = start(*command)
    trace = tmp_path / "killed/first/trace.jsonl"
    wait_for_rows(trace, 1, process)
    process.kill()
    process.communicate()
    assert len(rows(trace)) == 1
    output, error = start(*command).communicate()
    result = json.loads(output)
    assert {"topology", "scores", "parameters", "macs"} <= set(result), error
    assert "search: 100%" in error

    unbroken = ["search", *map(str, command[1:])]
    unbroken[2] = str(tmp_path / "unbroken")
    assert cli.main(unbroken) == 0
    for name in ("trace.jsonl", "scores.jsonl"):
        assert rows(tmp_path / "unbroken/first" / name) == rows(trace.with_name(name))
    assert [row["step"] for row in rows(trace)] == [0, 1]
    assert (tmp_path / "unbroken/first/search.png").read_bytes()[:4] == b"\x89PNG"


def test_workers_change_nothing_and_a_kill_leaves_no_lock(tmp_path, capsys):
    assert cli.main([*GROW, "--save_dir", str(tmp_path / "one"), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert len(expected["family"]) >= 2
    assert set(expected["configs"]) | {line.split()[6] for line in expected["missed"]} == {"0.3", "0.36"}

    command = [ROOT / "search/grow.py", *GROW[1:], "--save_dir", tmp_path / "two", "--workers", "2", "--json"]
    process = start(*command)
    scores = tmp_path / "two/scores.jsonl"
    wait_for_rows(scores, 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(rows(scores))
    output, error = start(*command).communicate()  # At once: orphaned workers hold no lock.
    assert output, error
    result = json.loads(output)
    assert result["family"] == expected["family"]
    assert before >= 2
    assert rows(scores) == rows(tmp_path / "one/scores.jsonl")
    assert (tmp_path / "two/growth.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search"], "give --data_path, or --dataset"),
        (["search", "--dataset", "no_such_data"], "'no_such_data' is not prepared"),
        (["search", "--data_path", "EMPTY"], "has no images"),
        (["search", "--data_path", "ONE"], "2 different images are needed, 1 were found"),
        (["search", "--dataset", "noise", "--reward_types", "accuracy"], "unknown measure 'accuracy'; allowed are"),
        (["search", "--dataset", "noise", "--total_steps", "0"], "must be at least 1"),
        (["search", "--dataset", "noise", "--EMA_momentum", "1"], "allowed are numbers from 0 to below 1"),
        (["search", "--dataset", "noise", "--max-parameters", "0.001"], "not one is within the limits"),
        (["grow", "--arch", "tiny", "--dataset", "noise"], "unknown topology 'tiny'"),
        (["grow", "--arch", "seed", "--dataset", "noise", "--targets", "29,500"], "target 500 M is out of reach"),
        (["grow", "--arch", "seed", "--dataset", "noise", "--width", "30"], "30 is not a multiple"),
        (["grow", "--arch", "seed", "--dataset", "noise", "--width", "32", "--proxy-divisor", "32"], "a head needs"),
        (["grow", "--arch", "seed", "--dataset", "noise", "--max-parameters", "1"], "growth starts at 2.33 M"),
        (["grow", "--arch", "seed", "--dataset", "noise", "--max-macs", "1e-6"], "over the limits"),
        (["grow", "--arch", "seed", "--dataset", "noise", "--stop-parameters", "nan"], "not a number above 0"),
        (["search", "--dataset", "noise", "--te_buffer_size", "1"], "at least 2 values"),
    ],
)
def test_bad_input_is_one_line(arguments, message, folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "one/0.png").write_bytes((folder / "0.png").read_bytes())
    places = {"EMPTY": str(tmp_path / "empty"), "ONE": str(tmp_path / "one")}
    arguments = [places.get(word, word) for word in arguments]
    assert cli.main([*arguments, "--save_dir", str(tmp_path / "out"), *SMALL]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out/settings.json").exists()  # Other settings may be tried there.


# What an earlier version wrote: directories that it began continue.
KEPT = {
    **{"dataset": "digits", "data_dir": None, "batch_size": 2, "image_size": 16, "repeats": 1, "points": 3},
    **{"radius": "sqrt_n", "initialization": "released", "normalization": "identity", "engine": "jet"},
    **{"max_parameters": None, "max_macs": None, "num_classes": 1000, "data_path": None, "seed": 8},
    "measures": ["length_distortion", "ntk_condition_number"],
    "base_stride": 1,
}
KEPT_BY_SEARCH = {**KEPT, "samples_per_step": 1, "learning_rate": 0.08, "ema_momentum": 0.9, "buffer_size": 20}
KEPT_BY_GROWTH = {
    **KEPT,
    **{"seed": 27, "max_parameters": 110.0, "width": 16, "proxy_divisor": 2},
    "arch": "8,2,3,1|4,1,2,1|4,1,4,1|4,1,6,1|32,32",
}
ARCH = ["--arch", "seed", "--width", "16", "--proxy-divisor", "2", "--stop-parameters", "7"]


@pytest.mark.parametrize(
    ("command", "kept"), [(["search"], KEPT_BY_SEARCH), (["grow", *ARCH], KEPT_BY_GROWTH)], ids=["search", "grow"]
)
def test_a_directory_of_another_configuration_is_refused_and_says_all_that_differs(command, kept, tmp_path, capsys):
    (tmp_path / "settings.json").write_text(json.dumps({**kept, "seed": 1, "max_macs": 0.5}))
    (tmp_path / "scores.jsonl").touch()  # Else nothing was made by them.
    assert cli.main([*command, "--dataset", "digits", "--save_dir", str(tmp_path), *SMALL]) == 2
    differences = f"other settings (max_macs was 0.5, now None; seed was 1, now {kept['seed']});"
    assert differences in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ImageSettings, {}, "give --data_path, or --dataset"),
        (ImageSettings, {"dataset": "noise", "batch_size": 1}, "batch_size is 1; it must be at least 2"),
        (ImageSettings, {"dataset": "noise", "image_size": 0}, "image_size is 0; it must be at least 1"),
        (SizeSettings, {"max_parameters": 1e-7}, "max_parameters is 0; it must be at least 1"),
        (SizeSettings, {"num_classes": 0}, "num_classes is 0; it must be at least 1"),
        (WorkerSettings, {"processes": 0}, "workers is 0 and threads None; both must be at least 1"),
        (WorkerSettings, {"threads": 0}, "workers is 1 and threads 0; both must be at least 1"),
    ],
)
def test_settings_check_themselves(kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(**options)


def test_the_parts_of_a_run_must_fit_together():
    images = ImageSettings("noise", image_size=16)
    assert ScoredRun(images, ScoringSettings((16, 16)), SizeSettings(1.5, 0.25, 7)).limits == Limits(
        1_500_000, 250_000_000, (16, 16), 7
    )
    with pytest.raises(UserError, match=r"images of \(32, 32\), not of \(16, 16\)"):
        ScoredRun(images, ScoringSettings((32, 32)))


@pytest.mark.parametrize(("script", "flag"), [("reinforce.py", "--total-steps"), ("grow.py", "--arch")])
def test_the_scripts_explain_themselves_and_refuse_in_one_line(script, flag):
    process = start(ROOT / "search" / script, "--help")
    output, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert output.startswith(f"Usage: {script} ")
    assert flag in output
    process = start(ROOT / "search" / script, "--save_dir", "unused", flag, "none", "--dataset", "noise")
    output, error = process.communicate()
    assert (process.returncode, output, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"{script}: ")


def test_help_says_what_workers_are(capsys):
    assert cli.main(["search", "--help"]) == 0
    assert "not threads that read data" in " ".join(capsys.readouterr().out.split())
