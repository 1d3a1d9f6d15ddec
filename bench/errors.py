"""The errors that have an answer: three end a command early, two make a row without a result.

Everything else is a bug, and keeps its traceback.
"""

import importlib.util


class Failure(Exception):
    """Something fell short or failed: one clear line for the user, exit status 1."""

    status = 1


class UsageError(Failure):
    """The user asked for something that does not exist or cannot be: one clear line, exit status 2."""

    status = 2


class Undecided(Failure):
    """Nothing can be concluded here and now: one clear line, exit status 3."""

    status = 3


class Wrong(Exception):
    """A model's output or gradients are not what they must be: no time without a pass."""


class Refused(ValueError):
    """The case asks for something that this device or this stack does not do; nobody has failed."""


def out_of_memory(error: BaseException) -> bool:
    """Whether more memory would have prevented an error; PyTorch and the libraries below it say so in words."""
    words = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def outside_of_the_environment() -> str | None:
    """The line to say where Python lacks what `make` installs; None where it is all there."""
    missing = [name for name in ("click", "rich", "jinja2") if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return (
        f"error: {missing[0]} is not installed for this Python: `make setup` makes the environment, and "
        "`. .venv/bin/activate` (V100, T4 and drivers older than 580: `. .venv-cuda12/bin/activate`) enters it"
    )
