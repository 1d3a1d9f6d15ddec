"""Rows in words, for a terminal: a line each, and further lines for single commands. No torch."""

from __future__ import annotations

from typing import Any

from bench import stats, visits
from bench.record import Row


def agreement(check: dict[str, Any]) -> str:
    """A cross-check in one line: how another counter's total compares with ours."""
    ours, difference = check["ours"], check["macs"] - check["ours"]
    how = (
        f"differs by {difference:+,} ({100 * difference / ours:+.2f} %)" if difference and ours else "agrees"
    )
    return f"{check['counter']} counts {check['macs']:,}, ours as `{check['compared_with']}` {ours:,}: {how}"


# ---- a good row in one line, by harness: bench/jobs.py says whose is which


def anything(row: Row) -> str:
    """The line of a harness that has no words of its own."""
    return f"{row['case']}: {row['harness']} measured{_notes(row)}"


def throughput(row: Row) -> str:
    """Images a second, with the ends of the interval."""
    result = row["result"]
    rate = visits.seconds(row).map(lambda seconds: result["batch"] / seconds)
    return f"{row['case']}: {_with_ends(rate)} images/s{_notes(row)}"


def latency(row: Row) -> str:
    """Milliseconds of an iteration, with the ends of the interval."""
    milliseconds = visits.seconds(row).map(lambda seconds: 1e3 * seconds)
    tail = stats.percentiles(row["result"]["samples_s"])
    percentiles = "".join(f"; {name} {1e3 * seconds:.4g}" for name, seconds in tail.items())
    return f"{row['case']}: {_with_ends(milliseconds)} ms{percentiles}{_notes(row)}"


def comparison(row: Row) -> str:
    """How many times as long the first of two cases takes for an image."""
    ratio = visits.ratio(row)
    verdict, _ = stats.verdict(ratio)
    said = {
        stats.Verdict.SAME: f"the same within {100 * stats.PRACTICAL:.0f} %",
        stats.Verdict.FASTER: "the first is faster",
        stats.Verdict.SLOWER: "the first is slower",
        stats.Verdict.UNDECIDED: "undecided",
    }[verdict]
    return (
        f"{row['case']}: the first takes {ratio.value:.3f} times as long an image{_ends(ratio)}: "
        f"{said}{_notes(row)}"
    )


def peaks(row: Row) -> str:
    """This CPU's peaks: TFLOP/s and GB/s."""
    result = row["result"]
    return (
        f"this CPU's peaks: {result['tflops']['fp32']:.2f} TFLOP/s fp32, {result['bandwidth_gb_s']:.0f} GB/s"
    )


def macs(row: Row) -> str:
    """Parameters, and MACs as `core` counts them."""
    result = row["result"]
    return (
        f"{row['case']}: {result['parameters']:,} parameters, {result['conventions']['core']['macs']:,} MACs"
    )


def branches(row: Row) -> str:
    """The blocks, weights and images of an analysis."""
    result = row["result"]
    looked_at = f"{result['images']['used']} images ({result['images']['source']})"
    weights = result["weights"]["file"] or f"{result['weights']['source']} weights"
    return f"{row['case']}: {row['harness']} of {len(result['blocks'])} blocks, {weights}, {looked_at}{_notes(row)}"


def failure(row: Row) -> str:
    """The reason why a row has no result."""
    return f"{row['case']}: {row['outcome']}: {row['reason']}"


def _notes(row: Row) -> str:
    return "".join(f"; {note}" for note in row["notes"])


def _with_ends(estimate: stats.Estimate) -> str:
    return f"{estimate.value:.4g}{_ends(estimate)}"


def _ends(estimate: stats.Estimate) -> str:
    if estimate.low is None:
        return f" (no interval: {estimate.why})" if estimate.why else ""
    spread = ", the spread within this run" if estimate.within_run else ""
    return f" ({estimate.low:.4g} to {estimate.high:.4g}{spread})"


# ---- what a command says besides


def memory_and_check(result: dict[str, Any]) -> list[str]:
    """Peak memory, the check, and the time by submodule of a throughput's result, as indented lines."""
    peak = result["peak_memory_bytes"]
    memory = f"peak memory {peak / 2**20:,.0f} MiB; " if peak else ""
    lines = [f"  {memory}check: {check(result['check'])}"]
    if by_submodule := result.get("parts_s"):
        times = (
            f"{name} {1e3 * stats.median(seconds).value:.4g} ms" for name, seconds in by_submodule.items()
        )
        lines.append(f"  {', '.join(times)}")
    return lines


def check(seen: dict[str, Any]) -> str:
    """A check in words: the reference, how far off the output was, and how far it may be."""
    if "error" not in seen:
        return str(seen["against"])
    scale = seen.get("of", "the largest logit")
    return f"{seen['error']:.1e} of {scale} off {seen['against']}, {seen['bound']:.1e} allowed"


def blocks(row: Row) -> list[str]:
    """An analysis as a table by block, in lines.

    CKA by pair of branches, or by branch the log amplitude at the highest frequency less that at 0.
    """
    result = row["result"]
    if not result:
        return []
    if "cka" in result:
        columns = result["cka"]
    else:
        curves = result["log_amplitude"].items()
        columns = {"up to": [f"{frequencies[-1]:.2f}π" for frequencies in result["frequencies"]]}
        columns |= {f"Δ {name}": [values[-1] for values in curve] for name, curve in curves}
    width = max(map(len, result["blocks"]))
    lines = [f"  {'':{width}}" + "".join(f"{name:>10}" for name in columns)]
    for block, *values in zip(result["blocks"], *columns.values(), strict=True):
        cells = (value if isinstance(value, str) else f"{value:.3f}" for value in values)
        lines.append(f"  {block:{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return lines
