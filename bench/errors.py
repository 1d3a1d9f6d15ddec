"""The errors that have an answer: two end a command early, two make a row without a result.

Everything else is a bug, and keeps its traceback.
"""


class Failure(Exception):
    """Something fell short or failed: one clear line for the user, exit status 1."""

    status = 1


class UsageError(Failure):
    """The user asked for something that does not exist or cannot be: one clear line, exit status 2."""

    status = 2


class Wrong(Exception):
    """A model's output or gradients are not what they must be: no time without a pass."""


class Refused(ValueError):
    """The case asks for something that this device or this stack does not do; nobody has failed."""
