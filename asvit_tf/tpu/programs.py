"""The training step that the Model Garden runs for an experiment, as StableHLO for one chip."""

from __future__ import annotations

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory, train_utils

from asvit_tf.design.retokenization import Tokenization
from asvit_tf.modeling import draws
from asvit_tf.precision import mixed_precision
from asvit_tf.tasks import recipes
from asvit_tf.training.learning_rate import eased
from asvit_tf.training.trainer import create_slots


class NotCompilableError(Exception):
    """TensorFlow cannot lower the step for a TPU; the message says why, in one line."""


def training_step(params: cfg.ExperimentConfig, tokenization: Tokenization | None, batch_size: int) -> str:
    """Forward, backward and optimizer on one chip's share of a batch, weights and moments as arguments.

    Args:
      params: An experiment whose task classifies images; any backbone.
      tokenization: Stride and dilation of the stem; None for a backbone without.
      batch_size: Images on the chip.

    Returns:
      The program as StableHLO text.

    Raises:
      NotCompilableError: The step has a shape that is not known before it runs, or an operation that TPUs do not have.
    """
    with mixed_precision(params.runtime.mixed_precision_dtype):
        task = task_factory.get_task(params.task)
        model = task.build_model()
        optimizer = train_utils.create_optimizer(task, params)
        create_slots(optimizer, model.trainable_variables)
        eased(optimizer, recipes.warmup_steps(params))
        if tokenization is not None:
            model.backbone.set_tokenization(tokenization)
        size = params.task.model.input_size
        images = tf.zeros((batch_size, *size), params.task.train_data.dtype)
        soft = params.task.losses.soft_labels
        labels = tf.zeros((batch_size, params.task.model.num_classes) if soft else (batch_size,), tf.float32)
        if not soft:
            labels = tf.cast(labels, tf.int32)

        @tf.function(jit_compile=True, autograph=False)
        def step(images, labels):
            with draws.of_step(params.task.seed or 0, optimizer.iterations):
                return task.train_step((images, labels), model, optimizer)["loss"]

        try:
            return step.experimental_get_compiler_ir(images, labels)(stage="stablehlo")
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, ValueError, TypeError) as error:
            raise NotCompilableError(" ".join(str(error).split())[:500]) from error
