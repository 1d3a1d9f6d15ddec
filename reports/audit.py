"""The audit of printed speeds: what each asks of its GPU, beside what the GPU can do and what others print of it.

A speed is held against the peak of the datasheet, and, where a model's operators are counted, against a floor: the time
of an image if every operator ran at the best rate that anybody published of it. No weights are in the floor, because
one reading of them serves a whole batch; nor launches, nor anything between operators.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isclose

from bench import traffic
from bench.cases import parsed
from bench.conventions import FLOPS_PER_MAC
from bench.machine.gpus import profiles
from reports import published
from reports.published import Rate, Speed
from reports.results import Results, grouped
from reports.text import share as share_text
from reports.verdicts import Status, Verdict

LIMIT = 0.9  # of what a GPU can do, from which a speed is at its limit
WINOGRAD = 2.25  # products that F(2×2, 3×3) saves: a rate counted in all of them may be so many peaks
OF_SOURCES = "sources"  # the kind of a finding on other sources of a number
OTHER = "element-wise"  # whose rate bounds operators that have none of their own


@dataclass(frozen=True)
class Finding:
    """One sentence about printed speeds, with the numbers in it and its verdict."""

    subject: str
    kind: str  # speed, step, OF_SOURCES
    verdict: Verdict
    sentence: str
    tflops: float | None = None  # that it comes to
    of_peak: float | None = None
    of_floor: float | None = None  # above 1: faster than every operator at its best rate


@dataclass(frozen=True)
class Audited:
    """A printed speed with what is known of its model: core MACs, and the floor of its time."""

    speed: Speed
    macs: float | None
    floor_s: float | None

    @property
    def name(self) -> str:
        """Model, size and source."""
        return self.speed.name

    @property
    def image_s(self) -> float:
        """Seconds of an image."""
        return 1 / self.speed.images_per_s

    @property
    def peak(self) -> float | None:
        """FLOP/s of the GPU's datasheet; None where it says none for the dtype."""
        tflops = profiles()[self.speed.gpu].peak_tflops.get(self.speed.dtype)
        return tflops * 1e12 if tflops else None


def audit(speeds: Sequence[Speed], results: Results | None, elsewhere: Sequence[Speed]) -> list[Finding]:
    """The findings on speeds, in the order in which they are given.

    Args:
        results: rows in which models may have been counted.
        elsewhere: speeds from other sources, for the same models.
    """
    audited = [Audited(speed, *_known(speed, results)) for speed in speeds]
    spread = largest_spread([*speeds, *elsewhere])
    return [
        *(finding for each in audited for finding in _of_speed(each, spread)),
        *(finding for pair in _steps(audited) for finding in _of_step(*pair, spread)),
        *_of_sources(speeds, elsewhere, spread),
    ]


# ---- what is known of a model


def _known(speed: Speed, results: Results | None) -> tuple[float | None, float | None]:
    """Core MACs of an image, counted or else as printed, and the floor of its seconds."""
    counts = results.counted(parsed(speed.case)) if results and speed.case else None
    if counts is None or not counts.ok:
        return speed.macs, None
    moved = traffic.of_row(counts.row["result"].get("traffic"))
    return counts.macs["core"], floor_s(counts.by_operator("core"), moved, speed.gpu, speed.dtype)


def floor_s(macs: dict[str, int], moved: dict[str, traffic.Traffic], gpu: str, dtype: str) -> float | None:
    """Seconds of an image, each operator at the best published rate; None where there are no rates, or no bytes.

    Operators with MACs take the time of these, all others that of their bytes.
    """
    rates = rates_of(gpu, dtype)
    if not rates or not moved or not all(operator in rates for operator in macs):
        return None
    products = sum(FLOPS_PER_MAC * count / rates[operator].per_s for operator, count in macs.items())
    others = {operator: part for operator, part in moved.items() if operator not in macs}
    return products + sum(
        part.bytes_each(dtype) / rates.get(operator, rates[OTHER]).per_s for operator, part in others.items()
    )


