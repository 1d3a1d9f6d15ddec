"""Fits of the cost model to campaigns of speeds, in words and as records; `rates.csv` holds those to published ones.

`python -m bench fit FILE --csv` writes a line a campaign, and so `rates.csv` was made, of timm's tables for an RTX 3090
and a 4090 (huggingface/pytorch-image-models @aa4b5850, Apache-2.0), of the paper's Table 1, and of an H100's rows in
results/reference. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

from bench import costmodel
from bench.answers import Record
from bench.costmodel import MACS_ALONE, TWO_NUMBERS, UNITS, CostModel, Errors, HeldOut, Interval, Terms
from bench.describe import digits
from bench.machine.gpus import profiles
from bench.speeds import Campaign
from bench.text import bracketed

LEAST_ROWS = 8  # of a campaign, below which no fit is told


@dataclass(frozen=True)
class Judged:
    """One model of a campaign's rows: its rates by all of them, its errors on families left out."""

    model: CostModel
    held: Sequence[HeldOut]

    @cached_property
    def errors(self) -> Errors:
        """Median and ninth decile in %."""
        return costmodel.errors(self.held)

    @cached_property
    def interval(self) -> Interval:
        """The factors on a prediction within which nine in ten lie."""
        return costmodel.interval(self.held)

    @cached_property
    def coverage(self) -> float:
        """The share of rows in the interval that the other families give."""
        return costmodel.coverage(self.held)


@dataclass(frozen=True)
class Fitted:
    """A campaign with its models: MACs alone, the two numbers, and the terms whose errors are least."""

    campaign: Campaign
    alone: Judged
    two: Judged
    best: Judged

    @property
    def families(self) -> int:
        """The number of families, each of which was left out in turn."""
        return len({row.family for row in self.campaign.rows})

    @property
    def models(self) -> dict[str, Judged]:
        """The models by name; the best is another than the two numbers, or left out."""
        known = {"MACs alone": self.alone, "MACs and bytes": self.two}
        return known if self.best.model.terms == TWO_NUMBERS else {**known, "least errors": self.best}


def fitted(campaign: Campaign) -> Fitted | None:
    """Fit and judge a campaign; None where it has too few rows or families for that."""
    rows = campaign.rows
    if len(rows) < LEAST_ROWS or len({row.family for row in rows}) < costmodel.LEAST_FAMILIES:
        return None

    def judged(terms: Terms) -> Judged:
        return Judged(costmodel.fit(rows, terms), costmodel.held_out(rows, terms))

    try:
        return Fitted(campaign, judged(MACS_ALONE), judged(TWO_NUMBERS), judged(costmodel.best_terms(rows)))
    except ValueError:  # nearly all rows are of one family
        return None


# ---- in words


def lines(campaign: Campaign, fit: Fitted | None) -> Iterator[str]:
    """Lines on a fit, for people: the parameters with their units, and the errors beside those of MACs alone."""
    left = f", {len(campaign.left)} left out ({_reasons(campaign)})" if campaign.left else ""
    yield f"{campaign.name}: {len(campaign.rows)} rows{bracketed(campaign.doubts)}{left}"
    if fit is None:
        yield (
            f"  too few to leave a family out: it takes {LEAST_ROWS} rows "
            f"of {costmodel.LEAST_FAMILIES} families"
        )
        return
    yield f"  of {fit.families} families, each predicted by the others: % off, median and ninth decile"
    for name, judged in fit.models.items():
        low, high = judged.interval
        yield (
            f"  {name:14}  {judged.errors.median:5.1f} {judged.errors.ninth:5.1f}   "
            f"nine in ten within × {low:.2f} to {high:.2f} ({100 * judged.coverage:.0f} % are)   "
            f"{parameters(judged.model)}"
        )
    if shares := of_datasheet(campaign, fit.two.model):
        yield f"  MACs and bytes: {shares}"


def _reasons(campaign: Campaign) -> str:
    return ", ".join(
        f"{count} {why}" for why, count in Counter(why for _, why in campaign.left).most_common()
    )


def parameters(model: CostModel) -> str:
    """The parameters of a model with their units."""
    return ", ".join(
        f"{digits(value)} {UNITS[term].unit}" if value != inf else f"no time for {term.replace('_', ' ')}"
        for term, value in model.rates.items()
    )


def of_datasheet(campaign: Campaign, model: CostModel) -> str:
    """The two numbers as shares of the datasheet's, in words; empty where the datasheet's are not known."""
    profile = profiles().get(campaign.device)
    if not profile:
        return ""
    peaks = {"macs": profile.peak_tflops.get(campaign.dtype), "bytes": profile.bandwidth_gb_s}
    shares = [
        f"{100 * model.rates[term] / peak:.0f} % of {digits(peak)} {UNITS[term].unit}"
        for term, peak in peaks.items()
        if peak and model.rates.get(term, inf) != inf
    ]
    return f"{', '.join(shares)} ({profile.title}, datasheet)" if shares else ""


# ---- for programs


def record(fit: Fitted) -> Record:
    """A fit as a flat record: the two numbers and what they are judged by, then MACs alone, then the best terms."""
    campaign = fit.campaign
    flat: Record = {
        "device": campaign.device,
        "dtype": campaign.dtype,
        "way": campaign.way,
        "about": campaign.about,
        "rows": len(campaign.rows),
        "families": fit.families,
        "left_out": len(campaign.left),
        "uncertain": _uncertain(campaign),
    }
    for prefix, judged in (("", fit.two), ("macs_alone_", fit.alone), ("best_", fit.best)):
        flat |= {f"{prefix}{UNITS[term].column}": _told(each) for term, each in judged.model.rates.items()}
        flat |= {
            f"{prefix}median_error": _told(judged.errors.median),
            f"{prefix}ninth_error": _told(judged.errors.ninth),
            f"{prefix}low": _told(judged.interval.low),
            f"{prefix}high": _told(judged.interval.high),
            f"{prefix}coverage": _told(judged.coverage),
        }
    columns = [f"best_{unit.column}" for unit in UNITS.values()]
    return {**flat, **{name: flat.get(name) for name in columns}, "source": campaign.source}


def _uncertain(campaign: Campaign) -> int | None:
    """The number of rows with a doubt; None of speeds that came without intervals."""
    return sum(bool(row.doubts) for row in campaign.rows) if campaign.source == "results" else None


def _told(value: float) -> float | None:
    """Four digits; None for a rate without bound."""
    return None if value == inf else float(f"{value:.4g}")
