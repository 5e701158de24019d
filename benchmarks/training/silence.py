"""A training whose files and prints are thrown away."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def thrown_away() -> Iterator[str]:
    """A directory for a training, as long as the `with` block lasts; what is printed and traced inside goes, too."""
    from asvit_tf import traces

    with (
        tempfile.TemporaryDirectory() as scratch,
        traces.forgotten(),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield scratch