def rates_of(gpu: str, dtype: str) -> dict[str, Rate]:
    """The best rates of a GPU by operator: published of itself, else of another board of its generation, in proportion
    to the datasheets' peak and bandwidth."""
    boards = profiles()
    own = boards[gpu]
    found: dict[str, Rate] = {}
    for rate in published.rates():
        board = boards[rate.gpu]
        if rate.dtype != dtype or board.compute_capability != own.compute_capability:
            continue
        if rate.of_flops:
            factor = own.peak_tflops.get(dtype, 0) / board.peak_tflops[dtype]
        else:
            factor = (own.bandwidth_gb_s or 0) / (board.bandwidth_gb_s or 1)
        if factor and (rate.operator not in found or rate.gpu == gpu):
            found[rate.operator] = replace(rate, per_s=rate.per_s * factor)
    return found


# ---- one speed


def _of_speed(audited: Audited, spread: float) -> Iterator[Finding]:
    """The finding on what a speed comes to, if its MACs and the peak are known."""
    speed, peak = audited.speed, audited.peak
    if audited.macs is None or peak is None:
        return
    flops = FLOPS_PER_MAC * audited.macs * speed.images_per_s
    of_floor = audited.floor_s / audited.image_s if audited.floor_s else None
    sentence = (
        f"{audited.name}: {speed.images_per_s:g} images/s × 2 × {audited.macs / 1e9:.2f} GMAC = {flops / 1e12:.2f} "
        f"TFLOP/s, {flops / peak:.2f} of the peak of {peak / 1e12:g}"
    )
    if audited.floor_s and of_floor:
        sentence += (
            f"; at the best rates of its operators an image takes {_ms(audited.floor_s)}, as printed "
            f"{_ms(audited.image_s)}: {of_floor:.2f} of what they allow"
        )
    verdict = _beside_floor(of_floor, spread) if of_floor else _beside_peak(flops / peak)
    yield Finding(audited.name, "speed", verdict, f"{sentence}.", flops / 1e12, flops / peak, of_floor)


def _beside_floor(share: float, spread: float) -> Verdict:
    """The verdict on a speed that is so much of what the best rates allow."""
    if share > 1 + spread:
        return Verdict(
            Status.IMPOSSIBLE, f"faster than the best rates by more than sources differ, {share_text(spread)}"
        )
    return Verdict(Status.AT_THE_LIMIT if share >= LIMIT else Status.PLAUSIBLE)


def _beside_peak(share: float) -> Verdict:
    """The verdict on a speed that is so much of the peak, of a model whose operators are not known."""
    if share > WINOGRAD:
        return Verdict(
            Status.IMPOSSIBLE, f"more than {WINOGRAD} peaks, which not even Winograd's convolutions give"
        )
    if share > 1:
        return Verdict(Status.UNDECIDED, "above the peak, which 3 × 3 convolutions by Winograd alone can be")
    return Verdict(Status.AT_THE_LIMIT if share >= LIMIT else Status.PLAUSIBLE)


# ---- the step from one variant to the next


def _steps(audited: Sequence[Audited]) -> Iterator[tuple[Audited, Audited]]:
    """Neighbours in MACs among the variants of a family at one size, in one source."""
    known = [each for each in audited if each.speed.family and each.macs is not None]
    families = grouped(
        ((each.speed.family, each.speed.size, each.speed.source, each.speed.gpu, each.speed.dtype), each)
        for each in known
    )
    for variants in families.values():
        yield from itertools.pairwise(sorted(variants, key=lambda each: each.macs or 0))


