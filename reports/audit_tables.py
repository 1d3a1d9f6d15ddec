"""The audit as a reader sees it: the table of its findings, worst first, and how many there are of each verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reports.audit import OF_SOURCES, Finding
from reports.columns import TIMES, VERDICT, WORDS, Column
from reports.tables import Table, made_of
from reports.text import enumerated
from reports.verdicts import Status

ORDER = (Status.IMPOSSIBLE, Status.AT_THE_LIMIT, Status.UNDECIDED, Status.PLAUSIBLE)

SUBJECT: Column[Finding] = Column("subject", "printed speed", lambda finding: finding.subject)
KIND: Column[Finding] = Column("kind", "of", lambda finding: finding.kind)
FOUND: Column[Finding] = Column("verdict", "verdict", lambda finding: finding.verdict, VERDICT)
TFLOPS: Column[Finding] = Column("tflops", "TFLOP/s", lambda finding: finding.tflops, TIMES)
OF_PEAK: Column[Finding] = Column("of_peak", "of peak", lambda finding: finding.of_peak, TIMES)
OF_FLOOR: Column[Finding] = Column("of_floor", "of best rates", lambda finding: finding.of_floor, TIMES)
SENTENCE: Column[Finding] = Column("sentence", "arithmetic", lambda finding: finding.sentence, WORDS)
REASON: Column[Finding] = Column("reason", "why", lambda finding: finding.verdict.reason, WORDS)
SHORT = (SUBJECT, KIND, FOUND, TFLOPS, OF_PEAK, OF_FLOOR)
CSV = (*SHORT, REASON, SENTENCE)


def parts(findings: Sequence[Finding]) -> tuple[Table, Table, Table]:
    """The findings in which something is odd, those on other sources of a number, and the plausible ones."""
    of_sources = [finding for finding in findings if finding.kind == OF_SOURCES]
    others = [finding for finding in findings if finding.kind != OF_SOURCES]
    odd = [finding for finding in others if finding.verdict.status is not Status.PLAUSIBLE]
    plausible = [finding for finding in others if finding.verdict.status is Status.PLAUSIBLE]
    reasons = dict.fromkeys(finding.verdict.reason for finding in of_sources)
    return (
        table(odd),
        made_of(
            (SUBJECT, SENTENCE),
            of_sources,
            "audit_sources",
            "The same speeds in other sources",
            "".join(f"{reason[0].upper()}{reason[1:]}. " for reason in reasons).strip(),
        ),
        made_of(
            SHORT,
            plausible,
            "audit_plausible",
            "Plausible speeds",
            narrow=[(SUBJECT, KIND, FOUND, TFLOPS), (SUBJECT, OF_PEAK, OF_FLOOR)],
        ),
    )


def table(findings: Sequence[Finding]) -> Table:
    """The findings, worst first; those in which something is odd are told in a sentence below."""
    ordered = sorted(findings, key=lambda finding: ORDER.index(finding.verdict.status))
    odd = [finding for finding in ordered if finding.verdict.status is not Status.PLAUSIBLE]
    return made_of(
        (*SHORT, REASON),
        ordered,
        "audit",
        "Printed speeds beside what their GPU can do",
        "TFLOP/s: what a speed comes to in core MACs. Of peak: as a multiple of the datasheet's. Of best rates: as a "
        "multiple of the speed at which every operator would run at the best rate that is published of it; above 1 the "
        "printed speed is the faster one. Impossible: above that by more than any two sources differ. Steps: the work "
        "that a larger variant adds, in the time that it adds; where it is wider, its operators may also be faster. "
        "Nothing here was measured by us.",
        notes=[f"{finding.verdict.word}: {finding.sentence}" for finding in odd],
        narrow=[(SUBJECT, KIND, TFLOPS, REASON), (SUBJECT, FOUND, OF_PEAK, OF_FLOOR)],
    )


def summary(findings: Sequence[Finding]) -> str:
    """A sentence on the number of findings of each verdict."""
    counts = Counter(finding.verdict.status for finding in findings)
    said = enumerated([f"{counts[status]} {status.word}" for status in ORDER if counts[status]])
    return f"{len(findings)} finding{'s' * (len(findings) != 1)}: {said or 'none'}."
