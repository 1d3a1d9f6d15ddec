"""The process that measures: `python -m bench.harness.worker [HARNESS…]`, started by `bench/process.py` alone.

It reads one job a line from what was its standard input and answers on the file descriptor named in BENCH_REPLY, in
JSON: any number of {"phase": "…"}, then {"result": …, "notes": […]} or {"failed": "…", "refused": bool, "fatal":
bool}, either with "spent", "readings" and "changed", the settings of torch's that the case left other than they were.
Every answer carries the job's number. A harness that is a generator takes turns with its asker: what it yields is
answered as {"turn": …}, and the next line is what it goes on with. A case that is killed, hangs or corrupts the CUDA
context costs this process, and no other case; one that forks has no part in the talk with the parent, whose ends only
this process has.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from importlib import import_module
from typing import Any, TextIO

from bench.machine.variables import TEARDOWN, cuda_of_torch, tears_down_cupti

# Profiling one case must leave nothing behind that slows the launches of the next; read when torch is imported.
if tears_down_cupti(cuda_of_torch()):
    os.environ.setdefault(TEARDOWN, "1")

_start = time.perf_counter()
gc.disable()  # hardly anything that is imported is garbage, and looking for it takes a sixth of the time

import torch  # noqa: E402 (the import is a phase of its own, and is timed)

from bench.cases import parse  # noqa: E402
from bench.errors import Refused, Wrong  # noqa: E402
from bench.harness import digests  # noqa: E402
from bench.harness.device import (  # noqa: E402
    USUAL_FLAGS,
    changed,
    flags,
    free,
    limit_memory,
    worker_device,
    worker_monitor,
)
from bench.harness.spent import Spent  # noqa: E402
from bench.jobs import HARNESSES  # noqa: E402
from bench.machine.provenance import threads  # noqa: E402
from bench.protocols import Rules  # noqa: E402

# All that will be asked for, now, so that importing is a phase of its own and no case is charged with it.
FUNCTIONS = {
    name: getattr(import_module(f"bench.harness.{HARNESSES[name].module}"), HARNESSES[name].function)
    for name in sys.argv[1:] or HARNESSES
}

gc.freeze()  # what is there stays, and is not looked through later
gc.enable()

IMPORT_S = time.perf_counter() - _start


def _die_with_parent() -> None:
    """Have the kernel end this process with its parent, or it would go on and disturb the next run."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def _taken_over() -> tuple[TextIO, TextIO]:
    """The jobs and the answers, out of reach of models, whose standard input is empty, and of their forks."""
    jobs = os.fdopen(os.dup(0), "r")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    replies = os.fdopen(int(os.environ.pop("BENCH_REPLY")), "w")
    os.set_inheritable(replies.fileno(), False)

    def forget() -> None:
        """Turn both into nothing, in a process that a model forked."""
        void = os.open(os.devnull, os.O_RDWR)
        for ours in (jobs, replies):
            os.dup2(void, ours.fileno(), inheritable=False)
        os.close(void)

    os.register_at_fork(after_in_child=forget)
    return jobs, replies


def main() -> None:
    """Answer jobs until they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle
    _die_with_parent()
    torch.set_num_threads(threads())
    if worker_device().type == "cpu":
        limit_memory()
    jobs, replies = _taken_over()
    job: dict[str, Any] = {"number": 0}

    def answer(**message: Any) -> None:
        replies.write(json.dumps({**message, "number": job["number"]}) + "\n")
        replies.flush()

    if worker_device().type == "cuda":
        torch.cuda.init()  # a driver too old for this torch is one error now, and not one a case
    USUAL_FLAGS.update(flags())
    answer(phase="ready", import_s=IMPORT_S, threads=torch.get_num_threads())
    loaded = _loaded()
    for line in jobs:
        job, spent, started = json.loads(line), Spent(), time.perf_counter()
        before = asdict(worker_monitor().read())
        reply: dict[str, Any]
        during = None
        try:
            asked, rules = [parse(text) for text in job["cases"]], Rules(**job["rules"])
            with digests.known(job.get("digests")):
                told = FUNCTIONS[job["harness"]](asked, rules, lambda text: answer(phase=text), spent)
                result, notes = _in_turns(told, jobs, answer) if isinstance(told, Generator) else told
            during = result.pop("during", None)
            reply = {"result": result, "notes": notes}
        except (ValueError, Wrong) as error:
            refused = isinstance(error, Refused)
            reply = {"failed": _one_line(error), "refused": refused, "fatal": False}
        except Exception as error:  # whatever a model does must become a row, and a fresh worker
            reply = {"failed": f"{type(error).__name__}: {_one_line(error)}", "fatal": True}
        readings = {"before": before, "during": during, "after": asdict(worker_monitor().read())}
        took = {**spent.seconds, "all": time.perf_counter() - started}
        left = changed(USUAL_FLAGS, flags())
        answer(**reply, spent=took, readings=readings, loaded=loaded, changed=left)
        free()


def _in_turns(
    turns: Generator[Any, Any, tuple[dict[str, Any], list[str]]], jobs: TextIO, answer: Callable[..., None]
) -> tuple[dict[str, Any], list[str]]:
    """The result of a harness that takes turns, led from line to line."""
    try:
        told = next(turns)
        while True:
            answer(turn=told)
            line = jobs.readline()
            if not line:  # whoever asked is gone
                sys.exit()
            told = turns.send(json.loads(line))
    except StopIteration as end:
        result, notes = end.value
        return result, notes


def _loaded() -> dict[str, Any]:
    """Versions of the libraries as they were loaded, which a path can make others than those that pip installed."""
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return {
        "torch": str(torch.__version__),
        "cudnn": cudnn,
        "cuda": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
    }


def _one_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()[
        :300
    ]


if __name__ == "__main__":
    main()
