"""Which operator a kernel belongs to: by correlation, flow or carried id, on several threads, streams and ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.trace import timeline
from bench.trace.timeline import GRAPHED, NO_LAUNCH, NO_OPERATOR, Timeline
from tests.support.traces import Event, flow, kernel, launch, launched, operator, written


def read(folder: Path, *events: Event, **beside: Any) -> Timeline:
    return timeline.read(written(folder / "it.json", list(events), **beside))


def owners(found: Timeline) -> dict[str, str | None]:
    """The operator of each kernel, by the kernel's name."""
    return {work.name: work.span.name if work.span else None for work in found.works}


NESTED = [
    operator("aten::linear", 0, 100),
    operator("aten::t", 10, 10),
    operator("aten::addmm", 30, 50),
]


def test_a_kernel_belongs_to_the_innermost_operator_that_was_open_when_it_was_launched(tmp_path):
    found = read(tmp_path, *NESTED, launch(3, 40), kernel(3, 500, 70))
    assert owners(found) == {"gemm": "aten::addmm"}
    (work,) = found.works
    assert work.span is not None and work.span.operator is not None
    assert [each.name for each in work.span.operator.outwards()] == ["aten::addmm", "aten::linear"]


def test_the_order_of_events_in_the_file_does_not_matter(tmp_path):
    found = read(tmp_path, kernel(3, 500, 70), launch(3, 40), *reversed(NESTED))
    assert owners(found) == {"gemm": "aten::addmm"}


def test_operators_of_other_threads_are_not_open_there(tmp_path):
    others = [operator("aten::relu", 35, 20, tid=2), operator("aten::gelu", 35, 20, pid=11)]
    assert owners(read(tmp_path, *NESTED, *others, launch(3, 40), kernel(3, 500, 70))) == {
        "gemm": "aten::addmm"
    }
    found = read(tmp_path, *NESTED, *others, launch(3, 40, tid=2), kernel(3, 500, 70))
    assert owners(found) == {"gemm": "aten::relu"}


def test_a_thread_is_the_same_whether_its_number_is_written_as_text(tmp_path):
    assert owners(read(tmp_path, *NESTED, launch(3, 40, tid="1"), kernel(3, 500, 70))) == {
        "gemm": "aten::addmm"
    }


@pytest.mark.parametrize("category", ["cuda_runtime", "cuda_driver", "Runtime", "hip_runtime", "xpu_runtime"])
def test_launches_of_every_maker_are_known(tmp_path, category):
    found = read(tmp_path, *NESTED, {**launch(3, 40), "cat": category}, kernel(3, 500, 70))
    assert owners(found) == {"gemm": "aten::addmm"}


@pytest.mark.parametrize("category", ["kernel", "Kernel", "gpu_memcpy", "Memcpy", "gpu_memset", "Memset"])
def test_copies_and_fills_are_work_as_kernels_are(tmp_path, category):
    found = read(tmp_path, *NESTED, launch(3, 40), kernel(3, 500, 70, cat=category))
    assert [(work.took, work.why) for work in found.works] == [(70, None)]


@pytest.mark.parametrize("category", ["cuda_sync", "gpu_user_annotation", "overhead", "Trace"])
def test_waiting_and_annotations_are_none(tmp_path, category):
    found = read(tmp_path, *NESTED, launch(3, 40), kernel(3, 500, 70), kernel(3, 400, 90, cat=category))
    assert [work.took for work in found.works] == [70]


def test_where_the_launch_is_missing_the_flow_says_where_it_was(tmp_path):
    found = read(tmp_path, *NESTED, flow(3, 40), kernel(3, 500, 70))
    assert owners(found) == {"gemm": "aten::addmm"}


def test_an_arrow_from_forward_to_backward_is_no_launch(tmp_path):
    arrow = {**flow(3, 40), "cat": "fwdbwd", "name": "fwdbwd"}
    assert [work.why for work in read(tmp_path, *NESTED, arrow, kernel(3, 500, 70)).works] == [NO_LAUNCH]
    old = {**flow(3, 40), "cat": "async", "name": "launch"}
    assert owners(read(tmp_path, *NESTED, old, kernel(3, 500, 70))) == {"gemm": "aten::addmm"}


def test_where_both_are_missing_the_id_that_the_kernel_carries_does(tmp_path):
    events = [operator("aten::linear", 0, 100, id=1), operator("aten::addmm", 30, 50, id=2)]
    found = read(
        tmp_path, *events, kernel(3, 500, 70, external=2), kernel(4, 600, 5, name="lost", external=9)
    )
    assert owners(found) == {"gemm": "aten::addmm", "lost": None}
    assert [work.why for work in found.works] == [None, NO_LAUNCH]


