"""Training across changes of tokenization: by the Model Garden's trainer."""

import functools
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from helpers import TINY
from official.core import exp_factory, task_factory, train_lib, train_utils
from tensorboard.backend.event_processing import event_accumulator

from asvit_tf import (
    UserError,
    registry_imports,  # noqa: F401
)
from asvit_tf.dataloaders import classification as data
from asvit_tf.design import savings
from asvit_tf.serving import export, modules
from asvit_tf.tasks import schedules
from asvit_tf.training import block_log
from asvit_tf.training import run as train
from asvit_tf.training.trainer import RetokenizingTrainer

STEPS, BLOCK = 12, 2
PHASES = ((4, 16, 5), (8, 8, 2), (None, 4, 1))
GRIDS = {16: (2, 2), 8: (4, 4), 4: (8, 8)}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("digits") / "data")


def experiment(digits, **overrides):
    params = exp_factory.get_exp_config("asvit_digits")
    params.override(
        {
            "runtime": {"distribution_strategy": "one_device", "num_gpus": 0, "mixed_precision_dtype": "float32"},
            "task": {
                "seed": 0,
                "model": {"backbone": {"asvit": {"topology": TINY}}},
                "retokenization": {
                    "phases": [
                        dict(until_step=end, stride=stride, dilation=dilation) for end, stride, dilation in PHASES
                    ]
                },
                "train_data": {"input_path": digits.train_path, "global_batch_size": 16, "dtype": "float32"},
                "validation_data": {
                    "input_path": digits.validation_path,
                    "global_batch_size": 180,
                    "dtype": "float32",
                    "drop_remainder": False,
                },
            },
            "trainer": {
                "train_steps": STEPS,
                "steps_per_loop": BLOCK,
                "summary_interval": BLOCK,
                "checkpoint_interval": BLOCK,
                "max_to_keep": STEPS,
                "validation_steps": 1,
                "validation_interval": 6,
                "optimizer_config": {
                    "learning_rate": {"cosine": {"decay_steps": STEPS}},
                    "warmup": {"linear": {"warmup_steps": 2}},
                },
            },
        },
        is_strict=True,
    )
    params.override(overrides, is_strict=True)
    return params


def one_batch_forever():
    """The same batch at every step, so that a resumed run sees what an unbroken one saw."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((16, 32, 32, 3)).astype(np.float32)
    labels = generator.integers(10, size=16).astype(np.int32)
    return tf.data.Dataset.from_tensors((images, labels)).repeat()


class Run:
    """One run of the Model Garden's controller, with every trace of the stem and every block written down."""

    def __init__(self, params, model_dir, mode):
        tf_keras.utils.set_random_seed(0)
        self.traced = []  # Stride, and the token grid that the traced program computes.
        self.losses = {}
        self.states = []  # Variables after each block, and when the next program was traced.
        strategy = tf.distribute.OneDeviceStrategy("CPU:0")
        with strategy.scope():
            task = task_factory.get_task(params.task, logging_dir=str(model_dir))
            self.trainer = train_utils.create_trainer(
                params,
                task,
                train="train" in mode,
                evaluate="eval" in mode,
                trainer_cls=functools.partial(RetokenizingTrainer, train_dataset=one_batch_forever()),
            )
        self.kernel = self.trainer.model.backbone.stem.kernel
        self.spy(self.trainer.model.backbone.stem)
        _, self.metrics = train_lib.run_experiment(
            distribution_strategy=strategy,
            task=task,
            mode=mode,
            params=params,
            model_dir=str(model_dir),
            trainer=self.trainer,
            train_actions=[self.after_block],
            run_post_eval="eval" in mode,
        )

    def state(self):
        variables = [*self.trainer.model.variables, *self.trainer.optimizer.variables()]
        return [variable.numpy() for variable in variables]

    def spy(self, stem):
        call = stem.call

        def traced_call(images):
            tokens = call(images)
            assert images.shape[1:3] == (32, 32)
            self.traced.append((stem.stride, tuple(tokens.shape[1:3])))
            with tf.init_scope():
                if self.states:
                    self.states.append(("traced", self.state()))
            return tokens

        stem.call = traced_call

    def after_block(self, output):
        self.traced_in_training = list(self.traced)  # Later the Model Garden traces the model to count its FLOPs.
        self.losses |= {block.step: block.metrics["training_loss"] for block in self.trainer.blocks}
        self.trainer.blocks.clear()
        self.states.append(("trained", self.state()))


