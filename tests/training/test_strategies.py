"""The same training under other strategies and programs: two devices, XLA, bfloat16, and two processes that die."""

import functools
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import digits_experiment, two_devices
from official.core import task_factory, train_utils
from official.modeling import performance

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.dataloaders import classification as data
from asvit_tf.dataloaders import inputs
from asvit_tf.design import savings
from asvit_tf.errors import StoppedError
from asvit_tf.training import run as train
from asvit_tf.training import step_log
from asvit_tf.training.runner import ExperimentRunner
from asvit_tf.training.trainer import RetokenizingTrainer

STEPS, BATCH = 20, 8


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("digits") / "data")


def experiment(digits, **overrides):
    """Twenty steps over two switches."""
    phases = [{"until_step": 6, "stride": 16}, {"until_step": 12, "stride": 8}, {"stride": 4}]
    task = {
        "losses": {"one_hot": True},
        "retokenization": {"phases": phases},
        "train_data": {"global_batch_size": BATCH, "shuffle_buffer_size": 100},
    }
    # Gradients of so few examples have norms of 6 to 22: at 12 some are clipped, at 1 all would be.
    optimizer = {"optimizer": {"adamw": {"global_clipnorm": 12.0}}}
    trainer = {"optimizer_config": {"learning_rate": {"cosine": {"initial_learning_rate": 3e-3}}, **optimizer}}
    return digits_experiment(digits, STEPS, 2, {"task": task, "trainer": trainer}, overrides)


