"""The trainer, for the gin file of an unmodified Model Garden; see `asvit_tf.training.trainer`."""

from asvit_tf.training.trainer import RetokenizingTrainer

__all__ = ["RetokenizingTrainer"]
