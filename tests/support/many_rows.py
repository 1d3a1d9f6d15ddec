"""A benchmark: the report over many rows of 64 devices.

    python -m tests.support.many_rows FOLDER ROWS

It writes the rows to FOLDER/results/, unless they are there, runs `python -m reports` on them, and prints what that
took: seconds of wall clock and of CPU, and the most memory of all its processes together. The rows are the H100's of
results/reference/, as they are but for key, size, batch and device: nothing was measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import record
from bench.machine.provenance import ROOT
from reports import beside, results

DEVICES = 64
LOOK_S = 2.0  # between two looks at the memory, each of which takes a tenth of a second


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


def read(root: Path) -> dict[str, int]:
    """Read and check the rows of every device, and sum each up; how many there were, and problems."""
    found = {"rows": 0, "problems": 0}
    for source in results.sources(root):
        of_device = source.read()
        assert beside.device_of(of_device).speeds
        found["rows"] += len(of_device.rows)
        found["problems"] += len(of_device.problems)
    return found


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


def report(root: Path) -> dict[str, Any]:
    """The cost of `python -m reports` over all devices under `root`, the folder of results."""
    began, most = time.perf_counter(), 0.0
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "reports"], cwd=root.parent, env=environ, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            most = max(most, memory_gb(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_S)
    if process.returncode:
        raise SystemExit(process.returncode)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "memory_gb": round(most, 2),
        "gb": round(sum(os.path.getsize(path) for path in root.glob("*/*.jsonl")) / 1e9, 2),
    }


def memory_gb(pid: int) -> float:
    """The memory of a process and of those that it started, what they share counted once; 0 once they have ended."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return own * 1024 / 1e9 + sum(memory_gb(int(child)) for child in children)
    return 0.0


def main(folder: Path, count: int) -> None:
    """The benchmark."""
    root = folder / "results"
    if not root.exists():
        unfinished = folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished, count)
        unfinished.rename(root)
    lines = sum(path.read_bytes().count(b"\n") for path in root.glob("*/*.jsonl"))
    print(json.dumps({"rows": lines, **report(root)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