def batches():
    """The same batches for every strategy: four, over and over."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((4, BATCH, 32, 32, 3)).astype(np.float32)
    labels = generator.integers(10, size=(4, BATCH)).astype(np.int32)
    return inputs.tuned_where_it_helps(tf.data.Dataset.from_tensor_slices((images, labels)).repeat())


def losses_and_strides(digits, model_dir, strategy, dtype="float32", xla=False, scaled=False):
    """Loss and stride of every two steps; `scaled` as the Model Garden scales losses for float16.

    By a factor with which nothing overflows: so early, a step that is left out changes all later ones.
    """
    # num_gpus 1 is what the Model Garden asks for before it compiles a step.
    runtime = {"enable_xla": xla, "num_gpus": int(xla)}
    if scaled:
        runtime |= {"mixed_precision_dtype": "float16", "loss_scale": 1024.0}
    params = experiment(digits, runtime=runtime)
    tf_keras.utils.set_random_seed(0)
    performance.set_mixed_precision_policy(dtype)
    with strategy.scope():
        task = task_factory.get_task(params.task, logging_dir=str(model_dir))
        trainer = train_utils.create_trainer(
            params,
            task,
            train=True,
            evaluate=False,
            trainer_cls=functools.partial(
                RetokenizingTrainer, train_dataset=strategy.experimental_distribute_dataset(batches())
            ),
        )
    ExperimentRunner(strategy, task, "train", params, str(model_dir), trainer=trainer).run()
    assert [block.step for block in trainer.blocks] == list(range(2, STEPS + 1, 2))
    return [block.metrics["training_loss"] for block in trainer.blocks], [block.stride for block in trainer.blocks]


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    return losses_and_strides(digits, tmp_path_factory.mktemp("plain"), tf.distribute.OneDeviceStrategy("CPU:0"))


@pytest.mark.usefixtures("clean_policy")
@pytest.mark.parametrize(
    ("strategy", "options", "tolerance"),
    [
        (two_devices, {}, 1e-3),
        (lambda: tf.distribute.OneDeviceStrategy("CPU:0"), {"xla": True}, 1e-3),
        (lambda: tf.distribute.OneDeviceStrategy("CPU:0"), {"dtype": "bfloat16"}, 5e-2),
        # In float32 a power of two loses nothing, so this is about what is done with scaled gradients: clipped before
        # the factor is taken out, each would weigh the same in Adam's averages.
        (lambda: tf.distribute.OneDeviceStrategy("CPU:0"), {"scaled": True}, 1e-5),
        (lambda: tf.distribute.OneDeviceStrategy("CPU:0"), {"dtype": "float16", "scaled": True}, 5e-3),
        (two_devices, {"dtype": "float16", "scaled": True}, 5e-3),
    ],
    ids=["two devices", "XLA", "bfloat16", "scaled losses", "float16", "two devices, float16"],
)
def test_training_over_both_switches_is_that_of_one_device(digits, plain, tmp_path, strategy, options, tolerance):
    expected, strides = plain
    assert list(dict.fromkeys(strides)) == [16, 8, 4]
    assert expected[0] - expected[-1] > 0.2  # It learns, so that an idle device would show.
    actual, same = losses_and_strides(digits, tmp_path, strategy(), **options)
    assert same == strides
    np.testing.assert_allclose(actual, expected, atol=tolerance)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


class Workers:
    """Two processes on this machine that train one experiment together."""

    def __init__(self, arguments, root):
        hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
        self.errors, self.processes = [], []
        for index in range(2):
            cluster = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(cluster), "CUDA_VISIBLE_DEVICES": ""}
            self.errors.append(root / f"worker_{index}_{time.monotonic_ns()}.txt")
            with open(self.errors[-1], "w") as errors:
                command = [sys.executable, "-m", "asvit_tf.cli", "train", *arguments]
                self.processes.append(
                    subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
                )

    def wait(self, seconds=240):
        try:
            return [process.wait(seconds) for process in self.processes]
        finally:
            self.kill()

    def kill(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def said(self):
        return "\n".join(path.read_text()[-3000:] for path in self.errors)


def test_a_killed_worker_and_a_restart_continue_from_the_checkpoint(digits, tmp_path):
    model_dir = tmp_path / "model"
    params = experiment(digits, runtime={"distribution_strategy": "multi_worker_mirrored"})
    params.trainer.override({"train_steps": 200, "steps_per_loop": 10, "checkpoint_interval": 10})
    params.trainer.override({"summary_interval": 10})
    params.trainer.optimizer_config.learning_rate.cosine.decay_steps = 200
    params.task.retokenization.override(
        {
            "phases": [{"until_step": 100, "stride": 16, "dilation": None}, {"stride": 4, "dilation": None}],
            "transition": 0.0,
        }
    )
    (tmp_path / "experiment.yaml").write_text(json.dumps(params.as_dict()))
    arguments = ["--experiment=asvit_digits", "--mode=train", f"--model_dir={model_dir}"]
    arguments.append(f"--config_file={tmp_path / 'experiment.yaml'}")

    workers = Workers(arguments, tmp_path)
    try:
        deadline = time.monotonic() + 240
        while tf.train.latest_checkpoint(model_dir) is None:
            assert time.monotonic() < deadline, workers.said()
            assert all(process.poll() is None for process in workers.processes), workers.said()
            time.sleep(0.1)
        workers.processes[1].send_signal(signal.SIGKILL)
        assert workers.processes[0].wait(120) == 1
    finally:
        workers.kill()
    assert "asvit: a worker was lost" in workers.errors[0].read_text().splitlines()[-1]
    trained = int(re.findall(r"ckpt-(\d+)", tf.train.latest_checkpoint(model_dir))[-1])
    assert 10 <= trained < 200

    workers = Workers(arguments, tmp_path)
    assert workers.wait() == [0, 0], workers.said()
    rows = [json.loads(line) for line in (model_dir / savings.BLOCKS_FILE).read_text().splitlines() if line]
    restarted = next(i for i, (one, other) in enumerate(itertools.pairwise(rows), 1) if other["traced"] and one["step"])
    blocks = step_log.read_blocks(model_dir)
    assert [block["step"] for block in blocks] == list(range(10, 201, 10))
    assert [block["stride"] for block in blocks] == [16] * 10 + [4] * 10
    assert rows[restarted]["step"] == trained + 10  # Nothing was trained again that a checkpoint held.
    assert all(np.isfinite(block["training_loss"]) for block in blocks)
    assert tf.train.latest_checkpoint(model_dir).endswith("ckpt-200")
    assert (model_dir / "retokenization.json").exists()


class Lost(tf.errors.UnavailableError):
    def __init__(self):
        super().__init__(None, None, "socket closed")


@pytest.mark.parametrize("times", [1, 100])
def test_a_lost_device_is_connected_again_while_there_is_progress(digits, tmp_path, monkeypatch, times, capsys):
    """The second block of a run fails: `times` 100 means always, and then a run must not go on forever."""
    begun = []
    train_loop_begin = RetokenizingTrainer.train_loop_begin

    def failing(self):
        begun.append(int(self.global_step))
        step = begun[-1]
        if (times == 1 and step == 8 and begun.count(8) == 1) or (times > 1 and step == 8):
            raise Lost
        train_loop_begin(self)

    monkeypatch.setattr(RetokenizingTrainer, "train_loop_begin", failing)
    params = experiment(digits, task={"retokenization": {"phases": [{"stride": 4}]}})  # Each would be traced again.
    if times == 1:
        train.run(params, str(tmp_path), "train")
        assert begun == [0, 2, 4, 6, 8, 8, 10, 12, 14, 16, 18]
        assert [block["step"] for block in step_log.read_blocks(tmp_path)] == list(range(2, STEPS + 1, 2))
    else:
        with pytest.raises(StoppedError, match=r"a worker was lost \(socket closed\).*continues from .*ckpt-8"):
            train.run(params, str(tmp_path), "train")
        assert begun == [0, 2, 4, 6, 8, 8]
    assert "continuing from the newest checkpoint" in capsys.readouterr().err
