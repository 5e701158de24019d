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
      batch_size: Images of a training step, as asked for.

    Raises:
      UserError: They are fewer than the GPUs. A TPU's cores are counted once it is started.
    """

    def __init__(self, chosen: Chosen, batch_size: int):
        self._chosen = chosen
        self._batch = batch_size
        if chosen.kind == "gpu":
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
        """Has an experiment train and evaluate on the devices; on a CPU it stays as it is.

        The batch becomes the nearest multiple of the replicas. Steps and learning rate stay: both are of the whole
        batch, and a training that was begun on other devices continues.

        Args:
          params: The experiment; changed.
          held_out: Images of its evaluation.

        Raises:
          UserError: There are fewer images in a batch, or held out, than replicas, or the TPU cannot be started.
        """
        if self._chosen.kind == "cpu":
            return
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
        """Sets the batch of an experiment's evaluation, so that every replica has as many batches as the others.

        A replica that has none counts as a loss of 0. On a TPU, whose batches all have one size, up to
        `replicas * batches - 1` images are left out.

        Args:
          params: The experiment; changed.
          images: Images that are evaluated.
        """
        if self.replicas == 1 and self._chosen.kind != "tpu":
            return
        data, is_tpu = params.task.validation_data, self._chosen.kind == "tpu"
        most = _TPU_EVALUATION if is_tpu else data.global_batch_size
        data.global_batch_size = evaluation_batch(images, most, self.replicas, whole=is_tpu)
        data.drop_remainder = is_tpu

    def __str__(self) -> str:
        if self._chosen.kind == "tpu" or self._batch % self.replicas == 0:
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


def evaluation_batch(images: int, most: int, replicas: int, whole: bool) -> int:
    """A multiple of the replicas that divides images evenly.

    Args:
      images: To evaluate.
      most: Images of a batch, about; at least one a replica.
      replicas: Parts of a batch.
      whole: Only whole batches count: of all sizes that leave fewer than a batch out, the one for the fewest batches.

    Raises:
      UserError: Only whole batches count, and there are fewer images than replicas.
    """
    if whole and images < replicas:
        raise UserError(f"{images} held-out images cannot be divided among {replicas} devices; --hardware=cpu can")
    parts = replicas * max(1, -(-images // most))
    return (images // parts if whole else -(-images // parts)) * replicas
