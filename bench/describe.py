"""Rows in words, for a terminal: a line each, and further lines for single commands. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from operator import add
from typing import TYPE_CHECKING, Any

from bench import stats, visits
from bench.record import Row
from bench.traffic import Traffic, total

if TYPE_CHECKING:
    from bench.baseline import Acceptance
    from bench.regress import Outcome


def agreement(check: dict[str, Any]) -> str:
    """A cross-check in one line: how another counter's total compares with ours."""
    ours, difference = check["ours"], check["macs"] - check["ours"]
    how = "agrees"
    if difference:
        how = f"differs by {difference:+,}" + (f" ({100 * difference / ours:+.2f} %)" if ours else "")
    return f"{check['counter']} counts {check['macs']:,}, ours as `{check['compared_with']}` {ours:,}: {how}"


# ---- a good row in one line, by harness: bench/jobs.py says whose is which


def anything(row: Row) -> str:
    """The line of a harness that has no words of its own."""
    return f"{row['case']}: {row['harness']} measured{_notes(row)}"


def throughput(row: Row) -> str:
    """Images a second of iterations back to back, with the ends of the interval."""
    batch = row["result"]["batch"]
    rate = visits.seconds(row).map(lambda seconds: batch / seconds)
    return f"{row['case']}: {_with_ends(rate)} images/s, back to back{_kernels(row)}{_notes(row)}"


def latency(row: Row) -> str:
    """Milliseconds of an iteration that is waited for, with its images, the ends of the interval and percentiles."""
    milliseconds = visits.seconds(row).map(lambda seconds: 1e3 * seconds)
    batch = row["result"]["batch"]
    images = "one image" if batch == 1 else f"a batch of {batch}"
    tail = stats.percentiles(row["result"]["samples_s"])
    percentiles = "".join(f"; {name} {digits(1e3 * tail[name])}" for name in ("p90", "p99") if name in tail)
    taken = f"{_with_ends(milliseconds)} ms for {images}, each waited for{percentiles}"
    return f"{row['case']}: {taken}{_kernels(row)}{_notes(row)}"


def profile(row: Row) -> str:
    """Milliseconds of an iteration, what takes the most of it, and how much longer it took with the profiler."""
    result = row["result"]
    milliseconds = visits.seconds(row).map(lambda seconds: 1e3 * seconds)
    of_visits = [lines["operator"] for lines in result.get("visits_lines") or [result["lines"]]]
    shares: Counter[str] = Counter()
    for lines in of_visits:
        shares.update({line["name"]: line["share"] for line in lines if line["phase"] == "all"})
    most = ", ".join(f"{name} {100 * share / len(of_visits):.0f} %" for name, share in shares.most_common(3))
    known = f"MACs are known for {100 * result['known']:.0f} % of the time"
    longer = f"{result['perturbation']:.2f} times as long with the profiler"
    return f"{row['case']}: {_with_ends(milliseconds)} ms: {most}; {known}; {longer}{_notes(row)}"


def comparison(row: Row) -> str:
    """A line on how many times as long the first of two cases takes for an image."""
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
    core = result["conventions"]["core"]["macs"]
    text = (
        f"{row['case']}: {result['parameters']:,} parameters, {core:,} MACs{in_short(core)} as `core` counts"
    )
    missed = (f"{name} ({times} times)" for name, times in (result.get("uncounted") or {}).items())
    return (
        f"{text}{''.join(f'; not counted: {names}' for names in [', '.join(missed)] if names)}{_notes(row)}"
    )


def in_short(count: int) -> str:
    """A count of four digits or more in billions, millions or thousands, in brackets: ` (4.083 G)`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f" ({count / size:.3f} {letter})"
    return ""


def branches(row: Row) -> str:
    """The blocks, weights and images of an analysis."""
    result = row["result"]
    looked_at = f"{result['images']['used']} images ({result['images']['source']})"
    weights = result["weights"]["file"] or f"{result['weights']['source']} weights"
    return f"{row['case']}: {row['harness']} of {len(result['blocks'])} blocks, {weights}, {looked_at}{_notes(row)}"


def failure(row: Row) -> str:
    """The reason why a row has no result."""
    return f"{row['case']}: {row['outcome']}: {row['reason']}"


def _kernels(row: Row) -> str:
    """Our kernels that an iteration runs; of an older row nothing is known."""
    ran = row["result"].get("kernels") or {}
    return "".join(
        f"; {name} in {number} {'module' if number == 1 else 'modules'}" for name, number in ran.items()
    )


def _notes(row: Row) -> str:
    return "".join(f"; {note}" for note in visits.notes(row))


def _with_ends(estimate: stats.Estimate) -> str:
    return digits(estimate.value) + _ends(estimate)


def _ends(estimate: stats.Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f" (no interval: {estimate.why})" if estimate.why else ""
    spread = ", the spread within this run" if estimate.within_run else ""
    return f" ({digits(estimate.low)} to {digits(estimate.high)}{spread})"


def digits(value: float) -> str:
    """A number to four digits, never as a power of ten: 0.01234, 83.42, 1,156, 19,190."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 3 - _exponent(value))}f}"


