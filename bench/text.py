"""Text from elsewhere made fit to show: no control character reaches a terminal, a page, a figure or a file."""

from __future__ import annotations

import signal
import unicodedata
from typing import Any

# Controls (a terminal's escapes among them), invisible marks that turn text around, halves of a character, breaks.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # the characters that a spreadsheet's formula begins with


def printable(text: str) -> str:
    """The text in one line, with every character that would act instead of being seen written out as `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def shortened(text: str, most: int = 60) -> str:
    """The text, or of a longer one its beginning."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def bracketed(text: str) -> str:
    """The text in brackets, after a blank; of no text nothing."""
    return f" ({text})" if text else ""


def _shown(character: str) -> str:
    if character in "\n\t":
        return " "
    if unicodedata.category(character) in UNSEEN:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def inert(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, behind an apostrophe; anything else as it is."""
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)  # a number is none
    except ValueError:
        return f"'{value}"
    return value


def ending(status: int | None, printed: bytes) -> str:
    """How a process ended, by its exit status or minus its signal, with the last line that it printed.

    Args:
        status: None where it lives on, and answers no more.
    """
    words = [line.strip() for line in printed.decode(errors="replace").splitlines() if line.strip()]
    how = f"crashed with exit status {status}"
    if status is None:
        how = "closed its line"
    elif status < 0:
        how = f"killed by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            how += " (by someone, or by the kernel for want of memory)"
    return how + (f": {printable(words[-1][:200])}" if words else "")
