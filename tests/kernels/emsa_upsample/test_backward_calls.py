"""What is compiled ahead of time of the backward: launches whose programs and rounds can be counted."""

import pytest

from kernels.emsa_upsample import backward_calls, backward_tuning
from kernels.emsa_upsample.backward_tuning import Attention, Branch, Config
from kernels.emsa_upsample.calls import BATCH, Problem
from kernels.gpus import STACKS

CONFIG = Config(Attention(64, 64, 4, per_sm=1), Branch(16, 16, 16, 4), Branch(16, 16, 16, 4, per_sm=2))


def launches(problem, capability=90):
    call = backward_calls.call(capability, "fp16", "HGMMA", problem, CONFIG)
    return call, {launch.kernel.name: (launch.programs, dict(launch.trips)) for launch in call.launches}


def test_every_tile_is_somebodys():
    """Stage 1: 49 tiles of 64 queries; 49 cells of 64 pixels, which are four pieces, in six blocks of 16 channels."""
    call, launched = launches(Problem(96, 8, 1, (56, 56)))
    assert launched.keys() == {"_attention", "_statistics", "_upsample", "_keys"}
    programs, trips = launched["_attention"]
    # 132 multiprocessors for 64 images: two splits of 25 tiles, the last one short
    assert (programs, trips["_attention.turn"]) == (2 * BATCH, 25)
    assert launched["_statistics"] == (BATCH * 49 // 16 * 4, {"_statistics.block": 6})
    # 264 programs for 24 pieces and blocks: eleven for 196 tiles of 16 patches
    assert launched["_upsample"] == (11 * 24, {"_upsample.turn": 18})
    assert launched["_keys"][0] == BATCH * 4 * 2
    assert call.results == BATCH * 56 * 56


def test_many_keys_need_a_kernel_before():
    _, launched = launches(Problem(96, 8, 1, (200, 336)))
    assert launched["_queries"] == (BATCH * 1050, {"_queries.block": 17})


def test_windows_have_the_tiles_of_their_own_queries():
    """200×336 in windows of 64: 4×6, of which fifteen are whole, and patches of one cell of 8×8."""
    call, launched = launches(Problem(96, 8, 1, (200, 336), window=64))
    programs, trips = launched["_attention"]
    assert programs == BATCH * 24  # as many as fill 132 multiprocessors, without splits
    # tiles of 64 queries: 64, 16 and 8 of 64×64, 64×16 and 8×64; 8×16 has two
    assert trips["_attention.turn"] == (15 * 64 + 3 * 16 + 5 * 8 + 2) / 24
    assert launched["_statistics"][0] == BATCH * 25 * 42 // 16 * 4
    assert launched["_keys"][0] == BATCH * 24 * 4 * 2
    assert call.results == BATCH * 200 * 336


def test_the_least_bytes_are_those_of_tensors_and_their_gradients():
    call, _ = launches(Problem(96, 2, 4, (14, 14)))
    queries, keys, channels = BATCH * 196, BATCH * 49, 384
    elements = channels * (3 * queries + 4 * keys) + 2 * channels * (10 * 4 + 2)
    assert call.least_bytes == 2 * elements < call.moved_bytes


@pytest.mark.parametrize("quick", [True, False])
def test_nothing_refused_is_compiled(quick):
    assert not list(backward_calls.calls("cuda12", quick))
    todo = list(backward_calls.calls("cuda13", quick))
    assert {call.capability for call in todo} == {*STACKS["cuda13"]}
    for call in todo:
        assert backward_tuning.refusal((3, 6), call.capability, call.precision) is None
    defaults = [(call.capability, call.precision, call.of) for call in todo if call.is_default]
    assert len(defaults) == len({*defaults})
