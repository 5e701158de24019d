"""Before TensorFlow is imported: refuse what would abort, and spare a machine without a TPU the search for one."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from asvit_tf.errors import UserError
from asvit_tf.hardware import findings
from asvit_tf.hardware.machine import Machine, examine

# Without these, tensorflow-tpu asks the metadata server of Google's cloud which TPU it has, waits, and aborts.
WITHOUT_CHIP = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_ID": "0",
}


def prepare(machine: Machine | None = None, environ: MutableMapping[str, str] = os.environ) -> None:
    """Makes TensorFlow importable in this process, as far as variables can; to be called before its import.

    Args:
      machine: As `examine` found it; None to look.
      environ: Receives the variables; those that are set stay.

    Raises:
      UserError: The import would fail or abort the process, as with a libtpu of another release.
    """
    machine = machine or examine()
    problem = findings.cannot_import(machine)
    if problem is not None:
        raise UserError(str(problem))
    # A virtual machine of Google's cloud has the server, and may have a chip that is not known here.
    if machine.purpose == "tpu" and not machine.tpu_chips and not machine.google_cloud:
        for name, value in WITHOUT_CHIP.items():
            environ.setdefault(name, value)
