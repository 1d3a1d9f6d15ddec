"""The one kind of verdict: a status with the word that is shown for it, and the reason of this case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from bench import stats
from bench.stats import Estimate


class Status(Enum):
    """A word that is shown, and the status with which a command that was asked for it exits.

    0 is as it should be, 1 fell short, 3 undecided.
    """

    # a count beside a printed number
    MATCH = "MATCH", 0
    NO_MATCH = "NO MATCH", 1
    # the first of a pair beside the second
    FASTER = "faster", 0
    SAME = "same", 0
    SLOWER = "slower", 1
    # a sentence of the paper beside what is printed, was counted or was measured
    CONFIRMED = "confirmed", 0
    REFUTED = "refuted", 1
    NOT_MEASURED = "not measured", 3
    # a printed speed beside what its GPU can do
    PLAUSIBLE = "plausible", 0
    AT_THE_LIMIT = "at the physical limit", 0
    IMPOSSIBLE = "impossible", 1
    # any of these
    UNDECIDED = "undecided", 3

    def __init__(self, word: str, exit_status: int) -> None:
        self.word = word
        self.exit_status = exit_status


@dataclass(frozen=True)
class Verdict:
    """A status, and why it is this one; the reason is empty where there is nothing to add."""

    status: Status
    reason: str = ""

    @property
    def word(self) -> str:
        """The word that tables and CSV files show."""
        return self.status.word

    @property
    def exit_status(self) -> int:
        """The status with which a command ends that was asked for this verdict alone."""
        return self.status.exit_status


def exit_status(verdicts: Iterable[Verdict]) -> int:
    """The status with which a command ends that was asked for all: 1 if one falls short, else 3 if one is open."""
    statuses = {verdict.exit_status for verdict in verdicts}
    return next((status for status in (1, 3) if status in statuses), 0)


OF_RATIO = {
    stats.Verdict.FASTER: Status.FASTER,
    stats.Verdict.SAME: Status.SAME,
    stats.Verdict.SLOWER: Status.SLOWER,
    stats.Verdict.UNDECIDED: Status.UNDECIDED,
}


def of_ratio(ratio: Estimate | None) -> Verdict | None:
    """The verdict on a ratio of two times, by its interval and its size; None where there is no ratio."""
    if ratio is None:
        return None
    verdict, reason = stats.verdict(ratio)
    return Verdict(OF_RATIO[verdict], reason)
