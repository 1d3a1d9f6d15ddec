"""Numbers and lists as text, for people."""

from __future__ import annotations

from collections.abc import Sequence

from bench.stats import Estimate


def significant(value: float) -> str:
    """About three digits: 1156, 83.4, 7.31."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def hundredths(value: float) -> str:
    """A count with two decimals; a smaller one with two digits that say something: 4.08, 0.0039, 0.00."""
    return (
        f"{value:.2f}" if value >= 0.1 or not value else f"{value:.2g}" if value >= 1e-4 else f"{value:.1e}"
    )


def percent(value: float) -> str:
    """A relative half-width in per cent, with two digits at most."""
    if value >= 0.0995:
        return f"{100 * value:.0f} %"
    return f"{100 * value:.1f} %" if value >= 0.001 else "<0.1 %"


def share(value: float) -> str:
    """A share of a whole in per cent, with one decimal below ten."""
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.1f} %"


def rate(macs_per_s: float) -> str:
    """MACs a second for a sentence, with the unit that keeps the number short."""
    value, unit = (macs_per_s / 1e12, "TMAC/s") if macs_per_s >= 1e12 else (macs_per_s / 1e9, "GMAC/s")
    return f"{significant(value)} {unit}"


def interval(estimate: Estimate) -> str:
    """The ends of an estimate's interval, `0.981 to 1.020`; empty where it has none."""
    return "" if estimate.low is None else f"{estimate.low:.3f} to {estimate.high:.3f}"


def with_interval(estimate: Estimate) -> str:
    """A ratio with its interval: `1.003 (0.981 to 1.020)`."""
    ends = interval(estimate)
    return f"{estimate.value:.3f}{f' ({ends})' if ends else ''}"


def enumerated(items: Sequence[str]) -> str:
    """Words as a list in a sentence: `a, b and c`."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)


def sentences(*texts: str) -> str:
    """The texts that are not empty, as sentences of one paragraph."""
    return " ".join(f"{text}." for text in texts if text)
