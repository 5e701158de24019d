"""The re-tokenization schedule as a Keras callback.

It changes the stem's stride and dilation, and gives each tokenization a training program of its own, because a traced
program does not see a changed attribute. Weights and optimizer state are never touched. The tokenization is always read
off the step counter, so a fresh run and a run resumed from any checkpoint find theirs.
"""

from __future__ import annotations

from typing import Any

import tf_keras

from asvit_tf.design.retokenization import Schedule, Tokenization
from asvit_tf.errors import UserError
from asvit_tf.modeling.backbone import AsViT


class RetokenizationCallback(tf_keras.callbacks.Callback):
    """Changes stride and dilation on schedule during `Model.fit`; evaluation and prediction use the last phase's.

    Steps are the optimizer's iterations. Under `steps_per_execution` a boundary takes effect at the next execution.
    After `fit` the model has the last phase's tokenization, wherever training stopped.

    Args:
      schedule: The schedule to apply.
      backbone: The backbone whose stem changes. When left out: the model itself, its attribute `backbone`, or the one
        `AsViT` anywhere inside (Sequential, functional and subclassed models, layers that hold layers).

    Raises:
      UserError: The model has no `AsViT`, or several, and `backbone` is left out.

    Example:
      model.fit(images, labels, epochs=30, callbacks=[RetokenizationCallback(Schedule.preset("thirds", steps, 4))])
    """

    def __init__(self, schedule: Schedule, backbone: AsViT | None = None):
        super().__init__()
        self.schedule = schedule
        self._given = backbone
        self._backbone = backbone
        self._programs: dict[Tokenization, Any] = {}
        self._epoch_start: int | None = None

    def set_model(self, model):
        super().set_model(model)
        self._backbone = self._given or _only_backbone(model)

    @property
    def backbone(self) -> AsViT:
        """The backbone whose stem changes; known once the callback has its model."""
        assert self._backbone is not None
        return self._backbone

    def on_train_begin(self, logs=None):
        # The model may hold programs that were traced before with another tokenization. The one that tests has to go
        # here: an evaluation takes hold of it before it calls any callback.
        self._programs.clear()
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
        if tokenization not in self._programs:
            self._programs[tokenization] = self.model.make_train_function(force=True)
        self.model.train_function = self._programs[tokenization]

    def on_train_end(self, logs=None):
        self.backbone.set_tokenization(self.schedule.final)
        model = self.model
        for remake in (model.make_train_function, model.make_test_function, model.make_predict_function):
            remake(force=True)

    def on_test_begin(self, logs=None):
        self.backbone.set_tokenization(self.schedule.final)

    def on_predict_begin(self, logs=None):
        self.backbone.set_tokenization(self.schedule.final)


def _only_backbone(model: tf_keras.Model) -> AsViT:
    """The one backbone of a model."""
    if not isinstance(model, tf_keras.Model):
        raise UserError(
            f"RetokenizationCallback is for models of tf_keras, and {model.name!r} is one of Keras 3, which tf.keras "
            "makes; set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported, or build it with tf_keras"
        )
    named = getattr(model, "backbone", None)
    found = [named] if isinstance(named, AsViT) else _backbones(model)
    if len(found) != 1:
        raise UserError(
            f"RetokenizationCallback: model {model.name!r} has {len(found)} AsViT layers; "
            "name the one to change by the argument backbone"
        )
    return found[0]


def _backbones(model: tf_keras.Model) -> list[AsViT]:
    """Every backbone that the model or anything inside it holds: as attribute, or in a list or dictionary."""
    return [module for module in (model, *model.submodules) if isinstance(module, AsViT)]