@pytest.fixture(scope="module")
def unbroken(digits, tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("unbroken")
    return Run(experiment(digits), model_dir, "train"), model_dir


def test_each_phase_is_traced_once_with_its_own_token_grid(unbroken):
    run, _ = unbroken
    assert run.traced_in_training == [(stride, GRIDS[stride]) for stride in (16, 8, 4)]
    assert run.trainer.model.backbone.stem.kernel is run.kernel


def test_a_switch_changes_no_weight_and_no_moment(unbroken):
    run, _ = unbroken
    switches = [i for i, (event, _) in enumerate(run.states) if event == "traced"][:2]
    assert len(switches) == 2
    for index in switches:
        for before, after in zip(run.states[index - 1][1], run.states[index][1]):
            np.testing.assert_array_equal(before, after)
    moments = sum("/m" in v.name or "/v" in v.name for v in run.trainer.optimizer.variables())
    assert moments == 2 * len(run.trainer.model.trainable_variables)


def test_weights_move_in_every_phase(unbroken):
    trained = [state for event, state in unbroken[0].states if event == "trained"]
    assert all(not np.array_equal(one[0], other[0]) for one, other in itertools.pairwise(trained))


def copy_checkpoint(source, target, step):
    """Makes `target` look like a run that was killed after `step`."""
    for file in source.glob(f"ckpt-{step}.*"):
        (target / file.name).write_bytes(file.read_bytes())
    (target / "checkpoint").write_text(f'model_checkpoint_path: "ckpt-{step}"\n')


@pytest.mark.parametrize("step", [2, 6, 10])
def test_resuming_inside_any_phase_gives_the_same_losses(digits, unbroken, tmp_path, step):
    complete, model_dir = unbroken
    copy_checkpoint(model_dir, tmp_path, step)
    resumed = Run(experiment(digits), tmp_path, "train")
    remaining = [end for end in complete.losses if end > step]
    assert list(resumed.losses) == remaining
    np.testing.assert_allclose(
        [resumed.losses[e] for e in remaining], [complete.losses[e] for e in remaining], rtol=1e-6
    )
    strides = list(dict.fromkeys(s for s, e in zip((16, 16, 8, 8, 4, 4), complete.losses) if e > step))
    assert resumed.traced_in_training == [(stride, GRIDS[stride]) for stride in strides]


def test_evaluation_alone_sees_all_tokens_whatever_the_step(digits, unbroken, tmp_path):
    _, model_dir = unbroken
    copy_checkpoint(model_dir, tmp_path, step=2)
    run = Run(experiment(digits), tmp_path, "eval")
    assert set(run.traced) == {(4, (8, 8))}
    assert 0 <= run.metrics["accuracy"] <= 1


def test_train_run_logs_blocks_by_phase(digits, tmp_path, capsys):
    params = experiment(digits, task={"retokenization": {"evaluate_phase": True}})
    metrics = train.run(params, str(tmp_path), "train_and_eval")
    assert 0 <= metrics["accuracy"] <= 1
    assert "phase_accuracy" not in metrics  # The last evaluation is in the last phase.
    blocks = block_log.read_blocks(tmp_path)
    assert [block["step"] for block in blocks] == list(range(BLOCK, STEPS + 1, BLOCK))
    assert [block["stride"] for block in blocks] == [16, 16, 8, 8, 4, 4]
    assert [block["traced"] for block in blocks] == [True, False] * 3
    times = savings.phase_times(blocks)
    assert [(phase.stride, phase.dilation, phase.steps) for phase in times] == [(16, 5, 4), (8, 2, 4), (4, 1, 4)]
    assert all(phase.trace_seconds > phase.warm_seconds > 0 for phase in times)
    assert [step for step, _ in train.read_evaluations(tmp_path)] == [6, 12]

    assert "re-tokenization saves" in capsys.readouterr().err
    summary = json.loads((tmp_path / "retokenization.json").read_text())
    assert [phase["token_grid"] for phase in summary["planned"]] == [[2, 2], [4, 4], [8, 8]]
    assert [phase["steps"] for phase in summary["measured"]] == [4, 4, 4]
    assert summary["measured_saving"] == pytest.approx(savings.measured_saving(times))
    assert scalars(tmp_path / "validation", "phase_accuracy").keys() == {6}  # At 4 x 4 tokens, beside 8 x 8.
    assert scalars(tmp_path / "validation", "phase_balanced_accuracy").keys() == {6}
    assert metrics["majority_share"] == pytest.approx(0.1, abs=0.03)
    assert {metrics["learned"], *scalars(tmp_path / "validation", "learned").values()} <= {0, 1}
    # Of the ten digits, more or less: each block is compared with guessing on its own 32 images.
    guesses = [block["guessing_loss"] for block in blocks]
    assert guesses == pytest.approx([np.log(10)] * len(blocks), abs=0.3)
    assert len(set(guesses)) > 1
    assert scalars(tmp_path / "retokenization", "retokenization/stride") == dict(
        zip(range(BLOCK, STEPS + 1, BLOCK), [16, 16, 8, 8, 4, 4])
    )


def scalars(directory, tag):
    """Values of a TensorBoard scalar by step."""
    events = event_accumulator.EventAccumulator(str(directory))
    events.Reload()
    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}


