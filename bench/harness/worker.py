"""The process that measures: `python -m bench.harness.worker`, started by `bench/process.py` and by nobody else.

It reads one job a line from standard input and answers on the file descriptor named in BENCH_REPLY, in JSON: any
number of {"phase": "…"}, then {"result": …, "notes": […]} or {"failed": "…", "refused": bool, "fatal": bool}, either
with "spent" and "readings". A case that is killed, hangs or corrupts the CUDA context costs this process, and no other
case.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from importlib import import_module
from typing import Any

# Profiling one case must leave nothing behind that slows the launches of the next; read when torch is imported.
os.environ.setdefault("TEARDOWN_CUPTI", "1")

_start = time.perf_counter()

import torch  # noqa: E402 (the import is a phase of its own, and is timed)

from bench.cases import parse  # noqa: E402
from bench.errors import Refused, Wrong  # noqa: E402
from bench.harness import digests  # noqa: E402
from bench.harness.device import free, limit_memory, worker_device, worker_monitor  # noqa: E402
from bench.harness.prepare import Spent  # noqa: E402
from bench.jobs import HARNESSES  # noqa: E402
from bench.machine.provenance import host  # noqa: E402
from bench.protocols import Rules  # noqa: E402

# All of them now, so that importing is a phase of its own and no case is charged with it.
FUNCTIONS = {
    name: getattr(import_module(f"bench.harness.{harness.module}"), harness.function)
    for name, harness in HARNESSES.items()
}

IMPORT_S = time.perf_counter() - _start


def _die_with_parent() -> None:
    """Have the kernel end this process with its parent, or it would go on and disturb the next run."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def main() -> None:
    """Answer jobs until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle
    _die_with_parent()
    threads = host()["available_cores"]
    torch.set_num_threads(threads)
    if worker_device().type == "cpu":
        limit_memory()
    replies = os.fdopen(int(os.environ["BENCH_REPLY"]), "w")

    def answer(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    if worker_device().type == "cuda":
        torch.cuda.init()  # a driver too old for this torch is one error now, and not one a case
    answer(phase="ready", import_s=IMPORT_S, threads=threads)
    for line in sys.stdin:
        job, spent, started = json.loads(line), Spent(), time.perf_counter()
        before = asdict(worker_monitor().read())
        reply: dict[str, Any]
        try:
            asked, rules = [parse(text) for text in job["cases"]], Rules(**job["rules"])
            with digests.known(job.get("digests")):
                result, notes = FUNCTIONS[job["harness"]](
                    asked, rules, lambda text: answer(phase=text), spent
                )
            reply = {"result": result, "notes": notes}
        except (ValueError, Wrong) as error:
            refused = isinstance(error, Refused)
            reply = {"failed": _one_line(error), "refused": refused, "fatal": False}
        except Exception as error:  # whatever a model does must become a row, and a fresh worker
            reply = {"failed": f"{type(error).__name__}: {_one_line(error)}", "fatal": True}
        readings = {"before": before, "after": asdict(worker_monitor().read())}
        answer(**reply, spent={**spent.seconds, "all": time.perf_counter() - started}, readings=readings)
        free()


def _one_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()[
        :300
    ]


if __name__ == "__main__":
    main()