def _exponent(value: float) -> int:
    """The power of ten of a number's first digit, once it is rounded to four."""
    return int(f"{value:.3e}".partition("e")[2])


# ---- the quantities of a row


def modules_ms(result: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of an iteration by submodule; empty where the time was not taken apart."""
    return {
        name: 1e3 * stats.median(samples).value for name, samples in (result.get("parts_s") or {}).items()
    }


# ---- what a command says besides


def memory_and_check(result: dict[str, Any]) -> list[str]:
    """Peak memory, energy, the check, and the time by submodule of a throughput's result, as indented lines."""
    peak = result["peak_memory_bytes"]
    memory = f"peak memory {peak / 2**20:,.0f} MiB; " if peak else ""
    if joules := result.get("joules_per_image"):
        memory += f"{digits(joules)} J an image; "
    lines = [f"  {memory}check: {check(result['check'])}"]
    if times := [f"{name} {digits(ms)} ms" for name, ms in modules_ms(result).items()]:
        lines.append(f"  {', '.join(times)}")
    return lines


def rolled_up(by_module: dict[str, Any], depth: int, add: Callable[[Any, Any], Any] = add) -> dict[str, Any]:
    """Counts by module, each with all that is in it, of names that are cut to `depth` parts: `stages.0` at depth 2."""
    sums: dict[str, Any] = {}
    for name, count in by_module.items():
        outer = ".".join(name.split(".")[:depth])
        sums[outer] = add(sums[outer], count) if outer in sums else count
    return sums


def counted(
    parts: dict[str, int], moved: dict[str, Traffic], held: dict[str, int], dtype: str, batch: int
) -> list[str]:
    """A count as a table, in lines: MACs with their share, what is moved and launched for them, parameters.

    Args:
        parts: MACs by operator or by module.
        moved: traffic by the same; empty where it is not known.
        held: parameters by module; empty in a table by operator.
        dtype: of the bytes.
        batch: the images over which what is moved once a call is spread, for the FLOP of a byte.
    """
    whole = sum(parts.values())
    lines = [["", "MACs", "share"] + ["launches", "bytes an image", "bytes once", "FLOP/byte"] * bool(moved)]
    lines[0] += ["parameters"] * bool(held)
    for name in dict.fromkeys((*parts, *moved, *held)):
        macs, part = parts.get(name, 0), moved.get(name)
        line = [name or "(model)", f"{macs:,}", f"{100 * macs / whole:.1f} %" if whole else "– %"]
        if moved:
            rate = part and part.flop_per_byte(dtype, batch)
            sizes = (part.launches, part.bytes_each(dtype), part.bytes_once(dtype)) if part else ()
            line += [f"{size:,}" for size in sizes] or ["–"] * 3
            line.append("–" if rate is None else digits(rate) if rate else "0")
        line += [f"{held.get(name, 0):,}"] * bool(held)
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
    ]


def moved_in_all(of: str, moved: dict[str, Traffic], dtype: str, batch: int) -> list[str]:
    """Launches and bytes of a whole count, and whose they are, in a line."""
    whole = total(moved.values())
    images = f"{batch} image" + "s" * (batch > 1)
    whose = "" if of == "eager" else f" of {of}"
    return [
        f"  {whole.launches:,} launches{whose}; in {dtype} {whole.bytes_each(dtype):,} bytes an image and "
        f"{whole.bytes_once(dtype):,} once, {digits(whole.flop_per_byte(dtype, batch) or 0)} FLOP a byte for {images}"
    ]


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


# ---- two revisions, and what was accepted


def accepted(acceptance: Acceptance) -> list[str]:
    """Accepted figures: seconds of each case with their interval over restarts, and what they were accepted for."""
    lines = []
    for case, figures in acceptance.cases.items():
        seconds = stats.over_visits([[reading.case] for reading in figures.readings], 2)
        interval = f" ({seconds.low:.4g} to {seconds.high:.4g})" if seconds.low and seconds.high else ""
        lines.append(f"{case}: {seconds.value:.4g} s{interval}, {seconds.n} restarts")
    return [*lines, f"accepted of {acceptance.commit[:12]}: {acceptance.reason}"]


def outcome(found: Outcome) -> list[str]:
    """A comparison of two revisions: what of the environment a reader must know, then a line a case, then all."""
    lines = [f"note: {warning}" for warning in found.warnings]
    for case, finding in found.findings.items():
        ratio = finding.ratio
        interval = f" ({ratio.low:.3f} to {ratio.high:.3f})" if ratio.low and ratio.high else ""
        line = f"{case}: {finding.verdict.value}, {ratio.value:.3f} times as long{interval}"
        line += f", {finding.restarts} restarts"
        if finding.verdict is stats.Verdict.UNDECIDED:
            line += f": {finding.reason}"
        lines.append("; ".join([line, *found.changes.get(case, ())]))
    lines += [f"{case}: left out, {why}" for case, why in found.left_out.items()]
    counts = Counter(finding.verdict.value for finding in found.findings.values())
    return [*lines, ", ".join(f"{count} {word}" for word, count in counts.items())]