def test_what_no_operator_launched_says_why(tmp_path):
    found = read(
        tmp_path,
        *NESTED,
        *(launch(1, 200), kernel(1, 300, 10, name="alone")),
        *(
            launch(2, 210, name="cudaGraphLaunch"),
            kernel(2, 310, 10, name="first"),
            kernel(2, 320, 10, name="second"),
        ),
        kernel(3, 500, 70, name="lost"),
    )
    assert {work.name: work.why for work in found.works} == {
        "alone": NO_OPERATOR,
        "first": GRAPHED,
        "second": GRAPHED,
        "lost": NO_LAUNCH,
    }


def test_operators_of_whole_microseconds_that_touch_are_side_by_side(tmp_path):
    events = [operator("aten::add", 0, 10), operator("aten::mul", 10, 10), launch(1, 12), kernel(1, 50, 5)]
    found = read(tmp_path, *events)
    (spans,) = found.threads.values()
    assert [span.parent and span.parent.name for span in spans] == [None, None, "aten::mul"]


def test_of_two_operators_with_the_same_times_the_one_that_began_first_is_outside(tmp_path):
    events = [
        operator("aten::copy_", 5, 5, id=8),
        operator("aten::to", 5, 5, id=7),
        launch(1, 6),
        kernel(1, 50, 5),
    ]
    assert owners(read(tmp_path, *events)) == {"gemm": "aten::copy_"}


RANKS = [
    event
    for rank, start in ((0, 0), (1, 1000))
    for event in (
        operator("aten::mm" if rank == 0 else "aten::add", start, 50, pid=100 + rank),
        launch(1, start + 10, pid=100 + rank),
        operator("aten::bmm" if rank == 0 else "aten::mul", start + 100, 50, pid=100 + rank),
        launch(2, start + 110, pid=100 + rank),
    )
]


def test_ranks_that_use_the_same_ids_in_one_file_are_kept_apart(tmp_path):
    """The first rank's kernels run late, when the second has launched its own under the same ids."""
    found = read(
        tmp_path,
        *RANKS,
        *(kernel(1, 600, 5, name="a0", pid=0), kernel(2, 1500, 5, name="b0", pid=0)),
        *(kernel(1, 1100, 5, name="a1", pid=1, device=1), kernel(2, 1600, 5, name="b1", pid=1, device=1)),
    )
    assert owners(found) == {"a0": "aten::mm", "b0": "aten::bmm", "a1": "aten::add", "b1": "aten::mul"}


def test_without_kernels_the_work_is_the_operators_own_time(tmp_path):
    found = read(tmp_path, *NESTED, operator("aten::relu", 200, 7))
    assert found.is_cpu
    assert {work.name: work.took for work in found.works} == {
        "aten::linear": 40,
        "aten::t": 10,
        "aten::addmm": 50,
        "aten::relu": 7,
    }


def test_an_annotation_takes_no_time_from_what_is_inside_it(tmp_path):
    found = read(tmp_path, operator("ProfilerStep#3", 0, 100), *launched("aten::relu", 10, 3)[:1])
    assert {work.name: work.took for work in found.works} == {"aten::relu": 4}


# ---- the output of a convolution whose settings were not recorded

CONV = operator("aten::conv2d", 0, 10, [[2, 3, 8, 8], [4, 3, 3, 3], []])


def told(found: Timeline) -> Any:
    return next(span.operator.output for span in found.threads["10", "1"] if span.operator)


def test_the_next_operator_that_takes_a_tensor_shows_the_output(tmp_path):
    after = [
        operator("aten::empty", 11, 1, [[]]),
        operator("aten::add_", 12, 1, [[], []]),
        operator("aten::batch_norm", 15, 5, [[2, 4, 4, 4], [4], [4]]),
    ]
    assert told(read(tmp_path, CONV, *after)) == (2, 4, 4, 4)


def test_a_next_operator_of_something_else_shows_nothing(tmp_path):
    after = [operator("aten::add", 12, 1, [[5, 5], [5, 5]]), operator("aten::relu", 15, 5, [[2, 4, 4, 4]])]
    assert told(read(tmp_path, CONV, *after)) is None


def test_the_backward_shows_the_output_unless_there_are_several(tmp_path):
    backward = [
        operator("aten::convolution_backward", 50, 5, [[2, 4, size, size], [2, 3, 8, 8], [4, 3, 3, 3]], tid=2)
        for size in (6, 4)
    ]
    assert told(read(tmp_path, CONV, backward[0])) == (2, 4, 6, 6)
    assert told(read(tmp_path, CONV, *backward)) is None
    old = operator(
        "aten::cudnn_convolution_backward", 50, 5, [[2, 3, 8, 8], [2, 4, 5, 5], [4, 3, 3, 3]], tid=2
    )
    assert told(read(tmp_path, CONV, old)) == (2, 4, 5, 5)
