"""The Model Garden's trainer, with the re-tokenization schedule applied and every block of steps timed."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import gin
import numpy as np
import tensorflow as tf
import tf_keras
from official.core import base_trainer

from asvit_tf import private_names
from asvit_tf.dataloaders import order
from asvit_tf.design.retokenization import Tokenization
from asvit_tf.modeling.backbone import AsViT
from asvit_tf.modeling.draws import derived_seed, of_step
from asvit_tf.tasks import class_metrics, recipes, schedules
from asvit_tf.training.learning_rate import eased


@dataclasses.dataclass(frozen=True)
class StepBlock:
    """One block of training steps: `steps_per_loop`, or fewer where the tokenization changes inside.

    Attributes:
      step: Steps trained when it ended.
      steps: Steps in it.
      phase: Index of the phase whose tokenization it has.
      stride, dilation: Its tokenization.
      traced: Whether it began with tracing the training step; its seconds then include that.
      seconds: Wall time.
      metrics: Metrics of these steps.
    """

    step: int
    steps: int
    phase: int
    stride: int
    dilation: int
    traced: bool
    seconds: float
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class RunningBlock:
    """The block that runs now.

    Attributes:
      step: Steps trained when it began.
      steps: Steps it will have.
      phase: Index of its phase.
      stride: Stride of its tokenization.
      traces: Whether it begins with tracing the training step.
      since: When it began, of `time.perf_counter`.
    """

    step: int
    steps: int
    phase: int
    stride: int
    traces: bool
    since: float


def create_slots(optimizer: Any, variables: Sequence[tf.Variable]) -> None:
    """Creates the optimizer's moments now. Created inside the first training step, they would have it traced twice."""
    if isinstance(optimizer, tf_keras.optimizers.Optimizer):
        optimizer.build(variables)
    else:
        private_names.create_weights(optimizer, variables)


