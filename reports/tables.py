"""What stands beside the tables of the studies: other counters, what was measured by hand, what was not measured."""

from __future__ import annotations

from bench.stats import Estimate
from bench.studies import STUDIES
from reports.about import about
from reports.lines import shown_lines, study_lines
from reports.measured import Results
from reports.pairs import study_pairs
from reports.rows import Measured, moment, when
from reports.table import DASH, Cell, Table, half_width, size, text
from reports.text import significant


def cross_checks(results: Results) -> Table:
    """Our counts beside those of other counters, with the difference and its reason."""
    newest = {str(counts.case): counts for counts in results.counts if counts.row["outcome"] == "ok"}
    rows = []
    for counts in newest.values():
        for check in counts.cross_checks:
            difference = "0" if check.macs == check.ours else f"{100 * check.difference:+.2f} %"
            rows.append(
                [
                    text(counts.case.title),
                    size(counts.case),
                    text(check.counter),
                    Cell(f"{check.macs / 1e9:.3f}", check.macs),
                    text(check.compared_with),
                    Cell(f"{check.ours / 1e9:.3f}", check.ours),
                    Cell(difference, abs(check.difference)),
                    text(check.why),
                ]
            )
    headers = ["Model", "Size", "counter", "its GMACs", "our convention", "our GMACs", "difference", "why"]
    return Table(
        "counters",
        "Other counters",
        f"{sum(row[6].text == '0' for row in rows)} of {len(rows)} counts agree to the last MAC.",
        headers,
        rows,
        [False, True, False, True, False, True, True, False],
    )


def elsewhere(results: Results) -> Table:
    """Timings and comparisons that no study asked for, unless a table above shows them already."""
    shown: set[int] = set()
    for name in filter(lambda name: STUDIES[name].is_timed, results.studies):
        shown |= {id(line.timing.row) for line in shown_lines(results, name) if line.timing}
        shown |= {id(pair.comparison.row) for pair in study_pairs(results, name) if pair.comparison}

    def by_hand(measured: Measured) -> bool:
        return measured.ok and not measured.row.get("study") and id(measured.row) not in shown

    rows = []
    for timing in filter(by_hand, results.timings["throughput"]):
        speed = timing.images_per_s
        rows.append(_row(timing, timing.row["case"], f"{significant(speed.value)} images/s", speed))
    for timing in filter(by_hand, results.timings["latency"]):
        value = f"{significant(1e3 * timing.estimate.value)} ms"
        rows.append(_row(timing, timing.row["case"], value, timing.estimate))
    for each in filter(by_hand, results.comparisons):
        value = f"{each.estimate.value:.3f} × the time an image"
        rows.append(_row(each, f"{each.case} against {each.other}", value, each.estimate))
    headers = ["case", "harness", "value", "± 95 %", "protocol", "when"]
    return Table("elsewhere", "Measured by hand", "", headers, rows, [False, False, True, True, False, False])


def _row(measured: Measured, what: str, value: str, estimate: Estimate) -> list[Cell]:
    return [
        text(what),
        text(measured.row["harness"]),
        Cell(value, estimate.value),
        half_width(estimate),
        text(measured.protocol),
        Cell(moment(measured.row) or DASH, when(measured.row)),
    ]


def not_measured(results: Results) -> Table:
    """What has no number, and why: failed rows, and what the studies that were run still lack."""
    found: dict[tuple[str, str], str] = {}
    for row in results.rows:  # oldest first, so that a success takes back an earlier failure
        key = str(row["case"]), row["harness"]
        found.pop(key, None)
        if row["outcome"] != "ok":
            found[key] = str(row.get("reason") or "no reason given")
    for name in results.studies:
        # a quick run leaves most of a long one out, and its table says how much is left
        if about(name).is_long or not STUDIES[name].is_timed:
            continue
        for line in study_lines(results, name):
            if line.timing is None:
                found[str(line.case), STUDIES[name].harness] = "not measured yet"
        for pair in study_pairs(results, name):
            if pair.comparison is None:
                found[f"{pair.first.case} / {pair.second.case}", "compare"] = "not measured yet"
    rows = [[text(case), text(harness), text(why)] for (case, harness), why in found.items()]
    return Table("missing", "Not measured", "", ["case", "harness", "why"], rows, [False] * 3)
