"""The operators that ran on a CPU, and how long each took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def recording(took: dict[str, float]) -> Iterator[None]:
    """Records the operators that run meanwhile: in the end `took` has the nanoseconds of each besides, by name."""
    from torch.profiler import ProfilerActivity, profile  # not above: most processes record nothing

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        yield
    recorded: Any = profiled.profiler
    # as Kineto gives them: the tables that PyTorch makes of them take longer than the call
    calls = sorted(
        (event.start_ns(), -event.duration_ns(), event.start_thread_id(), event.name())
        for event in recorded.kineto_results.events()
        if not event.is_user_annotation()
    )
    for name, time in own_times(calls).items():
        if not name.startswith(("profiler::", "[")):  # of an annotation; of the memory
            took[name] = took.get(name, 0.0) + time


def own_times(calls: Iterable[tuple[int, int, int, str]]) -> dict[str, int]:
    """The time of calls by name, less that of what they called.

    Args:
        calls: start, length below zero, thread and name of each, sorted.
    """
    took: dict[str, int] = defaultdict(int)
    around: dict[int, list[tuple[int, str]]] = defaultdict(list)  # by thread: ends and names of open calls
    for start, less, thread, name in calls:
        outer = around[thread]
        while outer and outer[-1][0] <= start:
            outer.pop()
        if outer:
            took[outer[-1][1]] += less
        took[name] -= less
        outer.append((start - less, name))
    return took
