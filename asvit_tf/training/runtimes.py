"""An experiment on the devices that were chosen for it: runtime, batches. Its recipe stays as it is for the rest."""

from __future__ import annotations

import functools

import tensorflow as tf
from official.core import config_definitions as cfg
from official.vision.configs import image_classification

from asvit_tf.errors import UserError
from asvit_tf.hardware.choice import Chosen
from asvit_tf.training import failures, strategies

# Images of a classifier's evaluation in a batch on a TPU, at most: the fewer batches, the fewer are left out.
_TPU_EVALUATION = 1024
_LEAST_SHARE = 2  # Images of a training step for each replica.


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

    def name_devices(self, params: cfg.ExperimentConfig) -> None:
        """Has an experiment name the devices and what they compute in; nothing is started."""
        params.runtime.override({**self._chosen.settings, "tpu": self._chosen.tpu})
        chosen = self._chosen
        if chosen.asked_dtype is None and chosen.dtype == "float16" and params.trainer.optimizer_config.ema is not None:
            params.runtime.mixed_precision_dtype = "float32"  # See `checks.check`.

    def batch(self, usual: int) -> int:
        """Images of a training step that suit the devices: where none were asked for, two at least for each of them.

        Args:
          usual: What would be chosen for one device; where a batch was asked for, that, or all images if it has more.
        """
        if self.replicas == 1:
            return usual
        if self._batch is not None:
            return max(usual, self.replicas)
        return training_batch(max(usual, _LEAST_SHARE * self.replicas), self.replicas)

    def check_batch(self) -> None:
        """Refuses, before anything takes long, a batch that was asked for and is smaller than the number of devices.

        Raises:
          UserError: It is, or the TPU cannot be started.
        """
        if self._batch is not None:
            training_batch(self._batch, self.replicas)

    def check_images(self, images: int) -> None:
        """Refuses fewer images of an evaluation than GPUs, before anything takes long.

        Raises:
          UserError: There are fewer.
        """
        if self._chosen.kind == "gpu":
            whole_batch(images, images, self.replicas)

    def apply(self, params: cfg.ExperimentConfig, held_out: int) -> None:
        """Has an experiment train and evaluate on the devices.

        The batch becomes the nearest multiple of the replicas, where none was asked for one image for each at least.
        Steps and learning rate stay: both are of the whole batch, and a training that was begun on other devices
        continues. Replicas share the statistics of batch normalization, which detectors and segmenters have: they are
        of the whole batch, as on one device.

        Args:
          params: The experiment; changed.
          held_out: Images of its evaluation.

        Raises:
          UserError: There are fewer images in the batch that was asked for, or held out, than replicas; or the TPU
            cannot be started.
        """
        self.name_devices(params)
        data = params.task.train_data
        least = self.replicas if self._batch is None else 1
        data.global_batch_size = training_batch(max(data.global_batch_size, least), self.replicas)
        if self.replicas > 1 and not _classifies(params):  # Whose networks have no such normalization.
            params.task.model.norm_activation.use_sync_bn = True
        if self._chosen.kind == "tpu":
            for part in (data, params.task.validation_data):
                part.dtype = self._chosen.dtype
        self.evaluate(params, held_out)

    def evaluate(self, params: cfg.ExperimentConfig, images: int) -> None:
        """Sets the batch of an experiment's evaluation.

        Every replica gets images as often as the others: one that gets none ends the evaluation with an error. Where no
        batch does that, and on a TPU, whose batches all have one size, some images are left out (`whole_batch`).

        Args:
          params: The experiment; changed.
          images: Images that are evaluated.

        Raises:
          UserError: They are fewer than the replicas.
        """
        data, is_tpu = params.task.validation_data, self._chosen.kind == "tpu"
        if self.replicas == 1 and not is_tpu:
            return
        # Other tasks have large images and more of an answer to each: the batch of their recipe.
        most = _TPU_EVALUATION if is_tpu and _classifies(params) else data.global_batch_size
        even = None if is_tpu else even_batch(images, most, self.replicas)
        data.global_batch_size = even or whole_batch(images, most, self.replicas)
        data.drop_remainder = even is None

    def __str__(self) -> str:
        if self._chosen.kind == "tpu" or self._batch is None or self._batch % self.replicas == 0:
            return str(self._chosen)
        batch = training_batch(self._batch, self.replicas)
        return f"{self._chosen}; batches of {batch}, a multiple of {self.replicas}, for {self._batch}"


def _classifies(params: cfg.ExperimentConfig) -> bool:
    return isinstance(params.task, image_classification.ImageClassificationTask)


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


def even_batch(images: int, most: int, replicas: int) -> int | None:
    """The batch, a multiple of the replicas, for which each of them gets a part as often as the others.

    The last part may be smaller.

    Args:
      images: To evaluate.
      most: Images of a batch, at most; if need be, twice as many.
      replicas: Parts of a batch.

    Returns:
      The largest that is not over `most`, else the smallest over it; None where there is none.
    """
    largest = max(1, most // replicas)
    sizes = (*range(largest, 0, -1), *range(largest + 1, 2 * largest + 1))
    return next((size * replicas for size in sizes if -(-images // size) % replicas == 0), None)


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
    return max(replicas, images // (batches * replicas) * replicas)
