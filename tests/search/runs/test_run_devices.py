"""The whole path on two GPUs, with two devices of the CPU in their place; and gone on with on the CPU."""

import contextlib
import json
import shutil

import pytest
import tensorflow as tf
import yaml
from helpers import FakeGpus, two_devices
from search_helpers import coloured_digits, fake_score, fake_scorer

from asvit_tf import cli
from asvit_tf.hardware.choice import Gpu
from asvit_tf.serving import latency
from asvit_tf.training import strategies
from search.runs import designing, pipeline

OPTIONS = [
    *("--image-size", "16", "--search-steps", "2", "--repeats", "1", "--score-batch", "2", "--budget", "0.45"),
    *("--epochs", "3", "--batch-size", "9", "--seed", "3", "--retokenization", "none"),
]


class Scorers:
    """In the place of processes that score on a GPU each; what they were to be."""

    def __init__(self, monkeypatch):
        self.made, self.ended = [], 0

        def make(settings, images, workers):
            self.made.append(workers)
            return fake_scorer

        monkeypatch.setattr(designing.cluster, "opened", contextlib.nullcontext)
        monkeypatch.setattr(designing, "ParallelScorer", make)
        monkeypatch.setattr(pipeline.private_names, "end_workers", self.end)

    def end(self):
        self.ended += 1


def run(folder, output, capsys, *options):
    assert cli.main(["run", "--output", str(output), "--data-path", str(folder), *OPTIONS, *options, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err.splitlines()


@pytest.mark.usefixtures("clean_policy")
def test_two_gpus_score_train_and_export_and_the_cpu_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "images").mkdir()
    folder, output = coloured_digits(tmp_path / "images"), tmp_path / "run"
    asked = []

    def strategy(**options):
        asked.append((options["distribution_strategy"], options["num_gpus"]))
        return two_devices() if options["num_gpus"] else tf.distribute.OneDeviceStrategy("CPU:0")

    monkeypatch.setattr(strategies.distribute_utils, "get_distribution_strategy", strategy)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(latency, "_MOST", latency._LEAST)
    with monkeypatch.context() as machine:
        gpus = FakeGpus(machine, *[Gpu("NVIDIA A100", (8, 0))] * 2)
        scorers = Scorers(machine)
        result, said = run(folder, output, capsys)
    words = "2 GPUs (NVIDIA A100), bfloat16"
    assert f"hardware: {words}; batches of 10, a multiple of 2, for 9" in said
    assert result["hardware"] == words
    assert gpus.grows == [("GPU:0", True), ("GPU:1", True)]
    ((processes, shown),) = ((workers.processes, workers.gpus) for workers in scorers.made)
    assert (processes, shown, scorers.ended) == (2, ("0", "1"), 1)
    scores = [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()]
    assert all(row["measures"] == fake_score(row["topology"]).measures for row in scores)
    assert asked == [("mirrored", 2)]
    params = yaml.safe_load((output / "train/params.yaml").read_text())
    assert params["runtime"]["mixed_precision_dtype"] == "bfloat16"
    assert params["task"]["train_data"]["global_batch_size"] == 10
    assert result["learned"] is True
    served = tf.saved_model.load(result["saved_model"]).signatures["serving_default"]
    assert served(inputs=tf.constant([(folder / "zero/0.png").read_bytes()]))["probs"].shape == (1, 3)

    # A directory holds results of settings, and the hardware is none of them.
    for name in ("result.json", "train/result.json"):
        (output / name).unlink()
    shutil.rmtree(output / "saved_model")
    again, said = run(folder, output, capsys, "--hardware", "cpu")
    assert "hardware: CPU, float32" in said
    assert asked[1:] == [("one_device", 0)]
    assert again["topology"] == result["topology"]
    assert again["accuracy"] == pytest.approx(result["accuracy"], abs=0.05)  # Of the same weights, in float32.
    assert again["saved_model"] == result["saved_model"]

    # Finished, it says nothing more of hardware.
    finished, said = run(folder, output, capsys)
    assert (finished, said) == (again, [])
