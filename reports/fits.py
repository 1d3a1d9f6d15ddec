"""The cost model as it fits what was measured on a device, and its terms in words."""

from __future__ import annotations

from bench import fitting, speeds
from bench.fitting import Fitted, Judged
from reports.results import Results

NAMES = {
    "macs": "MACs",
    "conv_macs": "MACs of convolutions",
    "product_macs": "of products",
    "bytes": "bytes",
    "launches": "launches",
    "casts": "casts",
    "calls": "a constant a call",
}


def fits(results: Results) -> list[Fitted]:
    """The fits of what was measured on the device, one for each dtype and way of running that has rows enough."""
    campaigns = speeds.of_joined(results.rows)
    return [fit for campaign in campaigns if (fit := fitting.fitted(campaign))]


def largest(found: list[Fitted]) -> Fitted:
    """The fit of most rows."""
    return max(found, key=lambda fit: len(fit.campaign.rows))


def of_most_rows(results: Results) -> Fitted | None:
    """The largest of `fits`, without making the others; None where there are too few rows for any."""
    campaigns = sorted(speeds.of_joined(results.rows), key=lambda campaign: -len(campaign.rows))
    return next(filter(None, map(fitting.fitted, campaigns)), None)


def named(judged: Judged) -> str:
    """The terms of a model in words."""
    *most, last = [NAMES[term] for term in judged.model.terms]
    return f"{', '.join(most)} and {last}" if most else last
