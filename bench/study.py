"""A study: one question and the cases that answer it. A user's own is read from a TOML file. No torch.

    name = "resolutions"
    question = "How does speed per MAC grow with resolution?"
    cases = ["restv2_tiny@{size}:b{batch}", "swin_tiny@224:b{batch}"]
    pairs = [["restv2_tiny@{size}:b1", "restv2_tiny[upsample=nearest]@{size}:b1"]]

    [lists]  # crossed: every {name} of a text takes each of its list's values
    size = [224, 384]
    batch = [1, 8]

Where there are pairs, `cases` may be left out. Besides: `harness` (default throughput), `convention` of counting MACs
(default core), and `counted`, cases that are counted and not timed.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from bench.cases import Case, check, parse, unknown
from bench.conventions import CONVENTIONS
from bench.errors import Failure, UsageError
from bench.jobs import HARNESSES
from bench.text import shortened

Cases = Callable[[str, bool], tuple[str, ...]]
Pairs = Callable[[str, bool], tuple[tuple[str, str], ...]]
Group = tuple[str, ...]  # the text of a case, or the two of a pair

MAX_CASES = 10_000
LONGEST_NAME = 100  # of a study: files' names have the shard's and more behind it
NAME = re.compile(r"[a-z0-9_-]+")  # a study's, and so its results file's
COMMANDS = ("measure", "compare", "branches")  # commands whose rows are in files of these names
_HOLE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Study:
    """One question and the cases that answer it.

    `cases(kind, quick)` gives the texts for a kind of device, "cpu" or "cuda"; a CPU gets a smaller list where the full
    one would take hours. Parameters and MACs are counted for every case that is timed.
    """

    name: str
    question: str
    cases: Cases
    harness: str = "throughput"  # a key of HARNESSES
    pairs: Pairs = lambda kind, quick: ()  # compared interleaved: how many times as long the first takes
    counted: Cases = lambda kind, quick: ()  # besides, where they are too slow to be timed
    convention: str = "core"  # MACs are counted so, in rows for which the paper prints none
    definition: str | None = None  # the TOML file's text, of a user's own study

    @property
    def is_timed(self) -> bool:
        """Whether the study asks for seconds: its cases are then counted too, and may be compared."""
        return HARNESSES[self.harness].is_timed

    def parsed(self, kind: str, quick: bool) -> tuple[Case, ...]:
        """The cases for a kind of device; each text is parsed once, however often it is asked for."""
        return _parsed(self.cases, kind, quick)

    def to_count(self, kind: str, quick: bool) -> tuple[Case, ...]:
        """The cases whose parameters and MACs are counted: those of the study, then those counted besides."""
        return tuple(dict.fromkeys((*self.parsed(kind, quick), *_parsed(self.counted, kind, quick))))

    def compared(self, kind: str, quick: bool) -> tuple[tuple[Case, Case], ...]:
        """The pairs of cases to be compared."""
        return _parsed_pairs(self.pairs, kind, quick)


@cache
def _parsed(texts: Cases, kind: str, quick: bool) -> tuple[Case, ...]:
    return tuple(_case(text) for text in texts(kind, quick))


@cache
def _parsed_pairs(pairs: Pairs, kind: str, quick: bool) -> tuple[tuple[Case, Case], ...]:
    return tuple((_case(first), _case(second)) for first, second in pairs(kind, quick))


@cache
def _case(text: str) -> Case:
    return parse(text)


def always(*texts: str) -> Cases:
    """The same cases on every device, quick or not."""
    return lambda kind, quick: texts


# ---- a user's own study


def read(path: Path, taken: Iterable[str]) -> Study:
    """A user's study, from a TOML file.

    Args:
        taken: the names of other studies, which this one must not have.

    Raises:
        UsageError: one line that names the file and, where one is to blame, the key.
    """
    try:
        if not path.is_file() and not path.is_dir():
            path.stat()
            raise UsageError(f"{path}: is a pipe or a device, and no file")
        definition = path.read_text(encoding="utf-8-sig")
        table = tomllib.loads(definition)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or a number of thousands of digits
        raise UsageError(f"{path}: not TOML: {error}") from None
    for key in table:
        if key not in KEYS:
            raise unknown("key", key, KEYS, f"in {path}")
    for key in ("name", "question", *(() if "pairs" in table else ("cases",))):
        if key not in table:
            raise UsageError(f"{path}: key {key!r} is missing")
    values: dict[str, Any] = {}
    for key, value in table.items():
        with _blamed_on(path, key):
            values[key] = KEYS[key](value)
    with _blamed_on(path, "name"):
        _check_name(values["name"], taken)
    harness = HARNESSES[values.get("harness", "throughput")]
    for key in ("pairs", "counted"):
        if key in values and not harness.is_timed:
            raise UsageError(f"{path}: key {key!r}: a study of {values['harness']} times nothing")

    lists = values.pop("lists", {})
    written = {key: values[key] for key in ("cases", "counted", "pairs") if key in values}
    with _blamed_on(path, "lists"):
        _check_used(lists, [text for groups in written.values() for group in groups for text in group])
    for key, groups in written.items():
        with _blamed_on(path, key):
            rules = HARNESSES["compare"].rules if key == "pairs" else harness.rules
            written[key] = _distinct(_crossed(groups, lists), rules)
    values["cases"] = always()
    for key in written.keys() - {"pairs"}:
        values[key] = always(*(text for (text,) in written[key]))
    if "pairs" in written:
        pairs = tuple((first, second) for first, second in written["pairs"])
        values["pairs"] = lambda kind, quick: pairs
    return Study(**values, definition=definition)


def keep(study: Study, folder: Path) -> None:
    """Put a user's study beside its rows, so that the reports can show it without the user's file.

    An older definition is replaced, in one step.

    Raises:
        Failure: the folder cannot be written to.
    """
    if study.definition is None:
        return
    path = folder / f"{study.name}.toml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != study.definition:
            # a file of its own: several shards may begin at once
            file, new = tempfile.mkstemp(prefix=f".{path.name}-", dir=folder)
            with os.fdopen(file, "w", encoding="utf-8") as writing:
                writing.write(study.definition)
            os.chmod(new, 0o644)
            os.replace(new, path)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None


@contextmanager
def _blamed_on(path: Path, key: str) -> Iterator[None]:
    """Puts file and key before the line of an error."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path}: key {key!r}: {error}") from None


