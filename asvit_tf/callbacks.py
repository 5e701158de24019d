"""The re-tokenization schedule applied to a running training: as a Keras callback, and as an orbit action.

Both change the stem's stride and dilation and make the training loop trace again, because a traced program does not see
a changed attribute. Weights and optimizer state are never touched. The phase is always read off the step counter, so a
fresh run, a run resumed from any checkpoint and an evaluation alone all find theirs.
"""

from __future__ import annotations

from typing import Any

import tf_keras

from asvit_tf.backbone import AsViT
from asvit_tf.retokenization import Schedule, Tokenization


class RetokenizationCallback(tf_keras.callbacks.Callback):
    """Changes stride and dilation on schedule during `Model.fit`; evaluation and prediction use the last phase's.

    Steps are the optimizer's iterations. Under `steps_per_execution` a boundary takes effect at the next execution.
    After `fit` the model has the last phase's tokenization, wherever training stopped.

    Args:
      schedule: What to apply.
      backbone: Whose stem to change; the model's `backbone`, or the model itself, when left out.

    Example:
      model.fit(images, labels, epochs=30, callbacks=[RetokenizationCallback(Schedule.preset("thirds", steps, 4))])
    """

    def __init__(self, schedule: Schedule, backbone: AsViT | None = None):
        super().__init__()
        self.schedule = schedule
        self._backbone: Any = backbone
        self._trained: Tokenization | None = None
        self._epoch_start: int | None = None

    @property
    def backbone(self) -> AsViT:
        """The backbone whose stem changes."""
        model: Any = self.model
        return self._backbone if self._backbone is not None else getattr(model, "backbone", model)

    def on_train_begin(self, logs=None):
        # The model may hold programs that were traced before with another tokenization. The one that tests has to go
        # here: an evaluation takes hold of it before it calls any callback.
        self._trained = None
        self.model.make_test_function(force=True)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = None

    def on_train_batch_begin(self, batch, logs=None):
        if self._epoch_start is None:
            # Read once an epoch, because on an accelerator every read waits for the device; and less the batch, because
            # a resumed epoch does not start at its first.
            self._epoch_start = int(self.model.optimizer.iterations.numpy()) - batch
        tokenization = self.schedule.tokenization(self._epoch_start + batch)
        self.backbone.set_tokenization(tokenization)
        if self._trained != tokenization:
            self.model.make_train_function(force=True)
            self._trained = tokenization

    def on_train_end(self, logs=None):
        self.backbone.set_tokenization(self.schedule.final)
        for remake in (self.model.make_test_function, self.model.make_predict_function):
            remake(force=True)

    def on_test_begin(self, logs=None):
        self.backbone.set_tokenization(self.schedule.final)

    def on_predict_begin(self, logs=None):
        self.backbone.set_tokenization(self.schedule.final)


class RetokenizationAction:
    """Changes stride and dilation on schedule under an orbit trainer.

    As a train action, orbit calls it after each block of steps. A block also runs right after a checkpoint is restored,
    and evaluations run between blocks, so a trainer should call it itself before both, as
    `asvit_tf.trainer.RetokenizingTrainer` does.

    Args:
      trainer: An orbit StandardTrainer, and StandardEvaluator if it evaluates, with a `global_step`.
      backbone: Whose stem to change.
      schedule: What to apply.
    """

    def __init__(self, trainer, backbone: AsViT, schedule: Schedule):
        self.schedule = schedule
        self._trainer = trainer
        self._backbone = backbone
        self._trained: Tokenization | None = None
        self._evaluated: Tokenization | None = None

    def __call__(self, output=None) -> bool:
        """Sets the tokenization of the next training step; returns whether its loop will be traced anew."""
        tokenization = self.schedule.tokenization(int(self._trainer.global_step.numpy()))
        self._backbone.set_tokenization(tokenization)
        changed = self._trained != tokenization
        if changed:
            # orbit builds the loop again where it finds none; it has no public way to ask for that.
            self._trainer._train_loop_fn = None
            self._trained = tokenization
        return changed

    def before_evaluation(self, tokenization: Tokenization | None = None) -> None:
        """Sets the tokenization of the next evaluation: the last phase's unless another is given, whatever the step."""
        tokenization = tokenization or self.schedule.final
        self._backbone.set_tokenization(tokenization)
        if self._evaluated != tokenization:
            self._trainer._eval_loop_fn = None
            self._evaluated = tokenization
