"""The exceptions that end a command with one line instead of a traceback."""


class UserError(ValueError):
    """Bad input. Its message is one line: what was wrong, and what is allowed."""


class OneClassError(UserError):
    """Images of a single class: good input perhaps, but nothing can be learned from them (see `NotLearnedError`)."""


class StoppedError(RuntimeError):
    """Something outside stopped the work: a full disk, a lost worker. Started again, it continues where it was."""


class DivergedError(StoppedError):
    """A training whose loss is not a number, or is back at that of guessing; started again, it would end the same.

    Args:
      what: What happened, and when.
      advice: What to do about it.
    """

    def __init__(self, what: str, advice: str = ""):
        super().__init__(what, advice)  # Both, so that other processes can make it again.
        self.what = what

    def __str__(self) -> str:
        return "; ".join(filter(None, self.args))


class NotLearnedError(RuntimeError):
    """A network that was trained, but is no better than one that knows only the shares of the classes."""


class PausedError(Exception):
    """Ends a training where it is, which is saved, to be continued; raised by who is told of its evaluations."""