def test_a_boundary_inside_a_block_splits_it(digits, unbroken, tmp_path):
    """Phases end at steps 4 and 8; blocks of 5, cut again by evaluations after 6 steps."""
    params = experiment(digits, trainer={"steps_per_loop": 5, "summary_interval": 5, "checkpoint_interval": 5})
    run = Run(params, tmp_path, "train_and_eval")
    assert list(run.losses) == [4, 5, 6, 8, 11, 12]
    assert run.traced_in_training == [(16, (2, 2)), (8, (4, 4)), (4, (8, 8)), (4, (8, 8))]  # One is the evaluation.
    # Twelve steps in the same phases as before: the last one ends at the same weights.
    for one, other in zip(run.trainer.model.trainable_variables, unbroken[0].trainer.model.trainable_variables):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_params_that_training_wrote_are_read_back(digits, tmp_path):
    names = ["1e3", "3", "null", "yes", "caf\u00e9", *"abcde"]
    params = experiment(digits, task={"class_names": names})
    train_utils.serialize_config(params, str(tmp_path))
    read = export.read_params(str(tmp_path))
    assert read.task.class_names == names
    assert schedules.schedule_of(read) == schedules.schedule_of(params)
    assert modules.class_names(read) == names


def test_evaluating_nothing_is_refused(digits, tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        train.run(experiment(digits), str(tmp_path), "eval")


def test_blocks_trained_twice_count_once(tmp_path):
    rows = [{"step": 2, "steps": 2, "n": 0}, {"step": 4, "steps": 2, "n": 1}, {"step": 4, "steps": 2, "n": 2}]
    lines = [json.dumps(rows[0]), json.dumps(rows[1]), '{"step": 6, "st', json.dumps(rows[2]), '{"step"']
    (tmp_path / savings.BLOCKS_FILE).write_text("\n".join(lines))
    assert [row["n"] for row in block_log.read_blocks(tmp_path)] == [0, 2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"task": {"model": {"backbone": {"asvit": {"stride": 8}}}}}, "must be equal"),
        (
            {"task": {"retokenization": {"phases": [{"until_step": 8, "stride": 8}, {"until_step": 4}, {}]}}},
            "must rise",
        ),
        ({"task": {"retokenization": {"phases": [{"until_step": 4, "stride": 2}, {}]}}}, "stride is 2"),
        ({"task": {"retokenization": {"phases": [], "preset": "halves"}}}, "unknown schedule"),
    ],
)
def test_schedules_that_do_not_fit_are_refused_before_training(digits, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train.run(experiment(digits, **override), str(tmp_path), "train")
    assert not list(tmp_path.iterdir())


def test_dilation_left_out_is_auto(digits):
    phases = [{"until_step": 4, "stride": 16}, {"until_step": 8, "stride": 8}, {}]
    schedule = schedules.schedule_of(experiment(digits, task={"retokenization": {"phases": phases}}))
    assert [phase.tokenization.dilation for phase in schedule.phases] == [5, 2, 1]


def test_the_best_checkpoint_is_that_of_all_tokens(digits, tmp_path):
    """Also where evaluations at the phase's own tokens come out better."""
    best = {"best_checkpoint_export_subdir": "best", "best_checkpoint_eval_metric": "accuracy"}
    params = experiment(digits, task={"retokenization": {"evaluate_phase": True}}, trainer=best)
    metrics = train.run(params, str(tmp_path), "train_and_eval")
    at_all_tokens = scalars(tmp_path / "validation", "accuracy")
    info = json.loads((tmp_path / "best/info.json").read_text())
    assert info["accuracy"] == pytest.approx(max(at_all_tokens.values()))
    assert metrics["best_accuracy"] == pytest.approx(max(at_all_tokens.values()))
    assert not [name for name in info if name.startswith("phase_")]


def test_averaged_weights_are_evaluated_and_exported(digits, tmp_path):
    params = experiment(digits, trainer={"optimizer_config": {"ema": {"average_decay": 0.5}}})
    train.run(params, str(tmp_path / "train"), "train_and_eval")
    averaged = checkpoint_values(tmp_path / "train/ema_checkpoints")
    last = checkpoint_values(tmp_path / "train")
    assert not np.allclose(averaged, last)
    read = export.read_params(str(tmp_path / "train"))
    for given, expected in ((None, averaged), (str(tmp_path / "train"), last)):
        target = str(tmp_path / "saved_model")
        export.export(read, str(tmp_path / "train"), target, checkpoint=given)
        kernels = [v for v in tf.saved_model.load(target).model.variables if "stem/kernel" in v.name]
        np.testing.assert_array_equal(kernels[0], expected)
    for file in (tmp_path / "train/ema_checkpoints").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="run asvit evaluate first"):
        export.export(read, str(tmp_path / "train"), str(tmp_path / "other"))


