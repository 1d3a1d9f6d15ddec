"""A CSV file that somebody else wrote, line by line: what is no table is told, never read as another. No torch."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

from bench.errors import UsageError
from bench.text import shortened


class Line(NamedTuple):
    """A line below the names of the columns; a value that is missing at its end is empty."""

    number: int  # in the file, of its last line where a value has several
    values: dict[str, str]
    more: int  # values that it has beyond the last column: a comma in a number, say


def read(path: Path) -> tuple[list[str], list[Line]]:
    """The names of the columns, and the lines below them, of a file that may be gzipped and begin with a mark.

    Raises:
        UsageError: it cannot be read, is no CSV, or names a column twice.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            names = [name.strip() for name in next(reader, [])]
            if twice := next((name for name in names if name and names.count(name) > 1), None):
                raise UsageError(f"{path}: column {twice!r} is there twice")
            lines = []
            for values in filter(None, reader):
                more = sum(bool(value.strip()) for value in values[len(names) :])
                values += [""] * (len(names) - len(values))
                lines.append(Line(reader.line_num, dict(zip(names, values, strict=False)), more))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}: the gzipped file is damaged or cut off: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: is no CSV file: {shortened(str(error))}") from None
    return names, lines
