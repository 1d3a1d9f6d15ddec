"""What a quick run on the CPU has to leave, for .ci/run: `python3 tests/ci_check.py results/cpu/report`."""

import csv
import sys
from pathlib import Path

TABLE1_ROWS = 24


def problems(report: Path) -> list[str]:
    """What is missing from a report folder; empty when it is whole."""
    missing = [name for name in ("index.html", "table1.md", "table1.csv") if not (report / name).is_file()]
    if not list(report.glob("*.svg")):
        missing.append("any *.svg")
    if missing:
        return [f"{report} lacks {name}" for name in missing]
    with (report / "table1.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [
        f"{row['case']} has no measured throughput" for row in rows if not float(row["images_per_s"] or 0) > 0
    ]
    if len(rows) != TABLE1_ROWS:
        found.append(f"table1.csv has {len(rows)} rows, not {TABLE1_ROWS}")
    return found


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]} is whole: {TABLE1_ROWS} rows of Table 1, all measured")
    sys.exit(bool(found))
