"""Answers for programs: what `--json`, `--csv` and `--md` print, a flat record a row, as answers.schema.json has it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench import describe, stats, traffic, visits
from bench.cases import parse
from bench.jobs import HARNESSES
from bench.record import Row
from bench.stats import Estimate
from bench.studies import Study
from bench.text import inert, printable
from bench.traffic import Traffic

if TYPE_CHECKING:
    from bench.regress import Outcome

VERSION = 1  # of the schema: raised where a field goes or changes its meaning, not where one is added
Record = dict[str, Any]


def document(command: str, records: Sequence[Record], **more: Any) -> dict[str, Any]:
    """The document that a command prints with `--json`."""
    return {"version": VERSION, "command": command, **more, "records": list(records)}


# ---- a row as a record


def record_of(row: Row, convention: str = "core") -> Record:
    """A row with what a person is told of it, under the names of FIELDS; None is unknown, or does not apply.

    Args:
        convention: the one in which MACs are given.
    """
    return {name: field(row) for name, field in FIELDS.items()} | _counted(row, convention)


def _at(*path: str) -> Callable[[Row], Any]:
    """The value of a row under these keys; None where there is none."""

    def value(row: Row) -> Any:
        found: Any = row
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    return value


def _case(place: int) -> Callable[[Row], str | None]:
    """The first or the second case of a row; None where it has no such."""

    def text(row: Row) -> str | None:
        cases = row["case"].split(" / ")
        return cases[place] if place < len(cases) else None

    return text


def _batch(row: Row) -> int | None:
    ran = _at("result", "batch")(row)
    ran = ran[0] if isinstance(ran, list) else ran
    return int(ran) if ran else _asked(row, "batch")


def _asked(row: Row, part: str) -> Any:
    """The part of a row's first case; None for a row of the machine itself."""
    return None if row["harness"] == "peaks" else getattr(parse(row["case"].split(" / ")[0]), part)


def _times(row: Row) -> Estimate | None:
    """Seconds of an iteration; None for a row that times no case."""
    return visits.seconds(row) if row["outcome"] == "ok" and HARNESSES[row["harness"]].is_timed else None


def _ratios(row: Row) -> Estimate | None:
    return visits.ratio(row) if row["outcome"] == "ok" and row["harness"] == "compare" else None


