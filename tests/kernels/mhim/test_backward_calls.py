"""Calls of MHIM's backward compiled ahead of time: launches whose programs and rounds can be counted; their cost."""

from dataclasses import replace

import pytest

from kernels.emsa_upsample import backward_calls as of_core
from kernels.emsa_upsample import backward_tuning as core
from kernels.emsa_upsample.backward_tuning import Attention
from kernels.emsa_upsample.calls import BATCH, Problem
from kernels.gpus import STACKS
from kernels.mhim import backward_calls, backward_tuning, cost

T2 = Problem(96, 4, 2, (28, 28))  # stage 2 of ResTv2-T at 224: 784 queries, 49 keys, two heads
L1 = Problem(64, 8, 2, (200, 336))  # stage 1 of ResTv2-L at 800×1344: 67,200 queries, 1050 keys


def call(problem, **kind):
    shape = (problem.head_dim, problem.reduction, problem.heads, problem.grid[0] * problem.grid[1])
    config = replace(
        backward_tuning.choose(90, *shape), attention=Attention(64, 64, 4), scores=Attention(32, 64, 4)
    )
    return backward_calls.call(90, "fp16", "HGMMA", problem, config, **kind)


def launched(call):
    return {each.kernel.name: (each.programs, dict(each.trips)) for each in call.launches}


def test_every_tile_is_somebodys():
    """13 tiles of 64 queries; for 64 images and two heads on 132 multiprocessors two splits, of 7 tiles and of 6.

    Before the mixing they are 25 tiles of 32.
    """
    found = launched(call(T2))
    assert list(found) == ["mhim_sums", "mhim_maps", "mhim_scores", "_statistics", "_upsample", "_keys"]
    assert found["mhim_sums"][0] == BATCH * 2 * 13
    for name, inner, turns in (("mhim_maps", "_mixed.other", 7), ("mhim_scores", "mhim_scores.other", 13)):
        programs, trips = found[name]
        assert (programs, trips[f"{name}.turn"], trips[inner]) == (BATCH * 2 * 2, turns, 2)
    assert found["_keys"][1]["_keys._"] == 2


def test_without_a_branch_its_kernels_are_left_out():
    alone, whole = call(T2, has_branch=False), call(T2)
    assert list(launched(alone)) == ["mhim_sums", "mhim_maps", "mhim_scores", "_keys"]
    assert dict(alone.launches[-1].kernel.constants)["PIECES"] == 0
    parameters = 192 * (10 * 16 + 2)
    assert whole.least_bytes - alone.least_bytes == 2 * 2 * parameters
    assert alone.moved_bytes < whole.moved_bytes


def test_the_branch_is_the_cores():
    config = core.choose(90, 96, 4, 49)
    of_branch = {each.kernel.name: each for each in of_core.call(90, "fp16", "HGMMA", T2, config).launches}
    for each in call(T2).launches:
        if each.kernel.name in ("_statistics", "_upsample"):
            assert each == of_branch[each.kernel.name]


def test_many_keys_need_a_kernel_for_the_queries():
    found = launched(call(L1))
    tiles, blocks = 2100, 17
    assert found["mhim_queries"] == (
        BATCH * 2 * tiles,
        {"mhim_queries.block": blocks, "mhim_queries.other": 2, "_mixed.other": 2},
    )
    assert found["mhim_sums"][1]["mhim_sums.block"] == blocks
    assert found["mhim_maps"][0] % (BATCH * 2 * blocks) == 0


def test_the_least_bytes_are_those_of_tensors_and_their_gradients():
    alone = call(T2, has_branch=False)
    queries, keys = BATCH * 784, BATCH * 49
    assert alone.least_bytes == 2 * (192 * (3 * queries + 4 * keys) + 2 * 4) < alone.moved_bytes


def test_the_products_that_are_made():
    """Scores of both heads for each of both, and dO vᵀ, twice; dv, the scores again, dq, dk. Many keys: once more."""
    once = 784 * 49 * 192
    assert cost.executed_backward_products(1, (28, 28), 192, 2, 4, several=False) == (2 * (2 + 1) + 4) * once
    assert cost.executed_backward_products(1, (28, 28), 192, 2, 4, several=True) == (3 * 2 + 6) * once


@pytest.mark.parametrize("quick", [True, False])
def test_every_stage_with_several_heads_is_compiled_with_and_without_the_branch(quick):
    assert not list(backward_calls.calls("cuda12", quick))
    todo = list(backward_calls.calls("cuda13", quick))
    assert {call.capability for call in todo} == {*STACKS["cuda13"]}
    for call in todo:
        assert core.refusal((3, 6), call.capability, call.precision) is None
    defaults = [(call.operator, call.capability, call.precision, call.of) for call in todo if call.is_default]
    assert len(defaults) == len({*defaults})
    at_224 = [
        call for call in todo if call.is_default and call.of.endswith("at 224") and call.capability == 90
    ]
    assert len(at_224) == 2 * (3 + 4) * (1 if quick else 2)  # stages 2 to 4 of T, 1 to 4 of L
