"""A process a core, for slow work that comes in parts."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor


def pool(parts: int) -> ProcessPoolExecutor | None:
    """Processes for so many parts, at most one a core, forked from this one; None where one is enough."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    processes = min(parts, cores)
    return ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) if processes > 1 else None
