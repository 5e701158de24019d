"""The training step that the Model Garden runs for an experiment, as StableHLO for one chip."""

from __future__ import annotations

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import task_factory, train_utils
from official.modeling import optimization

from asvit_tf.design.retokenization import Tokenization
from asvit_tf.modeling import draws
from asvit_tf.precision import mixed_precision
from asvit_tf.tasks import recipes
from asvit_tf.tpu import batches
from asvit_tf.training.learning_rate import eased
from asvit_tf.training.trainer import create_slots


class NotCompilableError(Exception):
    """TensorFlow cannot lower the step for a TPU; the message says why, in one line."""


def training_step(params: cfg.ExperimentConfig, tokenization: Tokenization | None, batch_size: int) -> str:
    """Forward, backward and optimizer on one chip's share of a batch, weights and moments as arguments.

    With a detector or a segmenter: also everything between its outputs and its losses, such as non-maximum suppression
    and the sampling of proposals, and the metrics that a training keeps.

    Args:
      params: An experiment whose task is of one of `batches.KINDS`; any backbone.
      tokenization: Stride and dilation of the stem; None for those of the experiment, or a backbone without.
      batch_size: Images on the chip.

    Returns:
      The program as StableHLO text.

    Raises:
      NotCompilableError: The step has a shape that is not known before it runs, or an operation that TPUs do not have.
    """
    with mixed_precision(params.runtime.mixed_precision_dtype):
        task = task_factory.get_task(params.task)
        spec = batches.spec(task, batch_size)
        unknown = [leaf.shape for leaf in tf.nest.flatten(spec) if not leaf.shape.is_fully_defined()]
        if unknown:
            raise NotCompilableError(
                f"a batch has a tensor of shape {unknown[0]}, which is known only where the data are read; a TPU needs "
                f"task.train_data.drop_remainder, and it is {params.task.train_data.drop_remainder}"
            )
        model = task.build_model()
        optimizer = train_utils.create_optimizer(task, params)
        if isinstance(optimizer, optimization.ExponentialMovingAverage):
            optimizer.shadow_copy(model)  # As the Model Garden's trainer does.
        create_slots(optimizer, model.trainable_variables)
        eased(optimizer, recipes.warmup_steps(params))
        # Those of a classifier are sums over a number for each image.
        metrics = None if batches.classifies(params.task) else task.build_metrics(training=True)
        if tokenization is not None:
            model.backbone.set_tokenization(tokenization)
        seed = getattr(params.task, "seed", None) or 0  # The Model Garden's own tasks have none.

        @tf.function(jit_compile=True, autograph=False)
        def step(images, labels):
            with draws.of_step(seed, optimizer.iterations):
                return task.train_step((images, labels), model, optimizer, metrics)["loss"]

        batch = tf.nest.map_structure(lambda leaf: tf.zeros(leaf.shape, leaf.dtype), spec)
        try:
            return step.experimental_get_compiler_ir(*batch)(stage="stablehlo")
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, ValueError, TypeError) as error:
            raise NotCompilableError(" ".join(str(error).split())[:500]) from error