def _check_name(name: str, taken: Iterable[str]) -> None:
    """Look whether a name can be a file's, and is nobody else's.

    Raises:
        UsageError: it cannot, or it is.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise UsageError(
            f"{shortened(name)!r} is no name for a file: lower-case letters, digits, - and _ make one, "
            f"{LONGEST_NAME} at most"
        )
    if name in taken:
        raise UsageError(f"{name!r} is a built-in study's")
    if name in COMMANDS:
        raise UsageError(f"{name!r} is the name under which `python -m bench {name}` keeps its rows")


def _check_used(lists: Mapping[str, Sequence[str]], texts: Iterable[str]) -> None:
    """Look whether every list is used.

    Raises:
        UsageError: no text takes a value of one.
    """
    used = {name for text in texts for name in _HOLE.findall(text)}
    for name in lists:
        if name not in used:
            raise UsageError(f"nothing uses the list {name!r}: no text has {{{name}}}")


def _crossed(groups: Sequence[Group], lists: Mapping[str, Sequence[str]]) -> list[Group]:
    """Each group of texts with its holes filled in, once for each combination of the lists that the group names.

    Raises:
        UsageError: a hole without a list, or more than MAX_CASES groups.
    """
    names: list[list[str]] = []
    for group in groups:
        holes = [(name, text) for text in group for name in _HOLE.findall(text)]
        for name, text in holes:
            if name not in lists:
                where = f"for {{{name}}} in {text!r}"
                if not lists:
                    raise UsageError(f"unknown list {name!r} {where}; there is no table [lists]")
                raise unknown("list", name, lists, where)
        names.append(list(dict.fromkeys(name for name, _ in holes)))
    count = sum(math.prod(len(lists[name]) for name in used) for used in names)
    if count > MAX_CASES:
        raise UsageError(f"{count:,} of them; a study has {MAX_CASES:,} at most")
    return [
        tuple(_filled(text, dict(zip(used, chosen, strict=True))) for text in group)
        for group, used in zip(groups, names, strict=True)
        for chosen in product(*(lists[name] for name in used))
    ]


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _HOLE.sub(lambda hole: values[hole[1]], text)


def _distinct(groups: Sequence[Group], purposes: Sequence[str]) -> list[Group]:
    """The groups without those whose cases came before, each case held to the rules of its purposes.

    Raises:
        UsageError: a text is no case, or no case for such a study; the line is the case's own.
    """
    distinct: dict[tuple[Case, ...], Group] = {}
    for group in groups:
        parsed = tuple(map(_case, group))
        if len(parsed) > len(set(parsed)):
            raise UsageError(f"{group[0]!r} and {group[1]!r} are one case: a pair is of two")
        for case, text in zip(parsed, group, strict=True):
            for purpose in purposes:
                check(case, purpose, text)
        distinct.setdefault(parsed, group)
    return list(distinct.values())


# ---- a reader for each key: the value as it is needed, or UsageError


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"expected text, found {value!r}")
    return value


def _groups(size: int) -> Callable[[Any], list[Group]]:
    """A reader of a list whose elements are a case's text, or a list of two."""
    what = "cases as text" if size == 1 else "pairs of cases, each a list of two texts"

    def read_groups(value: Any) -> list[Group]:
        if not isinstance(value, list):
            raise UsageError(f"expected a list of {what}, found {value!r}")
        if not value:
            raise UsageError(f"expected a list of {what}, found an empty one")
        groups = [[element] if size == 1 else element for element in value]
        for group, element in zip(groups, value, strict=True):
            if (
                not isinstance(group, list)
                or len(group) != size
                or not all(isinstance(text, str) for text in group)
            ):
                raise UsageError(f"expected a list of {what}, found {element!r} in it")
        return [tuple(group) for group in groups]

    return read_groups


def _lists(value: Any) -> dict[str, list[str]]:
    if not isinstance(value, dict):
        raise UsageError(f"expected a table of lists, found {value!r}")
    for name, values in value.items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"expected {name!r} to be a list of texts or whole numbers, found {values!r}")
        for element in values:
            if isinstance(element, bool) or not isinstance(element, str | int):
                raise UsageError(f"expected texts or whole numbers in {name!r}, found {element!r}")
    return {name: [str(element) for element in values] for name, values in value.items()}


def _one_of(kind: str, known: Iterable[str]) -> Callable[[Any], str]:
    names = tuple(known)

    def read_name(value: Any) -> str:
        if _text(value) not in names:
            raise unknown(kind, value, names)
        return str(value)

    return read_name


KEYS: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "question": _text,
    "cases": _groups(1),
    "harness": _one_of("harness", (name for name, harness in HARNESSES.items() if harness.in_studies)),
    "convention": _one_of("convention", CONVENTIONS),
    "pairs": _groups(2),
    "counted": _groups(1),
    "lists": _lists,
}
