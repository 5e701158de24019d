"""Names of files and directories."""

from __future__ import annotations

import copy
import os
import shlex
import shutil
from pathlib import Path

import click
import tensorflow as tf
from hypothesis import strategies as st
from official.core import exp_factory, input_reader

from asvit_tf import storage
from asvit_tf.cli import data as prepare_command
from asvit_tf.cli.options import PathName
from asvit_tf.dataloaders import experiment_yaml, inputs
from asvit_tf.modeling import checkpoints
from asvit_tf.tasks import experiment_files
from asvit_tf.training import run as training
from fuzzing.lines import check_line

NAMES = st.one_of(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.text(" ,'\"[]*?#%=~-{}:\\!$&;|<>()\n\t\u00e9a1\U0001f431", min_size=1, max_size=12),
    st.sampled_from(
        ["~", "-x", "a" * 255, " a ", "a,b", "[1]", "$HERE", "a=b", "x: y", "con", "\U0001f431" * 60, "\udce9"]
    ),
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) <= 255)


def paths_case(root: Path, name: str, shards: int) -> str:
    """Records, YAML, a flag for the shell and checkpoints below a directory of this name; then it is moved."""
    directory = root / name
    try:
        PathName().convert(str(directory), None, None)
    except click.UsageError as error:
        check_line(error, "UTF-8")
        return "refused"
    shutil.rmtree(root, ignore_errors=True)
    files = [f"train-{i:05d}-of-00002.tfrecord" for i in range(2)] if shards == 2 else ["train.tfrecord"]
    pattern = "train-*-of-00002.tfrecord" if shards == 2 else files[0]
    decoy = root / ("".join("Z" if c in "*?[],\\" else c for c in name) + "Z"[: 255 - len(os.fsencode(name))])
    decoy.mkdir(parents=True, exist_ok=True)
    with storage.whole_directory(directory) as partial:
        for file in files:
            (Path(partial) / file).write_text("")
            (decoy / file).write_text("")
        fields = dict(train_data=dict(input_path=f"{experiment_yaml.HERE}/{pattern}"), init_checkpoint="$HERE/x")
        (Path(partial) / "data.yaml").write_text(experiment_yaml.text(dict(task=fields), "c"))
    storage.write_text(directory / ("n" * 240 + ".json"), "{}")
    expected = [str(directory / file) for file in files]

    params = exp_factory.get_exp_config("asvit_digits")
    experiment_files.override(params, experiment_files.read(f"{directory}/data.yaml"), "data.yaml")
    task = params.task
    assert sorted(input_reader.match_files(task.train_data.input_path)) == expected
    assert task.init_checkpoint == str(directory / "x")
    # As a path that a user types, and as the flag that asvit prepare prints, with and without a shell.
    assert sorted(inputs.record_files("train", str(directory / pattern))) == expected
    printed = prepare_command.override_flag(
        {"train": dict(input_path=prepare_command.pasted(str(directory / pattern)))}
    )
    (word,) = shlex.split(printed)
    for flag in (word, printed):
        given = copy.deepcopy(params)
        given.task.train_data.input_path = ""
        experiment_files.override_by_text(given, flag.removeprefix("--params_override="))
        assert sorted(input_reader.match_files(given.task.train_data.input_path)) == expected
    # Written below the directory, read where it has been moved to.
    training.write_params(params, str(directory / "model"), str(directory))
    assert str(directory) not in (directory / "model/params.yaml").read_text()
    moved = root / "moved"
    directory.rename(moved)
    read = experiment_files.read(str(moved / "model/params.yaml"))["task"]
    assert sorted(input_reader.match_files(read["train_data"]["input_path"])) == [str(moved / file) for file in files]
    moved.rename(directory)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), str(directory / "model"), 2)
    saved = manager.save()
    assert checkpoints.newest(directory / "model") == saved
    assert len(checkpoints.files_of(saved)) == 2
    return "read"
