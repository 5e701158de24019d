"""An experiment on the devices that were chosen for it: runtime, batches. Its recipe stays as it is for the rest."""

from __future__ import annotations

import functools

import tensorflow as tf
from official.core import config_definitions as cfg

from asvit_tf.errors import UserError
from asvit_tf.hardware.choice import Chosen
from asvit_tf.training import failures, strategies

_TPU_EVALUATION = 1024  # Images of an evaluation's batch on a TPU, at most: the fewer batches, the fewer are left out.


class Runtime:
    """Chosen devices as an experiment names them.

    Args:
      chosen: What was chosen.
      batch_size: Images of a training step, as asked for; None where the recipe decides.

    Raises:
      UserError: They are fewer than the GPUs. A TPU's cores are counted once it is started.
    """

    def __init__(self, chosen: Chosen, batch_size: int | None = None):
        self._chosen = chosen
        self._batch = batch_size
        if chosen.kind == "gpu" and batch_size is not None:
            training_batch(batch_size, self.replicas)

    @functools.cached_property
    def replicas(self) -> int:
        """Parts of a batch: GPUs, or a TPU's cores, for which it is started.

        Raises:
          UserError: The TPU cannot be started.
        """
        if self._chosen.kind != "tpu":
            return max(1, len(self._chosen.gpus))
        named = cfg.RuntimeConfig(distribution_strategy="tpu", tpu=self._chosen.tpu)
        try:
            return strategies.build(named).num_replicas_in_sync
        except tf.errors.UnavailableError as error:
            raise UserError(f"--tpu={self._chosen.tpu} cannot be reached ({failures.reason(error)})") from error

    def apply(self, params: cfg.ExperimentConfig, held_out: int) -> None:
        """Has an experiment train and evaluate on the devices.

        The batch becomes the nearest multiple of the replicas. Steps and learning rate stay: both are of the whole
        batch, and a training that was begun on other devices continues.

        Args:
          params: The experiment; changed.
          held_out: Images of its evaluation.

        Raises:
          UserError: There are fewer images in a batch, or held out, than replicas, or the TPU cannot be started.
        """
        params.runtime.override({**self._chosen.settings, "tpu": self._chosen.tpu})
        if self._chosen.dtype == "float16" and params.trainer.optimizer_config.ema is not None:
            # The trainer does not find the averages behind the optimizer that scales losses, and makes none.
            params.runtime.mixed_precision_dtype = "float32"
        data = params.task.train_data
        data.global_batch_size = training_batch(data.global_batch_size, self.replicas)
        if self._chosen.kind == "tpu":
            for part in (data, params.task.validation_data):
                part.dtype = self._chosen.dtype
        self.evaluate(params, held_out)

    def evaluate(self, params: cfg.ExperimentConfig, images: int) -> None:
        """Sets the batch of an experiment's evaluation; see `even_batch`, and `whole_batch` for a TPU.

        Args:
          params: The experiment; changed.
          images: Images that are evaluated.

        Raises:
          UserError: They are fewer than the cores of a TPU.
        """
        data = params.task.validation_data
        if self._chosen.kind == "tpu":
            data.global_batch_size = whole_batch(images, _TPU_EVALUATION, self.replicas)
            data.drop_remainder = True
        elif self.replicas > 1:
            data.global_batch_size = even_batch(images, data.global_batch_size, self.replicas)

    def __str__(self) -> str:
        if self._chosen.kind == "tpu" or self._batch is None or self._batch % self.replicas == 0:
            return str(self._chosen)
        batch = training_batch(self._batch, self.replicas)
        return f"{self._chosen}; batches of {batch}, a multiple of {self.replicas}, for {self._batch}"


def training_batch(asked: int, replicas: int) -> int:
    """The multiple of the replicas that is nearest to a batch; the larger one of two.

    Raises:
      UserError: The batch has fewer images than there are replicas.
    """
    if asked < replicas:
        raise UserError(
            f"a batch of {asked} images cannot be divided among {replicas} devices; set --batch-size to at least "
            f"{replicas}, or have fewer by CUDA_VISIBLE_DEVICES or --hardware=cpu"
        )
    return (2 * asked + replicas) // (2 * replicas) * replicas


def even_batch(images: int, most: int, replicas: int) -> int:
    """The batch, a multiple of the replicas, for which each of them gets a part as often as the others.

    The last part may be smaller. A replica that gets none while others get their last has a loss of 0 there, and
    `validation_loss` is the mean over all parts.

    Args:
      images: To evaluate.
      most: Images of a batch, at most; where no batch divides them evenly, as many as that.
      replicas: Parts of a batch.
    """
    largest = max(1, most // replicas)
    even = (part for part in range(largest, 0, -1) if -(-images // part) % replicas == 0)
    return next(even, largest) * replicas


def whole_batch(images: int, most: int, replicas: int) -> int:
    """The batch, a multiple of the replicas, where only whole ones count: fewer than `batches * replicas` are left out.

    Args:
      images: To evaluate.
      most: Images of a batch, at most.
      replicas: Parts of a batch.

    Raises:
      UserError: There are fewer images than replicas.
    """
    if images < replicas:
        raise UserError(f"{images} held-out images cannot be divided among {replicas} devices; --hardware=cpu can")
    batches = -(-images // max(most, replicas))
    return images // (batches * replicas) * replicas
