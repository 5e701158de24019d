"""The one exception that a user's own input can cause."""


class UserError(ValueError):
    """Bad input. Its message is one line: what was wrong, and what is allowed."""