def _of_step(small: Audited, large: Audited, spread: float) -> Iterator[Finding]:
    """The finding on what the work that a larger variant adds comes to, in the time that it adds."""
    peak, added_s = large.peak, large.image_s - small.image_s
    more = (large.macs or 0) - (small.macs or 0)
    if peak is None or not more:
        return
    name = f"{small.speed.model} to {large.name}"
    times = f"1/{large.speed.images_per_s:g} − 1/{small.speed.images_per_s:g} s = {_ms(added_s)}"
    if added_s <= 0:
        why = "more work in less time"
        yield Finding(
            name, "step", Verdict(Status.UNDECIDED, why), f"{name}: {times} for {more / 1e9:.2f} GMAC more."
        )
        return
    flops = FLOPS_PER_MAC * more / added_s
    sentence = f"{name}: {more / 1e9:.2f} GMAC more in {times}: {flops / 1e12:.2f} TFLOP/s"
    sentence += f", {flops / peak:.2f} of the peak"
    if small.floor_s is None or large.floor_s is None:
        yield Finding(name, "step", _beside_peak(flops / peak), f"{sentence}.", flops / 1e12, flops / peak)
        return
    floor = large.floor_s - small.floor_s
    sentence += f"; at the best rates it takes {_ms(floor)}"
    verdict = _beside_floor(floor / added_s, spread)
    # a small difference of two times is uncertain by as much as the times
    if verdict.status is Status.IMPOSSIBLE and (missing := (floor - added_s) / large.image_s) <= spread:
        why = f"{share_text(missing)} of the larger one's time is missing, and sources differ by {share_text(spread)}"
        verdict = Verdict(Status.UNDECIDED, why)
    yield Finding(name, "step", verdict, f"{sentence}.", flops / 1e12, flops / peak, floor / added_s)


# ---- several sources


def largest_spread(speeds: Sequence[Speed]) -> float:
    """The largest difference between two sources of one model on one GPU in one dtype; 0 where none has two.

    One number that stands in two places is one measurement.
    """
    return max((max(same) / min(same) - 1 for same in _by_model(speeds).values()), default=0.0)


def _by_model(speeds: Iterable[Speed]) -> dict[tuple[str, str, str], list[float]]:
    keyed = (((speed.case, speed.gpu, speed.dtype), speed.images_per_s) for speed in speeds if speed.case)
    return grouped(keyed)


def _of_sources(speeds: Sequence[Speed], elsewhere: Sequence[Speed], spread: float) -> Iterator[Finding]:
    """The findings on sources that differ, and on those that have a number from another."""
    below = f"no ratio within {share_text(spread)} of 1 can be told from the difference between campaigns"
    for own, other in itertools.product(speeds, elsewhere):
        if not own.case or _model(own) != _model(other) or own.gpu != other.gpu:
            continue
        places = f"{own.images_per_s:g} images/s in {own.source}"
        if is_same_number(own, other):
            sentence = (
                f"{places} is the number of {other.where}{_unlike(own, other)}: it is of another campaign"
            )
        elif (own.case, own.dtype) == (other.case, other.dtype):
            low, high = sorted((own.images_per_s, other.images_per_s))
            sentence = (
                f"{places}, {other.images_per_s:g} in {other.where}: {high:g} / {low:g} = {high / low:.3f}"
            )
        else:
            continue
        yield Finding(own.name, OF_SOURCES, Verdict(Status.UNDECIDED, below), f"{own.model}: {sentence}.")


def _unlike(own: Speed, other: Speed) -> str:
    """The other source's size and dtype where they are not the same, to follow its name."""
    sizes = [speed.case.partition("@")[2] for speed in (own, other)]
    size = "" if sizes[0] == sizes[1] else f", for images of {sizes[1]} where here they have {sizes[0]}"
    return size + ("" if own.dtype == other.dtype else f", in {other.dtype}")


def is_same_number(one: Speed, other: Speed) -> bool:
    """Whether two speeds print the same, to the digits of the shorter one."""
    shorter = min((f"{one.images_per_s:g}", f"{other.images_per_s:g}"), key=len)
    digits = len(shorter.partition(".")[2])
    return isclose(round(one.images_per_s, digits), round(other.images_per_s, digits))


def _model(speed: Speed) -> str:
    return speed.case.partition("@")[0]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
