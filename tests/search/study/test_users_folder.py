"""A study that measures and trains for real, of a folder of images."""

import json
import math

import numpy as np
import tensorflow as tf

from asvit_tf import choices, cli
from asvit_tf.journals import Journal
from search.scoring import names as study_names
from search.study import work as study_work
from search.study.settings import StudySettings


def test_a_small_study_of_a_users_folder(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.clip(level + generator.integers(-40, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            (tmp_path / "images" / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    options = ["--image_size", "16", "--width", "16", "--topologies", "2", "--epochs", "1", "--batch_size", "8"]
    options += ["--repeats", "1", "--points", "3", "--score_batch", "2", "--draws", "100", "--json"]
    command = ["study", "--save_dir", str(tmp_path / "out"), "--data_path", str(tmp_path / "images"), *options]
    assert cli.main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["failed"] == []
    assert result["trained"] == 2
    assert set(result["measures"]) >= set(study_names.column_names())
    rows = Journal(tmp_path / "out/topologies.jsonl").rows
    assert all(row["measures"]["length_distortion:released:identity"] > 0 for row in rows)
    assert all(math.isfinite(row["measures"][name]) for row in rows for name in choices.PROXIES)
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    # The same topology, trained again: the row does not depend on what the process did before.
    settings = StudySettings(**json.loads((tmp_path / "out/settings.json").read_text()))
    again = study_work.train_again(settings, str(tmp_path / "out"), rows[0]["topology"], settings.seed)
    assert (again["accuracy"], again["loss"]) == (rows[0]["accuracy"], rows[0]["loss"])
    assert cli.main(command[:-1]) == 0
    assert "2 of 2 topologies trained" in capsys.readouterr().out
