"""Numbers as text, for people."""

from __future__ import annotations


def significant(value: float) -> str:
    """About three digits: 1156, 83.4, 7.31."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def percent(value: float) -> str:
    """A relative half-width: two digits are plenty."""
    if value >= 0.0995:
        return f"{100 * value:.0f} %"
    return f"{100 * value:.1f} %" if value >= 0.001 else "<0.1 %"


def share(part: float) -> str:
    """Of a whole, in per cent."""
    return f"{100 * part:.0f} %" if part >= 0.0995 else f"{100 * part:.1f} %"


def rate(macs_per_s: float) -> str:
    """With the unit that keeps it short, for sentences."""
    value, unit = (macs_per_s / 1e12, "TMAC/s") if macs_per_s >= 1e12 else (macs_per_s / 1e9, "GMAC/s")
    return f"{significant(value)} {unit}"


def names(of: list[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(of[:-1])} and {of[-1]}" if len(of) > 1 else "".join(of)
