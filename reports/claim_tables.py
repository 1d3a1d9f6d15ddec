"""Claims as a reader sees them: the table of their verdicts, one in words, and how many there are of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reports.claims import Finding
from reports.columns import INTERVAL, VERDICT, WORDS, Column, Form
from reports.sentences import MUCH, SIMILAR
from reports.tables import Table, made_of
from reports.text import enumerated, interval
from reports.verdicts import Status


def _value(finding: Finding) -> float | None:
    return finding.effect.value if finding.effect else None


def _interval(finding: Finding) -> str | None:
    """The interval of what was measured; a number that is exact has none."""
    exact = finding.claim.by != "measured"
    return None if exact or finding.effect is None else interval(finding.effect)


def _sentence(finding: Finding) -> str:
    claim = finding.claim
    return f"“{claim.quote}”{f' {claim.says}' if claim.says else ''}"


NAME: Column[Finding] = Column("claim", "claim", lambda finding: finding.claim.name)
SENTENCE: Column[Finding] = Column("sentence", "the paper's words", _sentence, WORDS)
WORKING: Column[Finding] = Column("working", "arithmetic", lambda finding: finding.working)
PLACE: Column[Finding] = Column("place", "place", lambda finding: finding.claim.place)
BY: Column[Finding] = Column("by", "decided by", lambda finding: finding.claim.by)
FOUND: Column[Finding] = Column("verdict", "verdict", lambda finding: finding.verdict, VERDICT)
VALUE: Column[Finding] = Column("value", "value", _value, Form(lambda value: f"{value:.4g}"))
ENDS: Column[Finding] = Column("interval", "interval", _interval, INTERVAL)
ASKS: Column[Finding] = Column("asks", "asked for", lambda finding: finding.claim.asks.words)
REASON: Column[Finding] = Column("reason", "why", lambda finding: finding.verdict.reason)
LONG = (NAME, SENTENCE, WORKING)
SHORT = (NAME, FOUND, VALUE, ASKS, ENDS)
CSV = (*SHORT, BY, PLACE, REASON, SENTENCE, WORKING)


def table(findings: Sequence[Finding], machine: str | None) -> Table:
    """The claims with their verdicts.

    Args:
        machine: what pairs were measured on; None without rows.
    """
    return made_of(
        (NAME, FOUND, SENTENCE, VALUE, ASKS, ENDS, BY, PLACE, WORKING),
        findings,
        "claims",
        "The paper's sentences",
        "Printed: by arithmetic on the paper's own numbers. Counted: by our MACs and parameters. Measured: by the "
        f"speed of the first beside the second's, taken in turns{f' on {machine}' if machine else ''}; the whole "
        "interval has to lie where the sentence asks, or outside, and is so wide that all verdicts by measurement hold "
        f"together at 95 % (Holm). Where a sentence gives no number, “much” is {MUCH.low:g} times at least, and "
        f"“similar” within a factor of {SIMILAR.high:g}: bounds of ours.",
        notes=[in_words(finding) for finding in findings if finding.verdict.status is Status.REFUTED],
        narrow=[LONG, (NAME, BY, PLACE, ENDS), (NAME, FOUND, VALUE, ASKS)],
    )


def in_words(finding: Finding) -> str:
    """A claim with its verdict and what it comes from, in a line."""
    value, claim = _value(finding), finding.claim
    said = f"{claim.name}, {claim.place}: {finding.verdict.word}. {_sentence(finding)}"
    if value is not None:
        said += f" {value:.4g} is {'the speed of ' if claim.by == 'measured' else ''}{finding.working}"
        said += f"; asked for is {claim.asks.words}."
    return f"{said} {finding.verdict.reason}".strip()


def summary(findings: Sequence[Finding]) -> str:
    """A sentence on the number of claims of each verdict."""
    counts = Counter(finding.verdict.status for finding in findings)
    said = enumerated([f"{counts[status]} {status.word}" for status in Status if counts[status]])
    return f"{len(findings)} claims: {said}."
