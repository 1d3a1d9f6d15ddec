"""Names of the operators that ran on a CPU, the longest first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def recording(ran: list[str]) -> Iterator[None]:
    """Records the operators that run meanwhile; `ran` has their names in the end."""
    from torch.profiler import ProfilerActivity, profile  # not above: most processes record nothing

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        yield
    recorded: Any = profiled.profiler
    # as Kineto gives them: the tables that PyTorch makes of them take longer than the call
    took = own_times(
        sorted(
            (event.start_ns(), -event.duration_ns(), event.start_thread_id(), event.name())
            for event in recorded.kineto_results.events()
            if not event.is_user_annotation()
        )
    )
    ran[:] = sorted((name for name, time in took.items() if time), key=lambda name: -took[name])


@contextmanager
def recording_next_call(ran: list[str], model: nn.Module) -> Iterator[None]:
    """Records the operators of a model's next call, as `recording`, and of nothing else that runs meanwhile."""
    with ExitStack() as call:

        def begin(*_: object) -> None:
            begins.remove()
            call.enter_context(recording(ran))

        def end(*_: object) -> None:
            ends.remove()
            call.close()

        begins, ends = model.register_forward_pre_hook(begin), model.register_forward_hook(end)
        try:
            yield
        finally:
            begins.remove()
            ends.remove()


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
