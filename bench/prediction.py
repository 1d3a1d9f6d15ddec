"""Predictions of a case's time on a GPU that need not be there. No torch. Never a measurement, and never stored as one.

Where the rates come from, the first that there is:

    measured   MACs/R + bytes/B fitted to rows of one's own of that GPU, at the same dtype and way
    carried    the case's own time on another GPU, times one factor: the median ratio of what is predicted for the one
               to what was measured on the other, over all cases that were measured there
    published  a line of rates.csv for that GPU
    scaled     the GPU's datasheet peaks times the shares of theirs that the GPUs of rates.csv reach
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench import costmodel, fitting
from bench.answers import Record
from bench.cases import Case
from bench.costmodel import CostModel, Interval, Timed, Work
from bench.describe import digits, in_short
from bench.errors import UsageError
from bench.machine.gpus import GpuProfile, profiles
from bench.speeds import Campaign
from bench.text import bracketed
from models.switches import COMPILED

FILE = Path(__file__).with_name("rates.csv")
LAUNCH_US = (
    5.0  # of the CPU for a launch, about: where that takes longer than the kernels, it is what is waited for
)

# The least that a GPU may be off what others reach: an RTX 3090 and a 4090 are apart by 1.13, a V100 from both by up to
# 1.3 in half precision (TResNet's and EfficientViT's tables of speeds)
APART = 1.3


class Rates(NamedTuple):
    """A line of rates.csv: the two numbers of a device, and how far off they are on families left out."""

    device: str
    dtype: str
    way: str
    about: str
    tflops: float
    gb_per_s: float
    interval: Interval
    rows: int = 0
    uncertain: int = 0  # of these, those from each of which alone nothing can be concluded

    @property
    def model(self) -> CostModel:
        """The model of the two."""
        return costmodel.of_rates(self.tflops, self.gb_per_s)


class Way(NamedTuple):
    """A pair of rates to be predicted with, the ends of what they predict as factors of it, and whose they are."""

    model: CostModel
    interval: Interval
    basis: str  # measured, published or scaled
    why: str


class Prediction(NamedTuple):
    """Seconds of an image, with the ends between which nine in ten are expected."""

    seconds: float
    interval: Interval
    basis: str
    why: str
    model: CostModel


@cache
def published(path: Path = FILE) -> tuple[Rates, ...]:
    """Every line of the file."""
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(
            Rates(
                line["device"],
                line["dtype"],
                line["way"],
                line["about"],
                float(line["tflops"]),
                float(line["gb_per_s"]),
                Interval(float(line["low"]), float(line["high"])),
                int(line["rows"]),
                int(line["uncertain"] or 0),
            )
            for line in csv.DictReader(file)
        )


def profile_of(name: str) -> GpuProfile:
    """The profile of a GPU by its name.

    Raises:
        UsageError: none has that name.
    """
    known = profiles()
    if name.lower() not in known:
        raise UsageError(f"no datasheet of a GPU {name!r}: `python -m bench gpus` lists those there are")
    return known[name.lower()]


def predict(
    case: Case, work: Work, profile: GpuProfile, campaigns: Sequence[Campaign], known: Sequence[Rates]
) -> Prediction:
    """Predict the seconds of an image of a case.

    Args:
        case: with batch and dtype filled in.
        campaigns: of one's own results.
        known: the lines of rates.csv.

    Raises:
        UsageError: the datasheet says too little for the dtype, or nothing is published of such a case.
    """
    name = "compile" if case.impl in COMPILED else "eager"
    alike = [each for each in campaigns if (each.dtype, each.way) == (case.dtype, name)]
    for own in alike:
        if own.device == profile.name and (fit := fitting.fitted(own)):
            why = f"{len(own.rows)} rows that were measured on it here{bracketed(own.doubts)}"
            way = Way(fit.two.model, fit.two.interval, "measured", why)
            return _with(way, work)
    way = _published(case, name, profile, known)
    for other in alike:
        for row in other.rows:
            if row.name == str(case) and other.device not in ("cpu", profile.name):
                return _carried(row, other, way)
    return _with(way, work)


def _with(way: Way, work: Work) -> Prediction:
    return Prediction(way.model.seconds(work), way.interval, way.basis, way.why, way.model)


def _carried(measured: Timed, other: Campaign, way: Way) -> Prediction:
    """The time on another device times one factor. The ends are those of the rates, which the factor stands on."""
    factor = statistics.median(way.model.seconds(row.work) / row.seconds for row in other.rows)
    of_one, of_all = bracketed(", ".join(measured.doubts)), bracketed(other.doubts)
    why = (
        f"measured on {other.device} here{of_one}, times {digits(factor)}: the median of {len(other.rows)} "
        f"cases{of_all}, of which the time here was predicted by {way.why}"
    )
    return Prediction(measured.seconds * factor, way.interval, "carried", why, way.model)


def _published(case: Case, name: str, profile: GpuProfile, known: Sequence[Rates]) -> Way:
    layout = "nhwc" if case.has("channels_last") else "nchw"
    # the last line of a device is that of the newest versions
    like = "fp16" if case.dtype == "bf16" else case.dtype
    alike = {
        each.device: each
        for each in known
        if (each.dtype, each.way) == (like, name) and (layout in each.about or not each.about)
    }
    as_is = (
        ""
        if like == case.dtype
        else f"; the rates are those of {like}: {FILE.name} is read for none of {case.dtype}"
    )
    if rates := alike.get(profile.name):
        why = f"speeds of that GPU in {FILE.name}{bracketed(rates.about)}{_doubts(rates)}{as_is}"
        return Way(rates.model, rates.interval, "published", why)
    shares = {
        device: (rates, share)
        for device, rates in alike.items()
        if (share := _shares(rates, profiles().get(device)))
    }
    peak, bandwidth = profile.peak_tflops.get(str(case.dtype)), profile.bandwidth_gb_s
    if not peak or not bandwidth:
        raise UsageError(f"the datasheet of {profile.title} says no {case.dtype} TFLOP/s, or no GB/s")
    if not shares:
        raise UsageError(f"no speeds in {case.dtype}, {name}, {layout} are published in {FILE.name}")
    names = [f"{device}{_doubts(rates)}" for device, (rates, _) in shares.items()]
    scaled = _scaled(peak, bandwidth, list(shares.values()), names)
    return scaled._replace(why=f"{scaled.why}{as_is}")


def _doubts(rates: Rates) -> str:
    """How many of the rows of a line are uncertain, in words; empty where none is."""
    return f" ({rates.uncertain} of {rates.rows} rows uncertain)" if rates.uncertain else ""


def _shares(rates: Rates, profile: GpuProfile | None) -> tuple[float, float] | None:
    """The shares of its peaks that a device reaches, of arithmetic and of memory."""
    peak = profile.peak_tflops.get(rates.dtype) if profile else None
    if not profile or not peak or not profile.bandwidth_gb_s:
        return None
    # a fit whose time is nearly all bytes may give the few MACs beside them any rate, also one beyond the peak
    return min(1.0, rates.tflops / peak), min(1.0, rates.gb_per_s / profile.bandwidth_gb_s)


def _scaled(
    peak: float, bandwidth: float, shares: list[tuple[Rates, tuple[float, float]]], names: list[str]
) -> Way:
    """Peaks times the geometric means of shares. The ends are wider by what a GPU is off the others."""
    each = [share for _, share in shares]
    reached = [_mean(of_term) for of_term in zip(*each, strict=True)]
    off = [1 / APART, APART]
    for i, one in enumerate(each if len(each) > 1 else []):  # as if the others had to tell of this one
        others = zip(*(other for j, other in enumerate(each) if j != i), strict=True)
        off += [_mean(of_term) / own for of_term, own in zip(others, one, strict=True)]
    ends = Interval(
        min(rates.interval.low for rates, _ in shares) * min(off),
        max(rates.interval.high for rates, _ in shares) * max(off),
    )
    model = costmodel.of_rates(peak * reached[0], bandwidth * reached[1])
    why = (
        f"{100 * reached[0]:.0f} % of the datasheet's TFLOP/s and {100 * reached[1]:.0f} % of its GB/s, "
        f"as {' and '.join(names)} reach by speeds in {FILE.name}; the interval holds what each is off the others"
    )
    return Way(model, ends, "scaled", why)


def _mean(shares: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(map(math.log, shares)))


# ---- in words


def lines(case: Case, work: Work, profile: GpuProfile, made: Prediction) -> Iterator[str]:
    """A prediction for people, which says that it is one."""
    batch = case.batch or 1
    rate, (low, high) = 1 / made.seconds, made.interval
    yield (
        f"{case} on {profile.title}: predicted {digits(rate)} images/s "
        f"({digits(rate / high)} to {digits(rate / low)} in nine of ten cases), "
        f"{digits(1e3 * batch * made.seconds)} ms for {batch} image{'s' * (batch > 1)}"
    )
    parts = [
        f"{100 * each * getattr(work, term) / made.model.seconds(work):.0f} % of the time {term}"
        for term, each in zip(made.model.terms, made.model.seconds_each, strict=True)
    ]
    yield (
        f"  {int(work.macs):,} MACs{in_short(int(work.macs))} and {int(work.bytes):,} bytes an image: "
        f"{fitting.parameters(made.model)}; {', '.join(parts)}"
    )
    yield f"  rates: {made.why}"
    launching = work.launches * LAUNCH_US * 1e-6
    if launching > made.seconds:
        yield (
            f"  {round(work.launches * batch):,} launches at about {LAUNCH_US:.0f} µs each take longer than that: "
            "at such a batch it may be the CPU that is waited for"
        )


def record(case: Case, work: Work, profile: GpuProfile, made: Prediction) -> Record:
    """A prediction as a flat record."""
    rate = 1 / made.seconds
    return {
        "case": str(case),
        "batch": case.batch,
        "dtype": case.dtype,
        "device": profile.name,
        "predicted_images_per_s": rate,
        "predicted_images_per_s_low": rate / made.interval.high,
        "predicted_images_per_s_high": rate / made.interval.low,
        "predicted_ms": 1e3 * (case.batch or 1) * made.seconds,
        "macs": int(work.macs),
        "bytes_per_image": work.bytes,
        "launches": round(work.launches * (case.batch or 1)),
        "tflops": _bounded(made.model.rates["macs"]),
        "gb_per_s": _bounded(made.model.rates["bytes"]),
        "basis": made.basis,
        "rates": made.why,
    }


def _bounded(rate: float) -> float | None:
    """A rate; None for one without bound, which JSON has no number for."""
    return None if rate == math.inf else rate
