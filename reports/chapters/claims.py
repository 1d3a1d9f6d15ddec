"""The paper's sentences, each with a verdict: by its own numbers, by our counts, by pairs measured in turns here."""

from __future__ import annotations

from collections.abc import Sequence

from reports import claims, columns
from reports.chapter import Card, Chapter, Told
from reports.claim_tables import CSV, summary, table
from reports.claims import Finding
from reports.sentences import CLAIMS
from reports.tables import Table
from reports.verdicts import Status


def _all(told: Told) -> list[Finding]:
    return claims.find(told.results, CLAIMS)


def _decided(findings: Sequence[Finding]) -> list[Finding]:
    """The findings but those not measured: nobody is told on the page what she did not ask to have measured."""
    return [finding for finding in findings if finding.verdict.status is not Status.NOT_MEASURED]


ORDER = (Status.REFUTED, Status.UNDECIDED, Status.CONFIRMED)


def cards(told: Told) -> list[Card]:
    """A card: how many of the paper's decided sentences are borne out, and how many of those a time decided."""
    decided = [
        finding for finding in _all(told) if finding.verdict.status in (Status.CONFIRMED, Status.REFUTED)
    ]
    confirmed = sum(finding.verdict.status is Status.CONFIRMED for finding in decided)
    timed = sum(finding.claim.by == "measured" for finding in decided)
    words = (
        "sentences of the paper that could be checked are confirmed; "
        f"{timed or 'none'} of the {len(decided)} {'were' if timed > 1 else 'was'} decided by a time measured here"
    )
    return [Card(f"{confirmed} of {len(decided)}", words)]


def tables(told: Told) -> list[Table]:
    """The table of what was decided, or measured and left undecided: what is refuted first."""
    found = sorted(_decided(_all(told)), key=lambda finding: ORDER.index(finding.verdict.status))
    return [table(found, told.results.machine)]


CHAPTERS = (
    Chapter(
        heading="The paper's sentences",
        nav="Claims",
        text="What the paper says of speed and FLOPs, sentence by sentence, as far as it can be checked.",
        tables=tables,
        cards=cards,
        summary=lambda told: f"{summary(_all(told))} `python -m reports claims` lists them.",
        files=lambda told: {"claims.csv": columns.to_csv(CSV, _all(told))},
        own_anchor="sentences",
    ),
)
