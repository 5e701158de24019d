"""Trainings that learn nothing, through the command: one line and exit status 1."""

import json

import pytest
from helpers import TINY, records

from asvit_tf import cli


def flags(tmp_path, labels):
    """Of one step on these data, without learning anything: the classifier's kernel stays zero."""
    section = {
        "input_path": str(tmp_path / "data.tfrecord"),
        "global_batch_size": 4,
        "dtype": "float32",
        "drop_remainder": False,
    }
    optimizer = {
        "learning_rate": {"type": "cosine", "cosine": {"initial_learning_rate": 0.0, "decay_steps": 1}},
        "warmup": {"type": "linear", "linear": {"warmup_steps": 0}},
    }
    config = {
        "runtime": {"distribution_strategy": "one_device", "num_gpus": 0, "mixed_precision_dtype": "float32"},
        "task": {
            "seed": 0,
            "model": {
                "num_classes": 3,
                "kernel_initializer": "zeros",
                "backbone": {"asvit": {"topology": TINY}},
            },
            "evaluation": {"top_k": 2},
            "train_data": section,
            "validation_data": section,
        },
        "trainer": {
            **dict.fromkeys(
                ("train_steps", "steps_per_loop", "summary_interval", "checkpoint_interval", "validation_interval"), 1
            ),
            "optimizer_config": optimizer,
        },
    }
    records(tmp_path / "data.tfrecord", labels)
    (tmp_path / "experiment.yaml").write_text(json.dumps(config))
    return [
        "--experiment=asvit_digits",
        f"--model_dir={tmp_path / 'model'}",
        f"--config_file={tmp_path / 'experiment.yaml'}",
        "--json",
    ]


def ended(capfd, arguments):
    """Exit status, metrics, and the lines of the command itself."""
    status = cli.main(arguments)
    out, err = capfd.readouterr()
    return status, json.loads(out), [line for line in err.splitlines() if line.startswith("asvit: ")]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [1, 0, 0, 2, 0, 0, 1, 0, 0] * 4,
            "beat the majority class beyond chance: accuracy 0.667, majority class 0.667",
        ),
        ([0] * 5, "all held-out images are of one class, so that they cannot show whether anything was learned"),
    ],
    ids=["constant predictor", "single class"],
)
def test_training_and_evaluation_end_with_status_1(tmp_path, capfd, labels, message):
    arguments = flags(tmp_path, labels)
    status, metrics, lines = ended(capfd, ["train", "--mode=train_and_eval", *arguments])
    assert (status, len(lines)) == (1, 1)
    assert message in lines[0]
    share = labels.count(0) / len(labels)
    assert metrics["accuracy"] == metrics["majority_share"] == pytest.approx(share)
    assert metrics["balanced_accuracy"] == pytest.approx(1 / len(set(labels)))
    assert ended(capfd, ["evaluate", *arguments]) == (1, metrics, lines)
