"""Training across changes of tokenization: by the Model Garden's trainer."""

import functools
import itertools
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from official.core import task_factory, train_lib, train_utils
from three_phases import STEPS, accuracy_of, experiment

from asvit_tf.dataloaders import classification as data
from asvit_tf.dataloaders import inputs
from asvit_tf.training import run as train
from asvit_tf.training.trainer import RetokenizingTrainer

GRIDS = {16: (2, 2), 8: (4, 4), 4: (8, 8)}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.prepare(tmp_path_factory.mktemp("digits") / "data")


def one_batch_forever():
    """The same batch at every step, so that a resumed run sees what an unbroken one saw."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((16, 32, 32, 3)).astype(np.float32)
    labels = generator.integers(10, size=16).astype(np.int32)
    return inputs.tuned_where_it_helps(tf.data.Dataset.from_tensors((images, labels)).repeat())


class Run:
    """One run of the Model Garden's controller, with every trace of the stem and every block written down."""

    def __init__(self, params, model_dir, mode):
        tf_keras.utils.set_random_seed(0)
        self.traced = []  # Stride, and the token grid that the traced program computes.
        self.losses = {}
        self.evaluations = []  # Metrics, evaluation by evaluation.
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
        # Counting operations would trace the model once more.
        with mock.patch.object(train_utils, "try_count_flops", return_value=None):
            _, self.metrics = train_lib.run_experiment(
                distribution_strategy=strategy,
                task=task,
                mode=mode,
                params=params,
                model_dir=str(model_dir),
                trainer=self.trainer,
                train_actions=[self.after_block],
                eval_actions=[lambda output: self.evaluations.append({k: float(v) for k, v in output.items()})],
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
        self.traced_in_training = list(self.traced)
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
    assert run.metrics["accuracy"] == pytest.approx(accuracy_of(digits, tf.train.latest_checkpoint(tmp_path)))


def test_both_evaluations_of_a_phase_run_at_their_own_tokens(digits, tmp_path):
    """Evaluations after 6 steps, in the second phase, and after 12, in the last one: programs are counted."""
    params = experiment(digits, task={"retokenization": {"evaluate_phase": True}})
    run = Run(params, tmp_path, "train_and_eval")
    trained = [(16, (2, 2)), (8, (4, 4))]
    evaluated = [(4, (8, 8)), (8, (4, 4))]
    assert run.traced_in_training == [*trained, *evaluated, (4, (8, 8))]
    first, last, *_ = run.evaluations
    assert first["phase_validation_loss"] != pytest.approx(first["validation_loss"], rel=1e-4)
    assert not any(name.startswith("phase_") for name in last)


def test_a_boundary_inside_a_block_splits_it(digits, unbroken, tmp_path):
    """Phases end at steps 4 and 8; blocks of 5, cut again by evaluations after 6 steps."""
    params = experiment(digits, trainer={"steps_per_loop": 5, "summary_interval": 5, "checkpoint_interval": 5})
    run = Run(params, tmp_path, "train_and_eval")
    assert list(run.losses) == [4, 5, 6, 8, 11, 12]
    assert run.traced_in_training == [(16, (2, 2)), (8, (4, 4)), (4, (8, 8)), (4, (8, 8))]  # One is the evaluation.
    # Twelve steps in the same phases as before: the last one ends at the same weights.
    for one, other in zip(run.trainer.model.trainable_variables, unbroken[0].trainer.model.trainable_variables):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_continuous_evaluation_ends_with_the_last_checkpoint(digits, unbroken, tmp_path):
    _, model_dir = unbroken
    copy_checkpoint(model_dir, tmp_path, STEPS)
    params = experiment(digits, trainer={"continuous_eval_timeout": 10_000})
    params.runtime.distribution_strategy = "mirrored"  # Whose step is a variable of several devices.
    assert "accuracy" in train.run(params, str(tmp_path), "continuous_eval")
