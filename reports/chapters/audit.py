"""The audit of the paper's speeds: beside the V100's peak, the best published rates, and what others print."""

from __future__ import annotations

from collections.abc import Iterator

from bench.cases import parsed
from reports import audit, audit_tables, columns, printed, published
from reports.audit import Finding
from reports.chapter import Chapter, Told
from reports.printed import PrintedRow
from reports.published import Speed
from reports.results import Results
from reports.tables import Table

TABLES = ("table1", "table3", "table4", "table5", "table6", "table7")  # in which speeds are printed


def paper_speeds() -> list[Speed]:
    """Every speed that the paper prints, of fp32: it follows Swin's protocol, which says so."""
    return [speed for name in TABLES for row in printed.rows(name) for speed in _speed(row)]


def _speed(row: PrintedRow) -> Iterator[Speed]:
    """The speed of a row; variants of a family have the same options."""
    case, numbers = parsed(row.case), row.numbers
    rate = numbers.get("throughput") or numbers.get("ms")
    if rate:
        yield Speed(
            row.name,
            rate.convention.lower(),
            rate.value if rate.unit == "images/s" else 1e3 / rate.value,
            case=row.case,
            source=row.source,
            family=f"{case.model.partition('_')[0]} {sorted(case.model_options.items())}",
            size=case.shape,
            macs=numbers["macs"].value if "macs" in numbers else None,
        )


def findings(results: Results | None) -> list[Finding]:
    """The findings on the paper's speeds."""
    return audit.audit(paper_speeds(), results, published.speeds())


def tables(told: Told) -> list[Table]:
    """The tables of what is odd, of other sources, and of what is plausible."""
    return [*audit_tables.parts(findings(told.results))]


CHAPTERS = (
    Chapter(
        heading="The printed speeds",
        nav="Audit",
        text="What the paper's speeds ask of a V100, beside what a V100 can do, and where their numbers are from. Each "
        "is taken to be of fp32, as in Swin's protocol, and of images of the size that its FLOPs are of. Table 5 names "
        "that size for its FLOPs alone: its speeds are impossible at it, and may be possible of smaller images.",
        tables=tables,
        summary=lambda told: (
            f"Audit of printed speeds: {audit_tables.summary(findings(told.results))} "
            "`python -m reports audit` lists them."
        ),
        files=lambda told: {"audit.csv": columns.to_csv(audit_tables.CSV, findings(told.results))},
        template="audit.html",
        own_anchor="printed-speeds",
    ),
)