@gin.configurable
class RetokenizingTrainer(base_trainer.Trainer):
    """Sets the tokenization before each block of training steps, and the final one before each evaluation.

    A traced program does not see a changed attribute, so each tokenization has a training loop and an evaluation loop
    of its own, traced at its first use. It needs no train action, so it also works where the caller passes none, as the
    unmodified `official.vision.train` does: import `asvit_tf.registry_imports` and `asvit_tf.trainer` in a gin file and
    bind `create_trainer.trainer_cls = @RetokenizingTrainer`.

    What is drawn is a function of (`config.task.seed`, step). Stochastic depth draws by the step itself, the order of
    records by the epoch. Of all else, augmentation above all, nobody can restore a state; so `begin_draws_anew` gives
    it a seed of the step, when training begins or continues and, where operations are deterministic, at every
    checkpoint: a resumed training begins at one.

    Args: as `base_trainer.Trainer`; `config.task.retokenization` is the schedule, if the task has one. Training data
      that are passed are read on and on, without a place to begin anew.

    Attributes:
      tries: How often the training was set back so far; the data have another order after each.
      blocks: Those that ended, until somebody takes them.
      latest: Those of the last call of `train`.
      running: The one that runs now, if one does.
      evaluating: Whether an evaluation runs now.
    """

    def __init__(self, config, task, model, optimizer, train=True, train_dataset=None, **kwargs):
        # Data of its own are built when the step is known from which they are read. `None` would have them built here.
        own_data = train and train_dataset is None
        nothing_yet = tf.data.Dataset.range(0) if own_data else train_dataset
        super().__init__(config, task, model, optimizer, train=train, train_dataset=nothing_yet, **kwargs)
        # A service of tf.data deals out records to whoever asks; it knows no place to begin.
        self._served = own_data and bool(config.task.train_data.enable_tf_data_service)
        self._own_data = self._draws_are_due = own_data
        self._is_seeded = config.task.seed is not None
        self._seed = config.task.seed if self._is_seeded else random.randrange(2**31)
        self.tries = 0
        for metric in self.train_metrics if train else ():
            if isinstance(metric, class_metrics.GuessingLoss):
                self.checkpoint.all_labels = metric.all_labels  # What else an unbroken training knows.
        create_slots(optimizer, model.trainable_variables)
        self.schedule = schedules.schedule_of(config)
        self.learning_rate = eased(optimizer, recipes.warmup_steps(config))
        self.blocks: list[StepBlock] = []
        self.latest: list[StepBlock] = []
        self.running: RunningBlock | None = None
        self.evaluating = False
        self._num_steps = 0
        self._evaluated_at = self._tokenization = self.schedule.final
        self._traced: set[Tokenization] = set()

    def create_train_loop_fn(self):
        """A loop that runs the program of the present tokenization."""
        return self._loop_per_tokenization(super().create_train_loop_fn)

    def create_eval_loop_fn(self, has_state):
        """The same for evaluation."""
        create = super().create_eval_loop_fn
        return self._loop_per_tokenization(lambda: create(has_state))

    def _loop_per_tokenization(self, create: Callable[[], Callable]) -> Callable:
        loops: dict[Tokenization, Callable] = {}

        def loop(*args, **kwargs):
            if self._tokenization not in loops:
                loops[self._tokenization] = create()
            return loops[self._tokenization](*args, **kwargs)

        return loop

    def _set_tokenization(self, tokenization: Tokenization) -> None:
        """Of the next program; another backbone than As-ViT, as detection may have, has one only."""
        self._tokenization = tokenization
        if isinstance(self.model.backbone, AsViT):
            self.model.backbone.set_tokenization(tokenization)

    def train(self, num_steps):
        """Trains `num_steps` steps, in parts where the tokenization changes: one traced loop cannot change inside."""
        if self._draws_are_due:
            self._begin_draws()
        self.latest = []
        start = int(self.global_step.numpy())
        end = start + int(num_steps)
        logs, weights = [], []
        for cut in (*self.schedule.changes(start, end), end):
            self._num_steps = cut - int(self.global_step.numpy())
            weights.append(self._num_steps)
            logs.append(super().train(tf.constant(self._num_steps, tf.int32)))
        # Means over all the steps; the learning rate, which is no mean, is the last.
        return {
            name: last if name == "learning_rate" else np.average([float(log[name]) for log in logs], weights=weights)
            for name, last in logs[-1].items()
        }

    def checkpoint_saved(self):
        """Begins the draws anew, so that a training that is resumed here repeats; or does nothing.

        Where operations are not deterministic nothing repeats to the bit, and building the pipeline takes seconds. The
        order of records and stochastic depth need no new beginning.
        """
        if private_names.operations_are_deterministic():
            self.begin_draws_anew()

    def begin_draws_anew(self):
        """Has the next training step draw, and read its data, as a training that begins at this step does."""
        self._draws_are_due = self._own_data and not self._served

    def _begin_draws(self):
        step, data = int(self.global_step.numpy()), self.config.task.train_data
        draws_seed = derived_seed(self._seed, self.tries, step)
        order_seed = self._seed if data.seed is None else data.seed
        agreed = self._is_seeded or data.seed is not None
        position = order.Position(
            derived_seed(order_seed, self.tries), step * data.global_batch_size, draws_seed, agreed
        )
        self.train_dataset = self.distribute_dataset(
            order.continued(self.task.build_inputs, position),
            data.replace(seed=draws_seed) if agreed else data,
        )
        # Programs take their operations' seeds from it when they are traced, at whatever step. It also sets back the
        # counters of those traced before.
        tf.random.set_seed(self._seed)
        self._draws_are_due = False

    def train_step(self, iterator):
        """One step, with its draws by (seed, step)."""
        with of_step(self._seed, self.global_step):
            super().train_step(iterator)

    def train_loop_begin(self):
        since = time.perf_counter()
        step = int(self.global_step.numpy())
        phase = self.schedule.phase_index(step)
        tokenization = self.schedule.phases[phase].tokenization
        self._set_tokenization(tokenization)
        self.running = RunningBlock(
            step, self._num_steps, phase, tokenization.stride, tokenization not in self._traced, since
        )
        super().train_loop_begin()

    def train_loop_end(self):
        logs = super().train_loop_end()  # Reads the metrics, so the device has finished.
        step = int(self.global_step.numpy())
        tokenization = self._tokenization
        self._traced.add(tokenization)
        running, self.running = self.running, None
        assert running is not None  # `train_loop_begin` made it.
        block = StepBlock(
            step=step,
            steps=step - running.step,
            phase=running.phase,
            stride=tokenization.stride,
            dilation=tokenization.dilation,
            traced=running.traces,
            seconds=time.perf_counter() - running.since,
            metrics={name: float(value) for name, value in logs.items()},
        )
        self.blocks.append(block)
        self.latest.append(block)
        return logs

    def evaluate(self, num_steps):
        """Evaluates at all tokens; and, if the schedule asks for it, at the present phase's."""
        self.evaluating = True
        try:
            return self._evaluate(num_steps)
        finally:
            self.evaluating = False

    def _evaluate(self, num_steps):
        metrics = super().evaluate(num_steps)
        phase = self.schedule.tokenization(int(self.global_step.numpy()))
        if phase != self.schedule.final and self.config.task.retokenization.evaluate_phase:
            # What is best is decided at all tokens.
            self._evaluated_at, self._checkpoint_exporter, exporter = phase, None, self._checkpoint_exporter
            try:
                metrics |= {f"phase_{name}": value for name, value in super().evaluate(num_steps).items()}
            finally:
                self._evaluated_at, self._checkpoint_exporter = self.schedule.final, exporter
        return metrics

    def eval_begin(self):
        self._set_tokenization(self._evaluated_at)
        super().eval_begin()
