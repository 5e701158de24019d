"""`log.txt`: what TensorFlow and the Model Garden print and log during a training, kept off the screen."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator

import tensorflow as tf

LOG_FILE = "log.txt"
LOGGER = logging.getLogger("asvit_tf")
_LOGGERS = ("absl", "tensorflow", LOGGER.name)
_SECONDS = 5.0  # Between two writes: in cloud storage each one costs a request.


class LogFile(logging.Handler):
    """A logging handler and a text stream that appends to a file, wherever TensorFlow can write.

    It keeps its text until `open` names a directory. A failure to write drops the text and raises nothing: checkpoints
    meet the same failure, and they explain it.
    """

    def __init__(self):
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.addFilter(_is_not_printed_too)
        self._text: list[str] = []
        self._path: str | None = None
        self._written_at = -_SECONDS

    def open(self, model_dir: str) -> None:
        """Appends to `model_dir/log.txt` from now on, what was kept first; makes the directory."""
        with self._locked(), contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.makedirs(model_dir)
            self._path = os.path.join(model_dir, LOG_FILE)

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.format(record) + "\n")

    def write(self, text: str) -> None:
        with self._locked():
            self._text.append(text)
            if time.monotonic() - self._written_at > _SECONDS:
                self.flush()

    def flush(self) -> None:
        with self._locked():
            if self._path is None or not self._text:
                return
            text = "".join(self._text)
            self._text.clear()
            self._written_at = time.monotonic()
            with contextlib.suppress(tf.errors.OpError), tf.io.gfile.GFile(self._path, "a") as file:
                file.write(text)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


def _is_not_printed_too(record: logging.LogRecord) -> bool:
    """Orbit's controller logs what it prints."""
    return not (record.levelno <= logging.INFO and record.pathname.endswith(os.path.join("orbit", "controller.py")))


@contextlib.contextmanager
def captured() -> Iterator[LogFile]:
    """Inside it, standard output and the logs of absl, TensorFlow and this package go to the yielded file only."""
    log = LogFile()
    with contextlib.ExitStack() as stack:
        stack.callback(log.flush)
        for name in _LOGGERS:
            stack.enter_context(_handled_by(log, logging.getLogger(name)))
        stack.enter_context(contextlib.redirect_stdout(log))  # type: ignore[type-var]
        yield log


@contextlib.contextmanager
def _handled_by(handler: logging.Handler, logger: logging.Logger) -> Iterator[None]:
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[2]
        logger.setLevel(before[1])
