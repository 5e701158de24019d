"""The strategy that an experiment's runtime names, or one line that says why this machine cannot have it."""

from __future__ import annotations

import functools

import tensorflow as tf
from official.common import distribute_utils
from official.core import config_definitions as cfg

from asvit_tf.errors import UserError
from asvit_tf.hardware import findings
from asvit_tf.hardware.machine import Machine, examine


def build(runtime: cfg.RuntimeConfig, machine: Machine | None = None) -> tf.distribute.Strategy:
    """The strategy of a runtime.

    Args:
      runtime: Of an experiment.
      machine: As `hardware.machine.examine` found it; None to look.

    Raises:
      UserError: It is that of a TPU, and the TPU cannot be used.
    """
    if runtime.distribution_strategy == "tpu":
        return _tpu(runtime, machine)
    if runtime.distribution_strategy == "mirrored" and runtime.num_gpus > 1:
        return _mirrored(runtime.num_gpus, runtime.all_reduce_alg)
    return distribute_utils.get_distribution_strategy(
        distribution_strategy=runtime.distribution_strategy,
        all_reduce_alg=runtime.all_reduce_alg,
        num_gpus=runtime.num_gpus,
    )


@functools.cache
def _mirrored(num_gpus: int, all_reduce_alg: str | None) -> tf.distribute.Strategy:
    """One for the whole process: each would count the keys of its collectives from the same number, and TensorFlow
    remembers the shape that a key had, which another network does not have."""
    return distribute_utils.get_distribution_strategy(
        distribution_strategy="mirrored", all_reduce_alg=all_reduce_alg, num_gpus=num_gpus
    )


def _tpu(runtime: cfg.RuntimeConfig, machine: Machine | None) -> tf.distribute.Strategy:
    if runtime.tpu is None:
        raise UserError(
            "runtime.distribution_strategy is tpu, and no TPU is named; allowed are --tpu=local on a TPU VM, "
            "and a name or an address"
        )
    where = "local" if runtime.tpu == "" else runtime.tpu
    if where == "local":
        problem = findings.cannot_use_local_tpu(machine or examine())
        if problem is not None:
            raise UserError(f"--tpu=local: {problem}")
    try:
        return distribute_utils.get_distribution_strategy(
            distribution_strategy="tpu", all_reduce_alg=runtime.all_reduce_alg, tpu_address=runtime.tpu
        )
    except tf.errors.UnavailableError:
        raise  # A lost worker: the caller connects again.
    except (tf.errors.OpError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--tpu={where}: TensorFlow cannot start it ({reason}); asvit doctor says more") from error