def _ms(end: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        times = _times(row)
        return None if times is None else getattr(times.map(lambda seconds: 1e3 * seconds), end)

    return value


def _rate(end: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        times = _times(row)
        batch = _batch(row) or 1
        return None if times is None else getattr(times.map(lambda seconds: batch / seconds), end)

    return value


def _ratio(end: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        ratio = _ratios(row)
        return None if ratio is None else getattr(ratio, end)

    return value


def _samples(row: Row) -> int | None:
    if row["outcome"] != "ok":
        return None
    taken = row["result"].get("samples_s") if _times(row) else row["result"].get("blocks")
    return len(taken) if _times(row) or _ratios(row) else None


def _visits(row: Row) -> int | None:
    if not (_times(row) or _ratios(row)):
        return None
    return len(row["result"].get("visits_s") or row["result"].get("visits_blocks") or [row])


def _interval(row: Row) -> str | None:
    """The meaning of an interval's ends, or the reason why there are none."""
    estimate = _times(row) or _ratios(row)
    if estimate is None:
        return None
    if estimate.low is None:
        return f"none: {estimate.why}" if estimate.why else "none"
    return "the spread within one run" if estimate.within_run else "95 % over visits"


def _verdict(row: Row) -> str | None:
    ratio = _ratios(row)
    return stats.verdict(ratio)[0].value if ratio else None


def _percentiles(row: Row) -> dict[str, float] | None:
    if not _times(row):
        return None
    return {name: 1e3 * seconds for name, seconds in stats.percentiles(row["result"]["samples_s"]).items()}


def _modules(row: Row) -> dict[str, float] | None:
    return describe.modules_ms(row["result"]) or None if _times(row) else None


def _device_share(place: int) -> Callable[[Row], float | None]:
    """The share of the first or the second case of a row."""

    def share(row: Row) -> float | None:
        shares = visits.device_shares(row)
        return shares[place] if place < len(shares) else None

    return share


FIELDS: dict[str, Callable[[Row], Any]] = {
    # what was asked
    "study": _at("study"),
    "harness": _at("harness"),
    "case": _case(0),
    "other_case": _case(1),
    "batch": _batch,
    "dtype": lambda row: _asked(row, "dtype"),
    # how it went
    "outcome": _at("outcome"),
    "reason": _at("reason"),
    "notes": visits.notes,
    # what was measured
    "images_per_s": _rate("value"),
    "images_per_s_low": _rate("low"),
    "images_per_s_high": _rate("high"),
    "ms": _ms("value"),
    "ms_low": _ms("low"),
    "ms_high": _ms("high"),
    "ratio": _ratio("value"),
    "ratio_low": _ratio("low"),
    "ratio_high": _ratio("high"),
    "verdict": _verdict,
    "interval": _interval,
    "percentiles_ms": _percentiles,
    "samples": _samples,
    "visits": _visits,
    "peak_memory_bytes": _at("result", "peak_memory_bytes"),
    "device_share": _device_share(0),
    "other_device_share": _device_share(1),
    "joules_per_image": _at("result", "joules_per_image"),
    "modules_ms": _modules,
    "check_against": _at("result", "check", "against"),
    "check_error": _at("result", "check", "error"),
    "check_bound": _at("result", "check", "bound"),
    "peak_tflops": _at("result", "tflops"),
    "peak_gb_per_s": _at("result", "bandwidth_gb_s"),
    # by what
    "protocol": _at("protocol", "name"),
    "when": _at("when"),
    "device": _at("device", "key"),
    "device_name": _at("device", "name"),
    "device_uuid": _at("device", "uuid"),
    "threads": _at("environment", "threads"),
    "torch": _at("environment", "versions", "torch"),
    "commit": _at("environment", "source", "commit"),
    "dirty": _at("environment", "source", "dirty"),
    "row": _at("key"),
    # the blocks of an analysis of branches, and by block what was found
    "blocks": _at("result", "blocks"),
    "cka": _at("result", "cka"),
    "frequencies": _at("result", "frequencies"),
    "log_amplitude": _at("result", "log_amplitude"),
}


def _counted(row: Row, convention: str) -> Record:
    """Parameters and MACs of a row that counted; None for the others."""
    counts = row["result"] if row["outcome"] == "ok" and "conventions" in (row["result"] or {}) else None
    return {
        "parameters": counts and counts["parameters"],
        "convention": counts and convention,
        "macs": counts and counts["conventions"][convention]["macs"],
        "macs_by_operator": counts and counts["conventions"][convention]["by_operator"],
        **_moved(row, counts or {}),
        "not_counted": counts and counts["uncounted"],
        "cross_checks": counts and counts["cross_checks"],
    }


def _moved(row: Row, counts: Mapping[str, Any]) -> Record:
    """Launches and bytes of a row that counted them, in the case's dtype, or fp32 where it has none."""
    parts = traffic.of_row(counts.get("traffic"))
    whole = flat_traffic(traffic.total(parts.values()), row) if parts else {}
    return {
        "launches": whole.get("launches"),
        "bytes_per_image": whole.get("bytes_per_image"),
        "bytes_once": whole.get("bytes_once"),
        "flop_per_byte": whole.get("flop_per_byte"),
        "traffic_by_operator": {name: flat_traffic(part, row) for name, part in parts.items()} or None,
        "traffic_of": counts["traffic"]["of"] if parts else None,
    }


def flat_traffic(part: Traffic, row: Row) -> Record:
    """The record of what calls move: with bytes, and FLOP for each, in the dtype and the batch of a row's case."""
    dtype = _asked(row, "dtype") or "fp32"
    return {
        **part._asdict(),
        "bytes_per_image": part.bytes_each(dtype),
        "bytes_once": part.bytes_once(dtype),
        "flop_per_byte": part.flop_per_byte(dtype, _asked(row, "batch") or 1),
    }


def records_of_study(study: Study) -> list[Record]:
    """A study as records: one for each of its cases, and each of its pairs, by kind of device."""
    records = []
    for kind in ("cpu", "cuda"):
        asked: list[tuple[str, str, str | None]]
        asked = [(study.harness, str(case), None) for case in study.parsed(kind, False)]
        asked += [("compare", str(one), str(other)) for one, other in study.compared(kind, False)]
        records += [
            {
                "study": study.name,
                "question": study.question,
                "device_kind": kind,
                "harness": harness,
                "case": case,
                "other_case": other,
            }
            for harness, case, other in asked
        ]
    return records


def records_of_outcome(outcome: Outcome) -> list[Record]:
    """A comparison of two revisions as records, one a case; one that was left out has no verdict, but a reason."""
    return [
        {
            "case": case,
            "verdict": finding.verdict.value,
            "ratio": finding.ratio.value,
            "ratio_low": finding.ratio.low,
            "ratio_high": finding.ratio.high,
            "practical": finding.practical,
            "restarts": finding.restarts,
            "reason": finding.reason,
            "changes": outcome.changes.get(case, []),
            "notes": outcome.warnings,
        }
        for case, finding in outcome.findings.items()
    ] + [
        dict.fromkeys(("verdict", "ratio", "ratio_low", "ratio_high", "practical", "restarts"))
        | {"case": case, "reason": why, "changes": [], "notes": outcome.warnings}
        for case, why in outcome.left_out.items()
    ]


# ---- records as a table


def to_csv(records: Sequence[Record]) -> str:
    """The records as CSV with a header; what is nowhere known has no column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = _known(records)
    writer.writerow(names)
    writer.writerows([[inert(_cell(record[name])) for name in names] for record in records])
    return file.getvalue()


def to_markdown(records: Sequence[Record]) -> str:
    """The records as a table in GitHub's Markdown: of one record a line a field, of several a line each."""
    names = _known(records)
    if len(records) == 1:
        lines = [["field", "value"], *([name, _cell(records[0][name])] for name in names)]
    else:
        lines = [names, *([_cell(record[name]) for name in names] for record in records)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(map(_escaped, line))} |\n" for line in lines)


def _known(records: Sequence[Record]) -> list[str]:
    """The fields that are known of at least one record."""
    names: Iterable[str] = dict.fromkeys(name for record in records for name in record)
    return [name for name in names if any(record.get(name) not in (None, [], {}) for record in records)]


def _cell(value: Any) -> str:
    """A value as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_cell(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "; ".join(map(_cell, value))
    return printable(str(value))


def _escaped(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\|<>*[]`" else character for character in text)