def checkpoint_values(directory):
    """The stem's kernel in the newest checkpoint."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(directory)))
    (key,) = (
        key for key in reader.get_variable_to_shape_map() if key.endswith("stem/kernel/.ATTRIBUTES/VARIABLE_VALUE")
    )
    return reader.get_tensor(key)


def test_a_directory_that_only_tensorflow_can_write(digits, tmp_path):
    """As in the cloud: no pathlib."""
    metrics = train.run(experiment(digits), "ram://a/run", "train_and_eval")
    assert "validation_loss" in metrics
    with tf.io.gfile.GFile("ram://a/run/retokenization.json") as file:
        assert json.load(file)["measured_saving"] is not None
    exported = export.export(export.read_params("ram://a/run"), "ram://a/run", str(tmp_path / "saved_model"))
    assert tf.io.gfile.exists(f"{exported}/saved_model.pb")


def test_continuous_evaluation_ends_with_the_last_checkpoint(digits, unbroken, tmp_path):
    _, model_dir = unbroken
    copy_checkpoint(model_dir, tmp_path, STEPS)
    params = experiment(digits, trainer={"continuous_eval_timeout": 10_000})
    params.runtime.distribution_strategy = "mirrored"  # Whose step is a variable of several devices.
    assert "accuracy" in train.run(params, str(tmp_path), "continuous_eval")


def test_metrics_of_a_cut_block_are_those_of_all_its_steps(digits, tmp_path):
    """Blocks of 6 are cut at the boundaries, 4 and 8; each summary is the mean over 6 steps."""
    params = experiment(digits, trainer={"steps_per_loop": 6, "summary_interval": 6, "validation_interval": 12})
    train.run(params, str(tmp_path), "train")
    blocks = {block["step"]: block for block in block_log.read_blocks(tmp_path)}
    assert list(blocks) == [4, 6, 8, 12]
    losses = scalars(tmp_path / "train", "training_loss")
    for step, (first, second) in {6: (4, 6), 12: (8, 12)}.items():
        parts = [(blocks[part]["training_loss"], blocks[part]["steps"]) for part in (first, second)]
        assert losses[step] == pytest.approx(sum(loss * steps for loss, steps in parts) / 6, rel=1e-5)
