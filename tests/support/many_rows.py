"""A benchmark: many rows over 64 devices, read, checked and told, a device after the other.

    python -m tests.support.many_rows FOLDER ROWS

It writes the rows, unless FOLDER has them, and prints seconds of CPU, the function calls, and the peak of memory. The
rows are the H100's of results/reference/, as they are but for key, size, batch and device: nothing was measured.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import record
from bench.machine.provenance import ROOT
from reports import chapters, results

DEVICES = 64


def write(root: Path, count: int) -> None:
    """Write so many rows under `root`, in a folder a device."""
    base = record.read(ROOT / "results" / "reference" / "h100").rows
    base = [row for row in base if row["outcome"] == "ok" and row["harness"] in ("throughput", "macs")]
    for device in range(DEVICES):
        folder = root / f"device-{device}"
        folder.mkdir(parents=True)
        with (folder / "table1.jsonl").open("wb") as file:
            for place in range(device, count, DEVICES):
                number = place // DEVICES
                round_, which = divmod(number, len(base))
                row, key = base[which], f"{number:016x}"
                size, batch = 32 * (round_ % 20 + 1), round_ // 20 + 1
                case = row["case"].replace("@224", f"@{size}").replace(":b64", f":b{batch}")
                about = {**row["device"], "uuid": f"SYNTHETIC-{device}", "name": f"SYNTHETIC {device}"}
                file.write(record.line_of({**row, "key": key, "group": key, "case": case, "device": about}))


def read(root: Path) -> dict[str, Any]:
    """Read, check and tell the rows of every device; what that took."""
    before, found, problems = _memory_gb(), 0, 0
    began = time.process_time()
    for key in results.folders(root):
        of_device = results.load(root, key)
        told = chapters.tell(of_device)
        assert all(chapter.tables for chapter in told if chapter.shown)
        found += len(of_device.rows)
        problems += len(of_device.problems)
        del of_device, told
        gc.collect()
    took = time.process_time() - began
    return {
        "rows": found,
        "problems": problems,
        "cpu_s": took,
        "memory_gb": _memory_gb(),
        "before_gb": before,
    }


def calls(root: Path) -> int:
    """The calls of Python functions that reading makes."""
    counted = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event == "call"

    sys.setprofile(count)
    try:
        read(root)
    finally:
        sys.setprofile(None)
    return counted


def _memory_gb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def lines(root: Path, count: int) -> Iterator[str]:
    """The benchmark."""
    if not root.exists():
        write(root, count)
    size = sum(os.path.getsize(path) for path in root.glob("*/*.jsonl"))
    yield json.dumps({**read(root), "gb": size / 1e9})


if __name__ == "__main__":
    for line in lines(Path(sys.argv[1]), int(sys.argv[2])):
        print(line)
