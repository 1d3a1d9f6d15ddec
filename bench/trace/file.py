"""The events of a trace file, one after another: plain or gzipped JSON, never the whole of it in memory at once.

Both of Chrome's forms are read, `{"traceEvents": […], …}` and `[…]`. A file may come from anybody: what is not a trace,
ends too early or grows without end is one line and no traceback.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from bench.errors import UsageError

MOST_CHARACTERS = 2 << 30  # of the text, unpacked
MOST_EVENTS = 8_000_000
MOST_VALUE = 64 << 20  # characters of one event, or of one entry beside the events
CHUNK = 1 << 20

BLANK = " \t\r\n"
Event = dict[str, Any]


def read(path: Path, take: Callable[[Event], None]) -> dict[str, Any]:
    """Hand each event of a trace to `take`; return what stands beside the events.

    Raises:
        UsageError: it is no file, cannot be read, is no trace, ends too early, or is too large.
    """
    if not path.exists():
        raise UsageError(f"{path}: there is no such file")
    if not path.is_file():  # a pipe would be waited for
        raise UsageError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            return _Reader(path, gzip.GzipFile(fileobj=file) if packed else file).trace(take)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}: the gzipped file is damaged or cut off: {error}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error


def _no_constant(_: str) -> None:
    """A number that JSON does not have, NaN or Infinity: nothing is known."""


class _Reader:
    """A window on the text that moves forward; values are parsed where it stands."""

    def __init__(self, path: Path, stream: IO[bytes] | gzip.GzipFile) -> None:
        self.path, self.stream = path, stream
        self.decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
        self.parse = json.JSONDecoder(parse_constant=_no_constant, strict=False).raw_decode
        self.text, self.at, self.characters, self.events, self.is_over = "", 0, 0, 0, False

    def trace(self, take: Callable[[Event], None]) -> dict[str, Any]:
        """Read the whole; `take` gets each event, the rest is returned."""
        beside = self._trace(take)
        while self.at < len(self.text) or self._more():
            if self.text[self.at :].strip(BLANK):
                self._fail("goes on behind the end of its trace: it may be several")
            self.at = len(self.text)
        return beside

    def _trace(self, take: Callable[[Event], None]) -> dict[str, Any]:
        first = self._next()
        if first == "[":
            self._array(take)
            return {}
        if first != "{":
            self._fail("is not a trace: it holds no JSON object")
        beside: dict[str, Any] = {}
        has_events = False
        self.at += 1
        while self._next() != "}":
            key = self._value()
            if not isinstance(key, str) or self._next() != ":":
                self._broken()
            self.at += 1
            if key == "traceEvents" and self._next() == "[":
                has_events = True
                self._array(take)
            else:
                beside[key] = self._value()
            if self._next() == ",":
                self.at += 1
            elif self._next() != "}":
                self._broken()
        self.at += 1
        if not has_events:
            self._fail("is not a trace: it has no list `traceEvents`")
        return beside

    def _array(self, take: Callable[[Event], None]) -> None:
        self.at += 1
        while self._next() != "]":
            event = self._value()
            self.events += 1
            if self.events > MOST_EVENTS:
                self._fail(f"has more than {MOST_EVENTS:,} events: record fewer steps")
            if isinstance(event, dict):
                take(event)
            if self._next() == ",":
                self.at += 1
            elif self._next() != "]":
                self._broken()
        self.at += 1

    def _value(self) -> Any:
        """The JSON value that begins here; more text is read until it is whole."""
        self._next()
        while True:
            try:
                value, end = self.parse(self.text, self.at)
            except json.JSONDecodeError:
                if len(self.text) - self.at > MOST_VALUE:
                    self._fail(f"has a value of more than {MOST_VALUE >> 20} MB, or is broken")
                if not self._more():
                    self._broken()
            except (RecursionError, ValueError) as error:  # nested too deep; a number of too many digits
                self._fail(
                    "is not a trace: it is nested too deep" if isinstance(error, RecursionError) else ""
                )
            else:
                # a number that ends where the text does may go on
                if end < len(self.text) or not self._more():
                    self.at = end
                    return value

    def _next(self) -> str:
        """The next character that is no blank, which is left where it is; the text may not end before it."""
        while True:
            while self.at < len(self.text):
                if (character := self.text[self.at]) not in BLANK:
                    return character
                self.at += 1
            if not self._more():
                self._broken()

    def _more(self) -> bool:
        """Append text, at least as much as is left, so that a long value is not parsed again and again."""
        if self.is_over:
            return False
        left = self.text[self.at :]
        data = self.stream.read(max(CHUNK, len(left)))
        self.is_over = not data
        new = self.decode(data, self.is_over)
        self.text, self.at = left + new, 0
        self.characters += len(new)
        if self.characters > MOST_CHARACTERS:
            self._fail(f"is more than {MOST_CHARACTERS >> 30} GB of text: record fewer steps")
        return True

    def _broken(self) -> NoReturn:
        if self.is_over and not self.text[self.at :].strip(BLANK) and self.events:
            self._fail(f"ends after {self.events:,} events: it was cut off")
        self._fail("")

    def _fail(self, why: str) -> NoReturn:
        where = f" (after {self.events:,} events)" if self.events else ""
        raise UsageError(
            f"{self.path} {why or f'is not a whole trace: its JSON is broken or cut off{where}'}"
        )
