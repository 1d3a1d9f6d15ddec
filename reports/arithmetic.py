"""Arithmetic over the paper's numbers and our counts, which can be done and can be shown: `319 / 755`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bench.cases import parsed
from reports import printed
from reports.results import Results
from reports.text import hundredths

COUNTED = "counted"  # the source of a number that is not printed


class Known(NamedTuple):
    """A number, and how it is written."""

    value: float
    text: str


class Term(Protocol):
    """A number, or what is computed of several.

    Both raise LookupError, with a line that says which number is missing.
    """

    def known(self, results: Results | None) -> Known:
        """The value, and the arithmetic that gives it."""

    @property
    def sources(self) -> frozenset[str]:
        """The sources of its numbers: tables of the paper, COUNTED."""


@dataclass(frozen=True)
class Number:
    """One number: what a table prints of a case, or what was counted of it.

    `source` is COUNTED, or a table by the paper's name of it: Table 1. `metric` is one of the table's (throughput, ms,
    macs, parameters, top1, …); of a count it is `parameters`, a convention, or one of its operators: `fvcore.matmul`.
    """

    source: str
    metric: str
    case: str

    @property
    def sources(self) -> frozenset[str]:
        """The source of the number."""
        return frozenset([self.source])

    def known(self, results: Results | None) -> Known:
        """The number as it is printed, or as it was counted in millions of parameters and in G of MACs.

        Raises:
            LookupError: it is printed nowhere, or was not counted.
        """
        return self._counted(results) if self.source == COUNTED else self._printed()

    def _printed(self) -> Known:
        for row in printed.rows(self.source.lower().replace(" ", "")):
            if row.case == self.case and self.metric in row.numbers:
                text = row.numbers[self.metric].text
                return Known(float(text), text)
        raise LookupError(f"{self.source} prints no {self.metric} of {self.case}")

    def _counted(self, results: Results | None) -> Known:
        counts = results.counted(parsed(self.case)) if results else None
        if counts is None or not counts.ok:
            raise LookupError(f"{self.case} is not counted")
        convention, _, operator = self.metric.partition(".")
        if convention == "parameters":
            return Known(counts.parameters / 1e6, f"{hundredths(counts.parameters / 1e6)} M")
        if convention not in counts.macs:
            raise LookupError(f"{self.case} is not counted as `{convention}`")
        macs = counts.by_operator(convention).get(operator, 0) if operator else counts.macs[convention]
        return Known(macs / 1e9, f"{hundredths(macs / 1e9)} G")


@dataclass(frozen=True)
class Computed:
    """A value that follows from how the models are made, by a closed form."""

    form: Callable[[], float]
    text: str

    @property
    def sources(self) -> frozenset[str]:
        """The source of every closed form: COUNTED."""
        return frozenset([COUNTED])

    def known(self, results: Results | None) -> Known:
        """The value, and what it is of."""
        return Known(self.form(), self.text)


class Rule(NamedTuple):
    """A way to put values together, and how that is written: `joins` between terms, `frame` around them."""

    value: Callable[[Sequence[float]], float]
    joins: str
    frame: str = "{}"


RULES: Mapping[str, Rule] = {
    "ratio": Rule(lambda values: values[0] / values[1], " / "),
    "gain": Rule(lambda values: 100 * (values[0] / values[1] - 1), " / ", "100 × ({} − 1)"),
    "difference": Rule(lambda values: values[0] - values[1], " − "),
    "share": Rule(lambda values: 100 * values[0] / math.fsum(values[1:]), " / ", "100 × {}"),
    "mean": Rule(statistics.fmean, ", ", "the mean of {}"),
    "least": Rule(min, ", ", "the least of {}"),
    "farthest": Rule(
        lambda values: max(values, key=lambda value: abs(math.log(value))), ", ", "the farthest from 1 of {}"
    ),
    "most": Rule(max, ", ", "the most of {}"),
}


@dataclass(frozen=True)
class Operation:
    """Terms put together by one of RULES."""

    rule: str
    terms: tuple[Term, ...]

    @property
    def sources(self) -> frozenset[str]:
        """The sources of its numbers."""
        return frozenset().union(*(term.sources for term in self.terms))

    def known(self, results: Results | None) -> Known:
        """The value, and the arithmetic that gives it.

        Raises:
            LookupError: one of its numbers is missing.
        """
        rule, known = RULES[self.rule], [term.known(results) for term in self.terms]
        lists = ", " in rule.joins
        texts = [
            f"({number.text})" if isinstance(term, Operation) and not lists else number.text
            for term, number in zip(self.terms, known, strict=True)
        ]
        if self.rule == "share" and len(texts) > 2:
            texts = [texts[0], f"({' + '.join(texts[1:])})"]
        return Known(
            rule.value([number.value for number in known]), rule.frame.format(rule.joins.join(texts))
        )


def ratio(first: Term, second: Term) -> Operation:
    """The first as a multiple of the second."""
    return Operation("ratio", (first, second))


def gain(first: Term, second: Term) -> Operation:
    """Per cent by which the first is more than the second."""
    return Operation("gain", (first, second))


def difference(first: Term, second: Term) -> Operation:
    """The first less the second."""
    return Operation("difference", (first, second))


def share(part: Term, *whole: Term) -> Operation:
    """The part in per cent of the sum of the whole's terms."""
    return Operation("share", (part, *whole))


def mean(*terms: Term) -> Operation:
    """The arithmetic mean."""
    return Operation("mean", terms)


def least(*terms: Term) -> Operation:
    """The smallest: what holds for it holds for all, where a claim asks for more than something."""
    return Operation("least", terms)


def farthest(*terms: Term) -> Operation:
    """The ratio that is farthest from 1, up or down: what is near enough for it is so for all."""
    return Operation("farthest", terms)


def most(*terms: Term) -> Operation:
    """The largest: what holds for it holds for all, where a claim asks for less than something."""
    return Operation("most", terms)
