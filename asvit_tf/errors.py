"""The exceptions that end a command with one line instead of a traceback."""


class UserError(ValueError):
    """Bad input. Its message is one line: what was wrong, and what is allowed."""


class StoppedError(RuntimeError):
    """Something outside stopped the work: a full disk, a lost worker. Started again, it continues where it was."""


class DivergedError(StoppedError):
    """A training whose loss is no number; started again, it would end the same."""
